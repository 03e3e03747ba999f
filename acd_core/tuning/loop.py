"""The one training loop: steps of AdamW on whatever is trained, guarded, and resumed after a kill.

A loop has what is trained (`Trainable`), its rows and their gradients (`GradientRunner`, which knows the objective), a
schedule, and a course: what a kind of run does around its steps, such as measuring. A killed run goes on where its last
checkpoint was and ends in the same tensors, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.errors import TuningError
from acd_core.tuning.examples import Row
from acd_core.tuning.gradient_runner import GradientRunner
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import Checkpoint
from acd_core.tuning.step_memory import Fit
from acd_core.tuning.trainable import Trainable

CHECKPOINT_EVERY = 10
MAX_BAD_STEPS = 5
"""Steps in a row without finite gradients after which the run gives up."""


@dataclass(frozen=True)
class Schedule:
    """rate: the learning rate of a step (from 0). lr: its largest. clip: largest gradient norm of a group of tensors.
    betas, weight_decay: AdamW's."""

    steps: int
    rate: Callable[[int], float]
    lr: float
    clip: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass
class State:
    """Where a run stands, beside the tensors. steps: the losses and the rate of every step so far. bad: steps in a row
    without finite gradients, up to now. memory: how steps go under the memory there is (`Fit`)."""

    step: int = 0
    steps: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    bad: int = 0
    memory: dict[str, Any] = field(default_factory=dict)


class Course:
    """What a kind of run does around its steps; here nothing. It has progress of its own, kept in checkpoints."""

    def reset(self) -> None:
        """Forget what was measured: a run starts anew."""

    def begin(self) -> None:
        """Measure what has to be known before the first step, unless a checkpoint told it."""

    def offsets(self) -> Mapping[str, float]:
        """What the losses of the next step add to log odds (see `decision`)."""
        return {}

    def after_step(self, state: State) -> None:
        """`state.step` steps are done."""

    def ended_early(self, state: State) -> bool:
        """Whether no more steps are worth taking."""
        return False

    def figures(self) -> str:
        """What stands behind the loss on the progress bar."""
        return ""

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and a document for a checkpoint."""
        return {}, {}

    def restore(self, found: Checkpoint, device: torch.device) -> None:
        """Take over what `kept` gave. Raises KeyError, TypeError or ValueError for what it cannot have given."""


class TrainingLoop:
    """One run. `state` says where it stands; the tensors of `trainable` change in place."""

    def __init__(
        self,
        trainable: Trainable,
        rows: Callable[[int], Sequence[Row]],
        runner: GradientRunner,
        schedule: Schedule,
        course: Course,
        *,
        identity: Mapping[str, Any],
        checkpoint: Path | None,
        device: torch.device,
    ) -> None:
        """rows: the batch of a step (from 0), a pure function of its number. identity: what a run must have in common
        with this one to go on from its checkpoint. checkpoint: the file; None keeps nothing."""
        self.trainable, self.rows, self.runner, self.schedule = trainable, rows, runner, schedule
        self.course, self.identity, self.checkpoint, self._device = course, identity, checkpoint, device
        self.state = State()
        self._first = {name: tensor.detach().clone() for name, tensor in trainable.tensors.items()}
        self._first_drawn = trainable.generator.get_state() if trainable.generator is not None else None
        groups = [
            {"params": [trainable.tensors[name] for name in group.names], "scale": group.scale}
            for group in trainable.groups
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay
        )
        self._started, self._seconds_before = time.monotonic(), 0.0

    def run(self, bar: Bar, resume: bool) -> State:
        """Take all steps that are left; then the state is saved. Raises TuningError where losses stay not finite."""
        state = self.start(bar, resume)
        bar.advance(state.step)
        try:
            while state.step < self.schedule.steps and not self.course.ended_early(state):
                losses = self.step()
                state.step += 1
                self.count_time()
                self.course.after_step(state)
                if state.step % CHECKPOINT_EVERY == 0:
                    self.save()
                bar.advance(1, f"loss {losses['total']:.3f}{self.course.figures()}")
        except KeyboardInterrupt:
            # An interrupt may fall between the updates of two tensors; the last checkpoint on disk is whole.
            bar.say("Interrupted. The same command continues from the last checkpoint.")
            raise
        self.save()
        return state

    def start(self, bar: Bar, resume: bool) -> State:
        """The state to go on from: a checkpoint of the very same run, or the beginning."""
        self._started = time.monotonic()
        file = self.checkpoint
        found = Checkpoint.read(file) if resume and file is not None else None
        if found is not None:
            try:
                self._restore(found)
                bar.say(f"Continuing at step {self.state.step} of {self.schedule.steps}.")
            except TuningError as error:
                bar.say(f"Starting anew: {error}")
                self._reset()
        elif resume and file is not None and file.exists():
            bar.say(f"Starting anew: the checkpoint {str(file)!r} cannot be read.")
        self._seconds_before = self.state.seconds
        self.course.begin()
        return self.state

    def step(self) -> dict[str, float]:
        """One update of all tensors -> the losses. Steps without finite gradients are skipped; several in a row end the
        run."""
        state, schedule = self.state, self.schedule
        found = self.runner.gradients(self.rows(state.step), self.course.offsets())
        state.memory = asdict(self.runner.fit) if self.runner.fit is not None else {}
        rate = schedule.rate(state.step)
        state.steps.append({"step": float(state.step + 1), "rate": rate, **found.losses})
        if not found.finite:
            state.bad += 1
            if state.bad >= MAX_BAD_STEPS:
                raise TuningError(
                    f"The losses were not finite in {state.bad} steps in a row (the last: step {state.step + 1}).",
                    hint=f"Lower the step size (now --lr {schedule.lr}), or load the model with --dtype float32.",
                )
            return found.losses
        state.bad = 0
        for options, group in zip(self.optimizer.param_groups, self.trainable.groups):
            norm = _norm([found.grads[name] for name in group.names])
            for name in group.names:
                self.trainable.tensors[name].grad = found.grads[name] * min(1.0, schedule.clip / (norm + 1e-12))
            options["lr"] = rate * options["scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return found.losses

    def count_time(self) -> None:
        """Bring the seconds of the state, those of earlier starts among them, up to now."""
        self.state.seconds = self._seconds_before + time.monotonic() - self._started

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state to the checkpoint file, if there is to be one."""
        if self.checkpoint is None:
            return
        kind, tensors = self.trainable.kind, dict[str, Tensor]()
        for name, tensor in self.trainable.tensors.items():
            tensors[f"{kind}.{name}"] = tensor
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
        if self.trainable.generator is not None:
            tensors["generator"] = self.trainable.generator.get_state()
        measured, document = self.course.kept()
        Checkpoint({**tensors, **measured}, {"identity": self.identity, **asdict(self.state), **document}).write(
            self.checkpoint
        )

    def _restore(self, found: Checkpoint) -> None:
        """Go back to what `found` holds. Raises TuningError where it is of another run, and, half changed, where it
        does not hold a state."""
        known = found.document.get("identity")
        known = known if isinstance(known, dict) else {}
        if differing := [key for key, value in self.identity.items() if known.get(key) != value]:
            raise TuningError(f"the unfinished run differs in {', '.join(differing)}.")
        try:
            self._restore_tensors(found)
            for name, kind in _STATE.items():
                setattr(self.state, name, of_kind(found.document, name, kind))
            self.course.restore(found, self._device)
            self.runner.fit = Fit(**self.state.memory) if self.state.memory else None
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TuningError(f"the checkpoint holds no state of a run: {error}.") from error

    def _restore_tensors(self, found: Checkpoint) -> None:
        for name, tensor in self.trainable.tensors.items():
            with torch.no_grad():
                tensor.copy_(found.tensors[f"{self.trainable.kind}.{name}"])
            start = f"adam.{name}."
            moments = {key.removeprefix(start): value for key, value in found.tensors.items() if key.startswith(start)}
            if moments:
                self.optimizer.state[tensor] = {
                    key: value if key == "step" else value.to(tensor.device) for key, value in moments.items()
                }
        if self.trainable.generator is not None:
            self.trainable.generator.set_state(found.tensors["generator"])

    def _reset(self) -> None:
        for name, tensor in self.trainable.tensors.items():
            with torch.no_grad():
                tensor.copy_(self._first[name])
        if self.trainable.generator is not None and self._first_drawn is not None:
            self.trainable.generator.set_state(self._first_drawn)
        self.optimizer.state.clear()
        self.state, self.runner.fit = State(), None
        self.course.reset()


_STATE: Mapping[str, Any] = {"step": int, "steps": list, "seconds": (int, float), "bad": int, "memory": dict}


def of_kind(document: Mapping[str, Any], name: str, kind: Any) -> Any:
    """`document[name]`, if it is of `kind` (types, as isinstance takes them; True is no number). Raises KeyError and
    TypeError."""
    value = document[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"its {name} is {str(value)[:60]!r}")
    return value


def _norm(grads: Sequence[Tensor]) -> float:
    """The norm of all `grads` together. One of a tensor by itself in one operation: its last bit is not the same."""
    if len(grads) == 1:
        return float(grads[0].norm())
    return float(torch.stack([grad.square().sum().cpu() for grad in grads]).sum().sqrt())
