"""One request's fault stays its own: what is checked before it joins others, who is guilty where a forward fails."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from acd_core.artifacts.pair import beyond
from acd_core.engine.branch import Branch
from acd_core.engine.memory import is_out_of_memory
from acd_core.engine.request import Request
from acd_core.errors import EngineError, ModelError, UsageError
from acd_core.model.backbone import Backbone

Item = TypeVar("Item")
_HINT = "Tokenizer and model belong together: see acd doctor --model M; or grow the model with resize_token_embeddings."


def embedding_rows(backbone: Backbone) -> int:
    """How many ids the model can embed. Not its vocab_size, which counts logits, and is what a config says."""
    embedding = backbone.model.get_input_embeddings()
    rows = getattr(embedding, "num_embeddings", None)
    return rows if isinstance(rows, int) else int(embedding.weight.shape[0])


def logit_width(backbone: Backbone) -> int | None:
    """How many logits the model gives, where its output layer tells."""
    head = getattr(backbone.model, "get_output_embeddings", lambda: None)()
    width = getattr(head, "out_features", None)
    return width if isinstance(width, int) else None


def check_request(request: Request, backbone: Backbone, rows: int, width: int | None = None) -> None:
    """Raise ModelError for an id beyond the `rows` of the embedding, UsageError for soft vectors that do not fit it.

    width: of the logits, where known; a repetition penalty looks the ids of a prompt up in them.
    In a forward that others share, either would fail theirs too; on a GPU an index out of range ends its whole process.
    """
    gating = request.gating
    branches = [*request.branches, *(gating.branches if gating is not None else ())]
    for branch in {id(each): each for each in branches}.values():
        check_branch(branch, backbone, rows)
    check_ids(gating.header if gating is not None else (), backbone, rows)
    if width is not None and width < rows and request.sampler.changes_scores:
        largest = max((max(each.ids, default=0) for each in branches), default=0)
        if largest >= width:
            raise ModelError(
                f"The prompt holds the token {largest}, for which {backbone.model_id!r} gives no logit (it gives "
                f"{width}), so nothing can bend its score.",
                hint="Leave repetition_penalty out, and pass generation_defaults=False.",
            )


def check_branch(branch: Branch, backbone: Backbone, rows: int) -> None:
    """As `check_request`, for one branch."""
    check_ids(branch.ids, backbone, rows)
    soft = branch.soft
    count = 0 if soft is None else int(soft.shape[0])
    stop = branch.soft_at + count
    marks = sum(1 for each in branch.ids[branch.soft_at : stop] if each < 0)
    if marks != count or count != len(branch.ids) - len(branch.visible):
        raise UsageError(
            f"A prompt has {len(branch.ids) - len(branch.visible)} places for soft vectors, and {count} vectors stand "
            f"at {branch.soft_at}.",
            hint="Make the branch with acd_core.engine.soft_branch.",
        )
    if soft is not None:
        check_vectors(soft, backbone)


def check_ids(ids: Sequence[int], backbone: Backbone, rows: int) -> None:
    """Raise ModelError for an id that the model cannot embed."""
    largest = max(ids, default=0)
    if largest >= rows:
        raise ModelError(
            f"The tokenizer of {backbone.model_id!r} gives the token {largest} for this text, but the model embeds "
            f"only the ids below {rows}.",
            hint=_HINT,
        )


_known_vectors: MutableMapping[torch.Tensor, tuple[int, torch.dtype]] = WeakTensorKeyDictionary()


def check_vectors(vectors: torch.Tensor, backbone: Backbone) -> None:
    """Raise UsageError for soft vectors of another width, or beyond what the model's dtype can hold."""
    fits = (backbone.embedding_width, backbone.dtype)
    if _known_vectors.get(vectors) == fits:
        return
    if vectors.ndim != 2 or int(vectors.shape[1]) != backbone.embedding_width:
        raise UsageError(
            f"Soft vectors of shape {tuple(vectors.shape)} were given; {backbone.model_id!r} embeds tokens in "
            f"{backbone.embedding_width} dimensions."
        )
    largest = beyond(vectors, backbone.dtype)
    if largest is not None:
        raise UsageError(
            f"Soft vectors reach {largest:g}, beyond what {str(backbone.dtype).removeprefix('torch.')} can compute "
            "with."
        )
    _known_vectors[vectors] = fits


def isolate_failures(items: Sequence[Item], work: Callable[[Sequence[Item]], None]) -> list[tuple[Item, Exception]]:
    """Do `work` on all `items` at once; where that fails, on halves of them, until those that fail do so alone.

    Returns these with their errors. Memory that ran out is nobody's fault: that error is raised.
    """
    guilty: list[tuple[Item, Exception]] = []
    pending = [list(items)]
    while pending:
        group = pending.pop()
        try:
            work(group)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if len(group) == 1:
                guilty.append((group[0], error))
            else:
                half = len(group) // 2
                pending += [group[half:], group[:half]]
    return guilty


def no_token_error(
    request: Request,
    kept: torch.Tensor,
    others: Sequence[torch.Tensor],
    joined: torch.Tensor,
    rows: Sequence[int] | None,
) -> EngineError:
    """The error of a request from whose scores no token can be picked. Reads the device: for failures only.

    kept, others: logits [vocab] of its rows. joined: what the method's rule made of them. rows: places in the cache."""
    asked = request.asked
    method = f"method {asked.method!r}" if asked.method is not None else f"rule {asked.rule.name!r}"
    for at, logits in enumerate((kept, *others)):
        side, what = "subtracted" if at else "kept", _broken(logits)
        if what is None and at and bool((logits.isneginf() & ~kept.isneginf()).any()):
            what = "-infinity for tokens that the kept row allows"
        if what is not None:
            place = f"row {rows[at]}" if rows is not None else "its row"
            return EngineError(
                f"The model's logits are not finite in the {side} branch ({method}, {place}, after "
                f"{len(request.generated)} tokens): {what}.",
                hint="Weights, adapters or a half-precision overflow: try dtype='float32' (or bfloat16), and "
                "acd doctor --model M.",
            )
    what = _broken(joined)
    if what is not None:
        return EngineError(
            f"The contrast of two finite rows is not finite ({method}, alpha {request.alpha:g}, after "
            f"{len(request.generated)} tokens): {what}.",
            hint="Lower alpha." if asked.strength is None else "See what its strength gives: NaN is none.",
        )
    return EngineError(
        f"The logits are finite, but what bends them leaves no token to pick ({method}, after "
        f"{len(request.generated)} tokens): grammar, repetition_penalty, temperature and the model's generation_config "
        "together rule every one out, or overflow.",
        hint="Give repetition_penalty a value near 1, or leave generation_config out: generation_defaults=False.",
    )


def _broken(scores: torch.Tensor) -> str | None:
    """What keeps a token from being picked from scores [vocab]; single tokens at -infinity do not."""
    if bool(scores.isnan().any()):
        return f"{int(scores.isnan().sum())} of {scores.shape[-1]} are NaN"
    if bool(scores.isposinf().any()):
        return f"{int(scores.isposinf().sum())} of {scores.shape[-1]} are +infinity"
    return "all are -infinity" if bool(scores.isneginf().all()) else None
