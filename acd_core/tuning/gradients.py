"""One step's losses, and their gradients with respect to the two soft prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning.examples import Row
from acd_core.tuning.objectives import Objective, RowScores, term_rows
from acd_core.tuning.streams import Prefix, pad_targets, prefill, reply_logits, shared_start

PROMPTS = ("safe", "adversarial")
SHARED = 16
"""Ids that rows must have in common before they are run once for all: bare requests share a few, and no more."""
CHUNK, CHUNK_GPU = 2**23, 2**26
"""Logits that the losses look at together: they make several float32 copies of them. On a GPU more at a time, because
there it is launches that cost."""


@dataclass(frozen=True)
class StepGradients:
    """losses: every term, unweighted, and "total" (weighted). grads: one tensor [n, width] for each prompt."""

    losses: dict[str, float]
    grads: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        return all(value == value and abs(value) != float("inf") for value in self.losses.values()) and all(
            bool(torch.isfinite(grad).all()) for grad in self.grads.values()
        )


def step_gradients(
    backbone: Backbone,
    objective: Objective,
    before: Sequence[int],
    prompts: Mapping[str, Tensor],
    rows: Sequence[Row],
    *,
    micro: int | None = None,
    plain: Prefix | None = None,
    signal: Tensor | None = None,
    offsets: Mapping[str, float] | None = None,
) -> StepGradients:
    """Losses of `rows` and their gradients for `prompts` {"safe", "adversarial"} ([n, width], requiring grad).

    micro: rows in memory at a time (None: all); the result does not depend on it beyond rounding. plain: the start of
    all layouts without a prompt of ours, for "kl_to_plain"; None where these rows' own start is to be run.
    signal: [V], see `refusal_signal`; offsets: of the scores' log odds of refusing, see `decision`.
    The model's own weights get no gradient.
    Raises TuningError where no gradient reaches a prompt (some quantised models).
    """
    needed = frozenset[str]().union(*(objective.streams(row.data) for row in rows))
    used = [name for name in PROMPTS if name in needed]
    behind = _alike([row.example.request.after for row in rows])
    prefixes = {name: prefill(backbone, before, prompts[name], behind, fast=True) for name in used}
    if "plain" in needed and plain is None:
        starts = [row.example.request.plain for row in rows]
        with torch.no_grad():
            plain = prefill(backbone, starts[0][: shared_start(starts)], fast=True)
    leaves = [leaf for name in used for leaf in prefixes[name].leaves]
    sums: list[Tensor | None] = [None] * len(leaves)
    losses = {term.name: 0.0 for term in objective.terms}
    for group in _groups(objective, rows):
        size = len(group) if micro is None else micro
        for start in range(0, len(group), size):
            part = group[start : start + size]
            with torch.enable_grad():
                grads = _part(
                    backbone, objective, prefixes, len(behind), leaves, plain, signal, offsets or {}, part, losses
                )
            for index, grad in enumerate(grads):
                if grad is not None:
                    known = sums[index]
                    sums[index] = grad if known is None else known + grad
    if any(value is None for value in sums):
        missing = sums.count(None)
        if missing == len(sums):
            raise _no_gradient(backbone)
    result: dict[str, Tensor] = {}
    first = 0
    for name in PROMPTS:
        if name not in prefixes:
            result[name] = torch.zeros_like(prompts[name])
            continue
        prefix = prefixes[name]
        given = sums[first : first + len(prefix.leaves)]
        first += len(prefix.leaves)
        reached = [(root, grad) for root, grad in zip(prefix.roots, given) if grad is not None]
        if not reached or not all(root.requires_grad for root, _ in reached):
            raise _no_gradient(backbone)
        (result[name],) = torch.autograd.grad(
            [root for root, _ in reached], [prompts[name]], [grad.to(root.dtype) for root, grad in reached]
        )
    losses["total"] = sum(term.weight * losses[term.name] for term in objective.terms)
    return StepGradients(losses, result)


def _alike(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The ids that all rows start with, where they are worth running once for all of them."""
    shared = shared_start(rows) if len(rows) > 1 else 0
    return tuple(rows[0][:shared]) if shared >= SHARED else ()


def _groups(objective: Objective, rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by how much of their replies the losses read: where the first token decides, the reply need not be run."""
    found: dict[int | None, list[Row]] = {}
    for row in rows:
        found.setdefault(objective.reach(row.data), []).append(row)
    return list(found.values())


def _part(
    backbone: Backbone,
    objective: Objective,
    prefixes: Mapping[str, Prefix],
    known: int,
    leaves: Sequence[Tensor],
    plain: Prefix | None,
    signal: Tensor | None,
    offsets: Mapping[str, float],
    rows: Sequence[Row],
    losses: dict[str, float],
) -> tuple[Tensor | None, ...]:
    """What rows of one reach add to the gradients of `leaves`; adds the terms' values to `losses`.

    The losses look at a row at a time, and their gradients for the logits are known without the model. So they are
    taken some rows at a time, on logits cut off the graph, and one backward pass carries them on: the float32 copies
    that the losses make are never there for all rows at once.
    """
    replies = [row.example.reply[: objective.reach(row.data)] for row in rows]
    targets, mask = pad_targets(replies, backbone.device)
    per_stream = (
        (name, _stream(backbone, name, objective, prefixes, known, plain, rows, replies)) for name in _STREAMS
    )
    streams = {name: stream for name, stream in per_stream if stream is not None}
    moving = {name: logits for name, (logits, _) in streams.items() if logits.requires_grad}
    if not moving:
        raise _no_gradient(backbone)
    grads = {name: torch.zeros_like(logits) for name, logits in moving.items()}
    most = CHUNK if backbone.device.type == "cpu" else CHUNK_GPU
    values: list[tuple[str, Tensor]] = []
    chunk = max(1, most // (targets.shape[1] * next(iter(moving.values())).shape[-1]))
    for data in dict.fromkeys(row.data for row in rows):
        picked = [index for index, row in enumerate(rows) if row.data == data]
        for start in range(0, len(picked), chunk):
            some = picked[start : start + chunk]
            at = torch.tensor(some, device=backbone.device)
            places = {name: _places(stream, some) for name, stream in streams.items() if some[0] in stream[1]}
            cut = {
                name: streams[name][0].detach()[place].requires_grad_(name in moving) for name, place in places.items()
            }
            logits = {name: cut.get(name) for name in _STREAMS}
            scores = RowScores(targets[at], mask[at], **logits, signal=signal, offsets=offsets)
            total = torch.zeros((), dtype=torch.float32, device=backbone.device)
            for term in objective.terms:
                if term.data == data:
                    value = term_rows(term, scores, objective.alpha).sum() * rows[some[0]].share
                    values.append((term.name, value.detach()))
                    total = total + term.weight * value
            wanted = [name for name in cut if name in moving]
            for name, grad in zip(wanted, torch.autograd.grad(total, [cut[name] for name in wanted])):
                grads[name][places[name]] = grad
    leaf_grads = torch.autograd.grad(list(moving.values()), list(leaves), list(grads.values()), allow_unused=True)
    for term_name, value in values:  # read at the end: every read waits for a GPU
        losses[term_name] += float(value)
    return leaf_grads


_STREAMS = ("safe", "adversarial", "plain")
_Stream = tuple[Tensor, dict[int, int]]


def _stream(
    backbone: Backbone,
    name: str,
    objective: Objective,
    prefixes: Mapping[str, Prefix],
    known: int,
    plain: Prefix | None,
    rows: Sequence[Row],
    whole: Sequence[Sequence[int]],
) -> _Stream | None:
    """Logits [b, R, V] of the rows whose class needs stream `name`, and where each row of the batch stands in them.
    whole: the rows' replies as far as they are read. known: ids behind the prompt that the prefixes hold already."""
    picked = [index for index, row in enumerate(rows) if name in objective.streams(row.data)]
    if not picked:
        return None
    place = {index: position for position, index in enumerate(picked)}
    replies, width = [whole[index] for index in picked], max(map(len, whole))
    if name != "plain":
        after = [rows[index].example.request.after[known:] for index in picked]
        return reply_logits(backbone, prefixes[name], after, replies, width=width, fast=True), place
    if plain is None:
        raise ValueError("a term pulls to the plain model, but its prefix was not given")
    with torch.no_grad():
        after = [rows[index].example.request.plain[plain.length :] for index in picked]
        return reply_logits(backbone, plain, after, replies, width=width, fast=True), place


def _places(stream: _Stream, picked: Sequence[int]) -> Tensor:
    """Where the rows `picked` of the batch, all of a class that needs `stream`, stand in it."""
    logits, place = stream
    return torch.tensor([place[index] for index in picked], device=logits.device)


def _no_gradient(backbone: Backbone) -> TuningError:
    return TuningError(
        f"No gradient reaches the prompts through {backbone.model_id!r}.",
        hint="Quantised kernels without a backward pass cannot be tuned: load the model in bf16 or float32 instead.",
    )
