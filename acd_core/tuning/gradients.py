"""One step's losses, and their gradients with respect to what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from acd_core.model.backbone import Backbone
from acd_core.tuning.examples import NOT_WANTED, Row
from acd_core.tuning.losses import LOSSES
from acd_core.tuning.objectives import Class, RowScores, Term, TermTable, term_rows
from acd_core.tuning.streams import pad_targets
from acd_core.tuning.trainable import Forwards, Trainable, no_gradient

CHUNK, CHUNK_GPU = 2**23, 2**26
"""Logits that the losses look at together: they make several float32 copies of them. On a GPU more at a time, because
there it is launches that cost."""


@dataclass(frozen=True)
class StepGradients:
    """losses: every term, unweighted, and "total" (weighted). grads: one for each trained tensor, of its shape."""

    losses: dict[str, float]
    grads: dict[str, Tensor]

    @property
    def finite(self) -> bool:
        return all(value == value and abs(value) != float("inf") for value in self.losses.values()) and all(
            bool(torch.isfinite(grad).all()) for grad in self.grads.values()
        )


def step_gradients(
    backbone: Backbone,
    trainable: Trainable,
    objective: TermTable,
    rows: Sequence[Row],
    *,
    micro: int | None = None,
    signal: Tensor | None = None,
    offsets: Mapping[str, float] | None = None,
) -> StepGradients:
    """Losses of `rows` and their gradients for the tensors of `trainable`.

    micro: rows in memory at a time (None: all); the result does not depend on it beyond rounding, unless the trainable
    draws random numbers. signal: [V], see `refusal_signal`; offsets: of the scores' log odds of refusing, see
    `decision`. The model's own weights get no gradient.
    Raises TuningError where no gradient reaches what is trained (some quantised models).
    """
    needed = frozenset[str]().union(*(objective.streams(row.data) for row in rows))
    forwards = trainable.forwards(backbone, rows, needed)
    sums: list[Tensor | None] = [None] * len(forwards.sources)
    step = _Step(backbone, trainable, objective, forwards, _tokens(objective, rows), signal, offsets or {})
    losses = {term.name: 0.0 for term in objective.terms}
    for part in _parts(objective, rows, micro):
        with torch.enable_grad():
            grads = step.gradients_of(part, losses)
        for index, grad in enumerate(grads):
            if grad is not None:
                known = sums[index]
                sums[index] = grad if known is None else known + grad
    result = forwards.gradients(sums)
    return StepGradients(_with_total(objective, losses), result)


@torch.no_grad()
def step_losses(
    backbone: Backbone, trainable: Trainable, objective: TermTable, rows: Sequence[Row], *, signal: Tensor | None = None
) -> dict[str, float]:
    """Every term's value on `rows`, unweighted, and "total": as the model computes when it decodes, nothing learnt."""
    needed = frozenset[str]().union(*(objective.streams(row.data) for row in rows))
    forwards = trainable.forwards(backbone, rows, needed, learning=False)
    step = _Step(backbone, trainable, objective, forwards, _tokens(objective, rows), signal, {})
    losses = {term.name: 0.0 for term in objective.terms}
    for part in _parts(objective, rows, None):
        step.add_values(part, losses)
    return _with_total(objective, losses)


def _with_total(objective: TermTable, losses: dict[str, float]) -> dict[str, float]:
    return {**losses, "total": sum(term.weight * losses[term.name] for term in objective.terms)}


def _parts(objective: TermTable, rows: Sequence[Row], micro: int | None) -> Iterator[list[Row]]:
    """Rows that are run together: `micro` at most, by how much of their replies the losses read (where the first token
    decides, the reply need not be run)."""
    groups: dict[int | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(objective.reach(row.data), []).append(row)
    for group in groups.values():
        size = len(group) if micro is None else micro
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _tokens(objective: TermTable, rows: Sequence[Row]) -> dict[str, int]:
    """How many reply tokens of the whole step each term supervises."""
    return {
        term.name: sum(row.example.supervised(term.first) for row in rows if row.data == term.data)
        for term in objective.terms
    }


LOGITS = 0
"""Stands for the logits where layers stand by their numbers, which begin at 1."""


@dataclass(frozen=True)
class _Stream:
    """What one stream gave for the rows whose class needs it: its tensors [b, R, ...], by LOGITS or layer, and where
    each row of the part stands in them."""

    tensors: Mapping[int, Tensor]
    place: Mapping[int, int]

    def places(self, picked: Sequence[int]) -> Tensor:
        """Where the rows `picked` of the part, all of a class that needs this stream, stand in its tensors."""
        return torch.tensor([self.place[index] for index in picked], device=self.tensors[LOGITS].device)


@dataclass(frozen=True)
class _Step:
    """What all parts of one step have in common. tokens: supervised ones of the whole step, by the terms' names."""

    backbone: Backbone
    trainable: Trainable
    objective: TermTable
    forwards: Forwards
    tokens: Mapping[str, int]
    signal: Tensor | None
    offsets: Mapping[str, float]

    def gradients_of(self, rows: Sequence[Row], losses: dict[str, float]) -> tuple[Tensor | None, ...]:
        """What rows of one reach add to the gradients of `forwards.sources`; adds the terms' values to `losses`.

        The losses look at a row at a time, and their gradients for the logits are known without the model. So they are
        taken some rows at a time, on logits cut off the graph, and one backward pass carries them on: the float32
        copies that the losses make are never there for all rows at once.
        """
        targets, mask, streams = self._run(rows)
        moving = {
            (name, what): tensor
            for name, stream in streams.items()
            for what, tensor in stream.tensors.items()
            if tensor.requires_grad
        }
        if not moving:
            raise no_gradient(self.backbone, self.trainable.kind)
        grads = {key: torch.zeros_like(tensor) for key, tensor in moving.items()}
        values: list[tuple[str, Tensor]] = []
        most = CHUNK if self.backbone.device.type == "cpu" else CHUNK_GPU
        chunk = max(1, most // (targets.shape[1] * next(iter(moving.values())).shape[-1]))
        for data in dict.fromkeys(row.data for row in rows):
            picked = [index for index, row in enumerate(rows) if row.data == data]
            for start in range(0, len(picked), chunk):
                some = picked[start : start + chunk]
                places = {name: stream.places(some) for name, stream in streams.items() if some[0] in stream.place}
                cut = {
                    (name, what): tensor.detach()[place].requires_grad_((name, what) in moving)
                    for name, place in places.items()
                    for what, tensor in streams[name].tensors.items()
                }
                at = torch.tensor(some, device=self.backbone.device)
                found = self._values(data, cut, targets[at], mask[at], rows[some[0]].share)
                total = torch.zeros((), dtype=torch.float32, device=self.backbone.device)
                for term, value in found:
                    values.append((term.name, value.detach()))
                    total = total + term.weight * value
                wanted = [key for key in cut if key in moving]
                # Not every term reads all of a stream's tensors: one of states alone leaves its logits unread.
                of_cut = torch.autograd.grad(total, [cut[key] for key in wanted], allow_unused=True)
                for key, grad in zip(wanted, of_cut):
                    if grad is not None:
                        grads[key][places[key[0]]] = grad
        sources = list(self.forwards.sources)
        of_sources = torch.autograd.grad(list(moving.values()), sources, list(grads.values()), allow_unused=True)
        for term_name, value in values:  # read at the end: every read waits for a GPU
            losses[term_name] += float(value)
        return of_sources

    def add_values(self, rows: Sequence[Row], losses: dict[str, float]) -> None:
        """Add the terms' values on rows of one reach to `losses`."""
        targets, mask, streams = self._run(rows)
        for index, row in enumerate(rows):
            at = torch.tensor([index], device=self.backbone.device)
            scores = {
                (name, what): tensor[stream.places([index])]
                for name, stream in streams.items()
                if index in stream.place
                for what, tensor in stream.tensors.items()
            }
            for term, value in self._values(row.data, scores, targets[at], mask[at], row.share):
                losses[term.name] += float(value)

    def _run(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, dict[str, _Stream]]:
        """Targets and mask [b, R] of rows of one reach, and every stream that their classes need."""
        replies = [row.example.reply[: self.objective.reach(row.data)] for row in rows]
        width = max(map(len, replies))
        wanted = [row.example.targets[: self.objective.reach(row.data)] for row in rows]
        targets, mask = pad_targets(wanted, self.backbone.device)
        if any(NOT_WANTED in each for each in wanted):
            mask, targets = mask * (targets != NOT_WANTED), targets.clamp_min(0)
        streams = {}
        for name in self.trainable.streams:
            picked = [index for index, row in enumerate(rows) if name in self.objective.streams(row.data)]
            if picked:
                found = self.forwards.scores(
                    name,
                    [rows[index] for index in picked],
                    [replies[index] for index in picked],
                    width=width,
                    layers=self.objective.layers(name),
                )
                place = {index: position for position, index in enumerate(picked)}
                streams[name] = _Stream({LOGITS: found.logits, **found.states}, place)
        return targets, mask, streams

    def _values(
        self, data: Class, tensors: Mapping[tuple[str, int], Tensor], targets: Tensor, mask: Tensor, share: float
    ) -> Iterator[tuple[Term, Tensor]]:
        """The terms of one class on some of its rows: what these add to the mean over the whole step."""
        logits = {name: tensor for (name, what), tensor in tensors.items() if what == LOGITS}
        states: dict[str, dict[int, Tensor]] = {}
        for (name, what), tensor in tensors.items():
            if what != LOGITS:
                states.setdefault(name, {})[what] = tensor
        scores = RowScores(targets, mask, **logits, signal=self.signal, offsets=self.offsets, states=states)
        for term in self.objective.terms:
            if term.data == data:
                summed = term_rows(term, scores, self.objective.joined_at).sum()
                yield term, summed / self.tokens[term.name] if LOSSES[term.loss].by_token else summed * share
