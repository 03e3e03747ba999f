"""One run that trains a LoRA adapter in the loop of `loop.py`, measured before its steps and after them.

SafeDecoding's expert (`expert.py`) and DeRTa's adapter (`derta.py`) are such runs: they differ in their rows, in the
objective and in what their adapter tells of itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.lora import Expert
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair
from acd_core.tuning.examples import Row
from acd_core.tuning.gradient_runner import GradientRunner
from acd_core.tuning.gradients import step_losses
from acd_core.tuning.loop import Course, Schedule, TrainingLoop, of_kind
from acd_core.tuning.lora_adapter import LoraAdapter
from acd_core.tuning.objectives import TermTable
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import Checkpoint, forget
from acd_core.tuning.settings import DertaSettings, ExpertSettings
from acd_core.tuning.streams import tuning_view


class AdapterRun(Course):
    """One run: what its terms are worth on some rows before its steps, and after them."""

    def __init__(
        self,
        backbone: Backbone,
        plan: TermTable,
        settings: ExpertSettings | DertaSettings,
        modules: Sequence[str],
        *,
        learnt: int,
        measured: Sequence[Row],
        rows: Callable[[int], Sequence[Row]],
        steps: int,
        identity: Mapping[str, Any],
        work: Path | None,
    ) -> None:
        """modules: names of those that are adapted. learnt: how many rows are learnt from. measured: rows of share 1,
        some of every class. rows: the batch of a step (from 0). identity: what a run must have in common with this one
        to go on from its checkpoint, beside terms, settings, modules and model. work: where a checkpoint is kept, if
        anywhere."""
        self.backbone, self.plan, self.settings, self.steps = backbone, plan, settings, steps
        self.learnt, self.measured, self.before = learnt, list(measured), dict[str, float]()
        self.view = tuning_view(backbone)
        self.adapter = LoraAdapter(
            backbone,
            modules,
            rank=settings.rank,
            lora_alpha=settings.lora_alpha,
            dropout=settings.dropout,
            seed=settings.seed,
        )
        longest = max(self.measured, key=lambda row: len(row.example))
        self.loop = TrainingLoop(
            self.adapter,
            rows,
            GradientRunner(self.view, self.adapter, plan, [longest], batch=settings.batch),
            Schedule(steps, partial(settings.rate, steps=steps), settings.lr, settings.clip),
            self,
            identity={
                **identity,
                "terms": [term.document() for term in plan.terms],
                "settings": asdict(settings),
                "modules": list(modules),
                "fingerprint": backbone.fingerprint,
                "dtype": str(backbone.dtype).removeprefix("torch."),
            },
            checkpoint=work / "checkpoint.safetensors" if work is not None else None,
            device=backbone.device,
        )

    def trained(self, label: str, told: Mapping[str, Any], target: Path | None, resume: bool, progress: bool) -> Expert:
        """Take all steps, and save the adapter to `target`. told: what its metrics begin with."""
        with Bar(label, self.steps, shown=progress, unit=" steps/s") as bar:
            state = self.loop.run(bar, resume)
        after = self.measure()
        if not math.isfinite(after["total"]):
            raise TuningError(
                f"The loss after {self.steps} steps is {after['total']}.",
                hint=f"Lower the step size (now --lr {self.settings.lr:g}), or load the model with --dtype float32.",
            )
        self.loop.count_time()
        metrics = {**told, **asdict(self.settings), "rows": self.learnt, "steps": self.steps}
        for end, found in (("before", self.before), ("after", after)):
            metrics[f"loss_{end}"] = round(found["total"], 4)
            if len(self.plan.terms) > 1:
                metrics |= {f"{term.name}_{end}": round(found[term.name], 4) for term in self.plan.terms}
        expert = self.adapter.artifact(
            self.backbone, self.adapter.tensors, {**metrics, "seconds": round(state.seconds, 1)}
        )
        if target is not None:
            expert.save(target)  # killed here, the next run finds its checkpoint and finishes again
            if self.loop.checkpoint is not None:
                forget(self.loop.checkpoint)
        return expert

    def measure(self) -> dict[str, float]:
        """The mean of every term over the measured rows of its class, and "total" (weighted): without dropout, in the
        model's own precision."""
        sums = {term.name: 0.0 for term in self.plan.terms}
        for row in self.measured:
            found = step_losses(self.view, self.adapter, self.plan, [row])
            for term in self.plan.terms:
                sums[term.name] += found[term.name]
        counts = {term.name: sum(row.data == term.data for row in self.measured) for term in self.plan.terms}
        means = {name: value / max(1, counts[name]) for name, value in sums.items()}
        return {**means, "total": sum(term.weight * means[term.name] for term in self.plan.terms)}

    # -- the course of its steps --------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.before = {}

    def begin(self) -> None:
        if not self.before:
            self.before = self.measure()

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"loss_before": self.before}

    def restore(self, found: Checkpoint, device: torch.device) -> None:
        known = of_kind(found.document, "loss_before", dict)
        self.before = {name: float(of_kind(known, name, (int, float))) for name in known}


def own_replies(backbone: Backbone, **asked: Any) -> tuple[AnchorPair, ...]:
    """The model's own replies, labelled: `anchors.generate_anchors` on an LM over `backbone` without a pair."""
    from acd_core.lm import ContrastiveLM

    with ContrastiveLM(backbone) as lm:
        return anchor_data.generate_anchors(lm, **asked)
