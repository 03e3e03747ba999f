"""The gradients of a step, in as many passes as memory asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from acd_core.engine.memory import give_back, is_out_of_memory
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone, text_config
from acd_core.model.hidden_states import layer_count
from acd_core.tuning.examples import Example, Row
from acd_core.tuning.gradients import StepGradients, step_gradients
from acd_core.tuning.memory import Fit, Need, budget_of, crude_bytes, fit, probe
from acd_core.tuning.objectives import Class, Objective
from acd_core.tuning.recompute import recomputing_view
from acd_core.tuning.settings import TuneSettings
from acd_core.tuning.streams import Prefix, computes_faster


class Stepper:
    """Runs `step_gradients` so that it fits. `fit` is decided at the first step, or given by a resumed run."""

    def __init__(
        self,
        view: Backbone,
        plan: Objective,
        before: Sequence[int],
        settings: TuneSettings,
        classes: Mapping[Class, Sequence[Example]],
        plain: Prefix | None,
        signal: Tensor | None,
    ) -> None:
        self._view, self._plan, self._before, self._settings = view, plan, before, settings
        self._plain, self._signal = plain, signal
        longest = [Row(name, max(examples, key=len), 1.0) for name, examples in classes.items()]
        self._worst = max(longest, key=lambda row: len(row.example) * len(plan.streams(row.data)))
        self._twice: Backbone | None = None
        self.fit: Fit | None = None

    def gradients(
        self, prompts: Mapping[str, Tensor], rows: Sequence[Row], offsets: Mapping[str, float]
    ) -> StepGradients:
        """Losses and gradients of `rows`. Where memory runs out all the same, with fewer rows at a time."""
        if self.fit is None:
            self.fit = self._fit(prompts)
        while True:
            view = self._recomputing() if self.fit.checkpointing else self._view
            try:
                return self._run(view or self._view, prompts, rows, self.fit.micro, offsets)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.fit = self._smaller(self.fit)
            give_back(self._view.device)

    def _run(
        self,
        view: Backbone,
        prompts: Mapping[str, Tensor],
        rows: Sequence[Row],
        micro: int | None,
        offsets: Mapping[str, float] | None = None,
    ) -> StepGradients:
        return step_gradients(
            view,
            self._plan,
            self._before,
            prompts,
            rows,
            micro=micro,
            plain=self._plain,
            signal=self._signal,
            offsets=offsets,
        )

    def _fit(self, prompts: Mapping[str, Tensor]) -> Fit:
        asked, device = self._settings, self._view.device
        if asked.checkpointing and self._recomputing() is None:
            raise TuningError(
                f"The layers of {self._view.model_id!r} cannot be computed twice: they were not found, or not copied.",
                hint="Leave --checkpointing out; a smaller --micro saves memory too.",
            )
        budget = budget_of(device)
        prefix = len(self._before) + max(len(prompt) for prompt in prompts.values())
        tokens = prefix + max(len(self._worst.example), len(self._worst.example.request.plain))
        crude = crude_bytes(
            (asked.micro or asked.batch) * tokens * len(self._plan.streams(self._worst.data)),
            layer_count(self._view.model),
            int(getattr(text_config(self._view.model.config), "hidden_size", 0) or self._view.embedding_width),
            self._view.vocab_size,
        )
        if computes_faster(self._view):
            # Autocast keeps a bf16 copy of every weight for each of the two prefixes and two streams.
            crude += 8 * sum(weight.numel() for weight in self._view.model.parameters())
        if budget is not None and crude <= budget and not asked.checkpointing:
            return Fit(asked.micro or asked.batch)

        def needed(view: Backbone | None) -> Need | None:
            if view is None:
                return None
            return probe(lambda rows: self._run(view, prompts, self._unlike(rows), None), device)

        return fit(
            asked.batch,
            budget,
            lambda: needed(self._view),
            lambda: needed(self._recomputing()),
            micro=asked.micro,
            checkpointing=asked.checkpointing,
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
        if not last.checkpointing and self._settings.checkpointing is None and self._recomputing() is not None:
            return Fit(1, True)
        raise TuningError(
            "The device has no room even for one row with its gradients.",
            hint="Load the model in bf16, lower --reply-tokens, or use a larger device.",
        )

    def _recomputing(self) -> Backbone | None:
        if self._twice is None:
            self._twice = recomputing_view(self._view)
        return self._twice
