"""One step's losses, and their gradients with respect to the two soft prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acd_core.backbone import Backbone
from acd_core.errors import TuningError
from acd_core.tuning.examples import Row
from acd_core.tuning.objectives import Objective, RowScores, term_rows
from acd_core.tuning.streams import Prefix, pad_targets, prefill, reply_logits

PROMPTS = ("safe", "adversarial")


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
) -> StepGradients:
    """Losses of `rows` and their gradients for `prompts` {"safe", "adversarial"} ([n, width], requiring grad).

    micro: rows in memory at a time (None: all); the result does not depend on it beyond rounding. plain: the prefix of
    the layouts without system text, needed by "kl_to_plain" only. signal: [V], see `refusal_signal`.
    The model's own weights get no gradient.
    Raises TuningError where no gradient reaches a prompt (some quantised models).
    """
    needed = frozenset[str]().union(*(objective.streams(row.data) for row in rows))
    used = [name for name in PROMPTS if name in needed]
    prefixes = {name: prefill(backbone, before, prompts[name], fast=True) for name in used}
    leaves = [leaf for name in used for leaf in prefixes[name].leaves]
    sums: list[Tensor | None] = [None] * len(leaves)
    losses = {term.name: 0.0 for term in objective.terms}
    size = len(rows) if micro is None else micro
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        with torch.enable_grad():
            total = _loss(backbone, objective, prefixes, plain, signal, part, losses)
            grads = _grad(total, leaves, backbone)
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


def _loss(
    backbone: Backbone,
    objective: Objective,
    prefixes: Mapping[str, Prefix],
    plain: Prefix | None,
    signal: Tensor | None,
    rows: Sequence[Row],
    losses: dict[str, float],
) -> Tensor:
    """The weighted loss of one micro-batch, as its share of the step's; adds the terms' values to `losses`."""
    replies = [row.example.reply for row in rows]
    targets, mask = pad_targets(replies, backbone.device)
    streams = {name: _stream(backbone, name, objective, prefixes, plain, rows, targets.shape[1]) for name in _STREAMS}
    total = torch.zeros((), device=backbone.device)
    for term in objective.terms:
        picked = [index for index, row in enumerate(rows) if row.data == term.data]
        if not picked:
            continue
        at = torch.tensor(picked, device=backbone.device)
        safe, adversarial, kept = (_rows_of(streams[name], at, picked) for name in _STREAMS)
        scores = RowScores(targets[at], mask[at], safe, adversarial, kept, signal)
        value = term_rows(term, scores, objective.alpha).sum() * rows[picked[0]].share
        losses[term.name] += float(value.detach())
        total = total + term.weight * value
    return total


_STREAMS = ("safe", "adversarial", "plain")
_Stream = tuple[Tensor, dict[int, int]]


def _stream(
    backbone: Backbone,
    name: str,
    objective: Objective,
    prefixes: Mapping[str, Prefix],
    plain: Prefix | None,
    rows: Sequence[Row],
    width: int,
) -> _Stream | None:
    """Logits [b, R, V] of the rows whose class needs stream `name`, and where each row of the batch stands in them."""
    picked = [index for index, row in enumerate(rows) if name in objective.streams(row.data)]
    if not picked:
        return None
    place = {index: position for position, index in enumerate(picked)}
    replies = [rows[index].example.reply for index in picked]
    if name != "plain":
        after = [rows[index].example.request.after for index in picked]
        return reply_logits(backbone, prefixes[name], after, replies, width=width, fast=True), place
    if plain is None:
        raise ValueError("a term pulls to the plain model, but its prefix was not given")
    with torch.no_grad():
        whole = [rows[index].example.request.plain[plain.length :] for index in picked]
        return reply_logits(backbone, plain, whole, replies, width=width, fast=True), place


def _rows_of(stream: _Stream | None, at: Tensor, picked: Sequence[int]) -> Tensor | None:
    if stream is None or picked[0] not in stream[1]:
        return None
    logits, place = stream
    return logits[torch.tensor([place[index] for index in picked], device=at.device)]


def _grad(total: Tensor, leaves: Sequence[Tensor], backbone: Backbone) -> tuple[Tensor | None, ...]:
    if not total.requires_grad:
        raise _no_gradient(backbone)
    return torch.autograd.grad(total, list(leaves), allow_unused=True)


def _no_gradient(backbone: Backbone) -> TuningError:
    return TuningError(
        f"No gradient reaches the prompts through {backbone.model_id!r}.",
        hint="Quantised kernels without a backward pass cannot be tuned: load the model in bf16 or float32 instead.",
    )
