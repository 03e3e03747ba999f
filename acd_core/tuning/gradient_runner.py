"""The gradients of a step, in as many passes as memory asks for: the fallbacks of every run.

Gradients do not depend on the outcome beyond rounding (unless what is trained draws random numbers), and a resumed run
keeps what its first part decided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from acd_core.engine.memory import give_back, is_out_of_memory
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone, text_config
from acd_core.model.hidden_states import layer_count
from acd_core.tuning.examples import Row
from acd_core.tuning.gradients import StepGradients, step_gradients
from acd_core.tuning.objectives import TermTable
from acd_core.tuning.recompute import recomputing_view
from acd_core.tuning.step_memory import Fit, Need, budget_of, crude_bytes, fit, probe
from acd_core.tuning.streams import computes_faster
from acd_core.tuning.trainable import Trainable, check_fits


class GradientRunner:
    """Runs `step_gradients` so that it fits. `fit` is decided at the first step, or given by a resumed run."""

    def __init__(
        self,
        view: Backbone,
        trainable: Trainable,
        objective: TermTable,
        longest: Sequence[Row],
        *,
        batch: int,
        micro: int | None = None,
        checkpointing: bool | None = None,
        signal: Tensor | None = None,
    ) -> None:
        """longest: the longest row of each class. batch: rows a step. micro, checkpointing: asked for by the caller,
        and then kept. Raises UsageError where the objective and the trainable do not go together."""
        check_fits(trainable, objective)
        self._view, self._trainable, self._objective, self._signal = view, trainable, objective, signal
        self._batch, self._micro, self._checkpointing = batch, micro, checkpointing
        self._worst = max(longest, key=lambda row: len(row.example) * len(objective.streams(row.data)))
        self._recomputing_view: Backbone | None = None
        self.fit: Fit | None = None

    def gradients(self, rows: Sequence[Row], offsets: Mapping[str, float]) -> StepGradients:
        """Losses and gradients of `rows`. Where memory runs out all the same, with fewer rows at a time."""
        if self.fit is None:
            self.fit = self._fit() if self._trainable.repeatable else Fit(self._micro or self._batch)
        generator = self._trainable.generator
        drawn = generator.get_state() if generator is not None else None
        while True:
            view = self._recomputing() if self.fit.checkpointing else self._view
            try:
                return self._run(view or self._view, rows, self.fit.micro, offsets)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.fit = self._smaller(self.fit)
            if generator is not None and drawn is not None:
                generator.set_state(drawn)
            give_back(self._view.device)

    def _run(
        self, view: Backbone, rows: Sequence[Row], micro: int | None, offsets: Mapping[str, float] | None = None
    ) -> StepGradients:
        return step_gradients(
            view, self._trainable, self._objective, rows, micro=micro, signal=self._signal, offsets=offsets
        )

    def _fit(self) -> Fit:
        device = self._view.device
        if self._checkpointing and self._recomputing() is None:
            raise TuningError(
                f"The layers of {self._view.model_id!r} cannot be computed twice: they were not found, or not copied.",
                hint="Leave --checkpointing out; a smaller --micro saves memory too.",
            )
        budget = budget_of(device)
        tokens = self._trainable.positions + max(len(self._worst.example), len(self._worst.example.request.plain))
        crude = crude_bytes(
            (self._micro or self._batch) * tokens * len(self._objective.streams(self._worst.data)),
            layer_count(self._view.model),
            int(getattr(text_config(self._view.model.config), "hidden_size", 0) or self._view.embedding_width),
            self._view.vocab_size,
        )
        if computes_faster(self._view):
            # Autocast keeps a bf16 copy of every weight for each of the two prefixes and two streams.
            crude += 8 * sum(weight.numel() for weight in self._view.model.parameters())
        if budget is not None and crude <= budget and not self._checkpointing:
            return Fit(self._micro or self._batch)

        def needed(view: Backbone | None) -> Need | None:
            if view is None:
                return None
            return probe(lambda rows: self._run(view, self._unlike(rows), None), device)

        return fit(
            self._batch,
            budget,
            lambda: needed(self._view),
            lambda: needed(self._recomputing()),
            micro=self._micro,
            checkpointing=self._checkpointing,
        )

    def _unlike(self, count: int) -> list[Row]:
        """`count` rows as long as the longest that start with different ids, so that nothing is run once for all."""
        request = self._worst.example.request
        turned = replace(request, after=request.after[::-1], plain=request.plain[::-1])
        other = replace(self._worst, example=replace(self._worst.example, request=turned))
        return [(self._worst, other)[at % 2] for at in range(count)]

    def _smaller(self, last: Fit) -> Fit:
        if last.micro > 1:
            return Fit(last.micro // 2, last.checkpointing)
        untried = not last.checkpointing and self._checkpointing is None and self._trainable.repeatable
        if untried and self._recomputing() is not None:
            return Fit(1, True)
        raise TuningError(
            "The device has no room even for one row with its gradients.",
            hint="Load the model in bf16, lower --reply-tokens, or use a larger device.",
        )

    def _recomputing(self) -> Backbone | None:
        if self._recomputing_view is None:
            self._recomputing_view = recomputing_view(self._view)
        return self._recomputing_view
