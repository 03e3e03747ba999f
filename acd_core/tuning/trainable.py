"""What a run trains, and what the one loop (`loop.py`) asks of it.

A trainable holds float32 tensors beside a frozen model and knows how a forward runs under them. The soft prompts of a
pair (`soft_prompts.py`) and a LoRA adapter (`lora_adapter.py`) are trainables. What it is trained for is an objective's
(`objectives.py`): the two meet in the names of the streams of scores that the one gives and the other reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from acd_core.errors import TuningError, UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning.examples import Row
from acd_core.tuning.objectives import TermTable
from acd_core.tuning.streams import ReplyScores

Ids = Sequence[int]


@dataclass(frozen=True)
class ParameterGroup:
    """Tensors, by name, that share one gradient norm and one step size: `scale` times that of the schedule."""

    names: tuple[str, ...]
    scale: float = 1.0


class Forwards(Protocol):
    """A trainable ready to run the rows of one step, or some of them at a time."""

    @property
    def sources(self) -> Sequence[Tensor]:
        """The tensors in which the backward pass of some rows ends; gradients of all rows are added up there."""
        ...

    def scores(
        self, stream: str, rows: Sequence[Row], replies: Sequence[Ids], *, width: int, layers: Sequence[int]
    ) -> ReplyScores:
        """The scores of one stream that predict `replies`, the rows' own as far as they are read: logits
        [rows, width, V], and of every layer asked for (from 1) the states [rows, width, hidden] at these positions."""
        ...

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """The gradients of the trained tensors, by name, from those of `sources` (None: nothing reached it). Raises
        TuningError where no gradient arrives."""
        ...


class Trainable(Protocol):
    """Tensors that a run changes, and all that depends on what they are."""

    @property
    def kind(self) -> str:
        """What its tensors are called in a checkpoint."""
        ...

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the scores it gives, in the order in which they are computed."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The trained tensors, by name; each asks for its gradient. A run changes them in place."""
        ...

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """All of `tensors`, each in one group."""
        ...

    @property
    def generator(self) -> torch.Generator | None:
        """Where its forwards draw random numbers from, if they do; kept in checkpoints."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether a step gives the same, but for rounding, with fewer rows at a time and with layers computed twice.

        Where it does not, the whole batch is tried, half of it after memory ran out, and so on; layers are computed
        once.
        """
        ...

    @property
    def positions(self) -> int:
        """How many positions it puts in front of every row."""
        ...

    def forwards(
        self, view: Backbone, rows: Sequence[Row], streams: frozenset[str], *, learning: bool = True
    ) -> Forwards:
        """Get ready for `rows` on `view` (the model, or a twin with the same weights). streams: those that are needed.
        learning: with dropout and quick arithmetic, where it has any; else as the model computes when it decodes."""
        ...

    def artifact(
        self, backbone: Backbone, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any], **settings: Any
    ) -> Any:
        """What is saved and used afterwards, made of `tensors` (its own, at the end or at an earlier step). metrics:
        what is remembered of the run. settings: what else the artifact carries."""
        ...


def check_fits(trainable: Trainable, objective: TermTable) -> None:
    """Raise UsageError where `objective` reads scores that `trainable` does not give."""
    missing = sorted({name for data in objective.classes for name in objective.streams(data)} - set(trainable.streams))
    if missing:
        raise UsageError(
            f"The objective reads the scores {', '.join(missing)}; what is trained gives "
            f"{', '.join(trainable.streams)}.",
            hint="Take an objective made for what is trained: the table is in acd_core/tuning/objectives.py.",
        )


def no_gradient(backbone: Backbone, kind: str) -> TuningError:
    """The error for a model through which no gradient reaches what is trained."""
    return TuningError(
        f"No gradient reaches the {kind}s through {backbone.model_id!r}.",
        hint="Quantised kernels without a backward pass cannot be tuned: load the model in bf16 or float32 instead.",
    )
