"""Hidden states of many requests at a few of their tokens: what steering is learnt from. A killed reading goes on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from acd_core.artifacts.steering import AGREEING, FOLDER, Steering
from acd_core.chat import Chat
from acd_core.errors import ModelError, TuningError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_count, layer_names
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, Instruction, SplitName
from acd_core.tuning.pooled_regression import auc
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import Checkpoint, alone_in, forget, work_folder

ROWS, TOKENS = 24, 3000
"""Of one forward, at most."""
KEEP_EVERY = 60.0
"""Seconds of reading that a kill may cost."""


@dataclass(frozen=True)
class ReadRow:
    """A request as ids, and the tokens whose states are wanted."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


class Requests:
    """Requests as rows to read, by the model's own template."""

    def __init__(self, backbone: Backbone) -> None:
        self._chat = Chat(backbone.tokenizer)
        self._agreeing = self._chat.encode_text(AGREEING)

    def at_last_token(self, texts: Sequence[str]) -> list[ReadRow]:
        """The last token of each prompt."""
        return [ReadRow(ids, (len(ids) - 1,)) for ids in map(self._ids, texts)]

    def over_agreeing(self, texts: Sequence[str]) -> list[ReadRow]:
        """The last token of each prompt, which ends its instruction, and the end of a "Sure" behind it."""
        said = len(self._agreeing)
        return [ReadRow((*ids, *self._agreeing), (len(ids) - 1, len(ids) + said - 1)) for ids in map(self._ids, texts)]

    def _ids(self, text: str) -> tuple[int, ...]:
        return self._chat.layout([{"role": "user", "content": text}]).ids


def learnt_from_states(
    backbone: Backbone,
    out: Path | None,
    groups: Sequence[Sequence[str]],
    rows_of: Callable[[Requests, Sequence[str]], list[ReadRow]],
    layers: Sequence[int],
    fit: Callable[[Sequence[Tensor]], Steering],
    *,
    resume: bool,
    progress: bool,
) -> Steering:
    """Read the states of all requests of `groups`, let `fit` make steering of them, and with `out` save it there.

    fit: takes the states of each group, as `states_of` gives them. resume: go on with the states that a killed run kept
    in `<out>.training/`; they go once it is saved. Raises TuningError for another run towards `out`, ExpertError where
    `out` is something else.
    """
    if out is None:
        return fit(_states_by_group(backbone, groups, rows_of, layers, None, progress))
    work = work_folder(out, "training")
    kept = work / "states.safetensors"
    with alone_in(work):
        FOLDER.check_target(out)
        if not resume:
            forget(kept)
        made = fit(_states_by_group(backbone, groups, rows_of, layers, kept, progress))
        made.save(out)
        forget(kept)
    return made


def _states_by_group(
    backbone: Backbone,
    groups: Sequence[Sequence[str]],
    rows_of: Callable[[Requests, Sequence[str]], list[ReadRow]],
    layers: Sequence[int],
    kept: Path | None,
    progress: bool,
) -> Sequence[Tensor]:
    rows = rows_of(Requests(backbone), [text for group in groups for text in group])
    states = states_of(backbone, rows, layers, kept=kept, progress=progress)
    found: Sequence[Tensor] = states.split([len(group) for group in groups])
    return found


@torch.inference_mode()
def states_of(
    backbone: Backbone,
    rows: Sequence[ReadRow],
    layers: Sequence[int],
    *,
    kept: Path | None = None,
    progress: bool = True,
) -> Tensor:
    """The outputs of `layers` at the places of each row: float32 [rows, places, layers, width] on the CPU.

    kept: a file where what was read stands, so that a killed reading goes on. Raises ModelError for a model whose
    layers are not found, and for states that are not finite.
    """
    layer_names(backbone.model, layers)
    order = sorted(range(len(rows)), key=lambda at: (len(rows[at].ids), at))
    made_of = _made_of(backbone, rows, layers)
    known = Checkpoint.read(kept) if kept is not None else None
    if known is not None and known.document.get("made_of") != made_of:
        known = None
    found: list[Tensor] = [known.tensors["states"]] if known is not None and "states" in known.tensors else []
    done = int(found[0].shape[0]) if found else 0
    saved = time.monotonic()
    with Bar("Reading requests", len(rows), shown=progress) as bar:
        bar.advance(done)
        while done < len(order):
            size = 1
            while size < min(ROWS, len(order) - done) and (size + 1) * len(rows[order[done + size]].ids) <= TOKENS:
                size += 1
            found.append(_read(backbone, [rows[at] for at in order[done : done + size]], layers))
            done += size
            bar.advance(size)
            if kept is not None and time.monotonic() - saved >= KEEP_EVERY:
                found = [torch.cat(found)]
                Checkpoint({"states": found[0]}, {"made_of": made_of}).write(kept)
                saved = time.monotonic()
    states = torch.cat(found)
    if not bool(torch.isfinite(states).all()):
        raise ModelError(
            "Hidden states of the model are not finite, so that no steering can be learnt.",
            hint="Load it with --dtype float32.",
        )
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return states[back]


def _read(backbone: Backbone, rows: Sequence[ReadRow], layers: Sequence[int]) -> Tensor:
    """One forward. Rows are filled up at their ends, which under a causal mask no real token sees."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in rows], device=backbone.device)
    positions = torch.arange(width, device=ids.device).expand(len(rows), -1)
    states = backbone.forward(ids, positions=positions, layers=layers, only_layers=True).states
    at = torch.tensor([row.places for row in rows])
    picked = [states[layer][torch.arange(len(rows))[:, None], at].float().cpu() for layer in layers]
    return torch.stack(picked, dim=2)


def _made_of(backbone: Backbone, rows: Sequence[ReadRow], layers: Sequence[int]) -> str:
    said = repr((str(backbone.fingerprint), str(backbone.dtype), list(layers), [(row.ids, row.places) for row in rows]))
    return hashlib.sha256(said.encode()).hexdigest()


# -- what is read ---------------------------------------------------------------------------------------------------


def texts_for(
    harmful: bool,
    pairs: Sequence[AnchorPair] | None,
    own: Sequence[Instruction] | None,
    bundled: Sequence[SplitName],
    held_out: Sequence[Instruction],
) -> list[str]:
    """Requests of one class to learn from: those of `pairs`, else `own`, else the bundled ones; none of `held_out`.

    Raises TuningError for fewer than `MIN_CLASS`.
    """
    if pairs is not None:
        rows = [Instruction(pair.id, pair.text) for pair in pairs if pair.harmful == harmful]
    else:
        rows = list(own or [row for name in bundled for row in anchor_data.bundled_instructions(name)])
    texts = list(dict.fromkeys(row.text for row in anchor_data.without(rows, held_out)))
    if len(texts) < anchor_data.MIN_CLASS:
        raise TuningError(
            f"Only {len(texts)} {'harmful' if harmful else 'harmless'} requests are there to learn from; at least "
            f"{anchor_data.MIN_CLASS} are needed.",
            hint="Give more, or none, so that the bundled ones are taken.",
        )
    return texts


def middle_third(backbone: Backbone) -> tuple[int, ...]:
    """Its layers, numbers from 1: 11 to 20 of 32, as SCANS' code has it for Llama-2-7b."""
    count = layer_count(backbone.model)
    return tuple(range(count // 3 + 1, count // 3 + 1 + max(1, count // 3)))


def chosen_layers(said: str, count: int) -> tuple[int, ...] | None:
    """Layers by a setting: None for "middle" and "separation", else numbers "8-14". Raises UsageError."""
    if said in ("middle", "separation"):
        return None
    first, _, last = said.partition("-")
    if not (first.isdigit() and (last or first).isdigit()) or not 1 <= int(first) <= int(last or first) <= count:
        raise UsageError(f"layers is {said!r}.", hint=f"middle, separation, or numbers from 1 to {count} such as 8-14.")
    return tuple(range(int(first), int(last or first) + 1))


def best_separated(vectors: Tensor, harmless: Tensor, harmful: Tensor, size: int) -> tuple[int, ...]:
    """The `size` neighbouring layers (from 1) in which held-out requests part best along `vectors`: by the mean area
    under the curve of h . v. vectors [layers, width]; harmless, harmful [rows, layers, width], of all layers."""
    both = torch.cat([harmless, harmful])
    labels = torch.tensor([0.0] * len(harmless) + [1.0] * len(harmful))
    read = torch.einsum("rlw,lw->lr", both, vectors)
    areas = torch.tensor([auc(each, labels) for each in read])
    windows = areas.unfold(0, size, 1).mean(dim=1)
    start = int(windows.argmax())
    return tuple(range(start + 1, start + 1 + size))
