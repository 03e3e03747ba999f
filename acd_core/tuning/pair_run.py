"""One run that tunes a pair: what it measures along its steps, how it steers, and the point that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.gate import Gate
from acd_core.artifacts.pair import PromptPair
from acd_core.chat import Chat
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.dresses import BEHIND, by_kind, dresses_digest
from acd_core.tuning.examples import Batches, Encoder, Example, Row
from acd_core.tuning.gradient_runner import GradientRunner
from acd_core.tuning.loop import Course, Schedule, State, TrainingLoop, of_kind
from acd_core.tuning.losses import refusal_signal
from acd_core.tuning.objectives import Class, Objective
from acd_core.tuning.preparing import Instructions
from acd_core.tuning.progress import Bar
from acd_core.tuning.reading import kept_gate
from acd_core.tuning.runs import Checkpoint, forget
from acd_core.tuning.selection import RULES, choose, rank
from acd_core.tuning.settings import TuneSettings, metrics_of
from acd_core.tuning.soft_prompts import PROMPTS, SoftPrompts
from acd_core.tuning.steering import aim, may_move_again, steer
from acd_core.tuning.streams import Prefix, prefill, shared_start, tuning_view
from acd_core.tuning.validation import Point, Validator


@dataclass(frozen=True)
class TuneResult:
    """The tuned pair, what happened on the way (see `history.json`), and the folder it was saved to, if any.

    Where a run steers, its losses are not comparable from step to step: the offsets in them move ("steering").
    """

    pair: PromptPair
    history: dict[str, Any]
    path: Path | None = None
    validation: Point | None = None
    plain: Point | None = None


@dataclass
class Measured:
    """What a run knows of its prompts. curve: the points along the steps, and after the last step those of the choice
    of alpha and the rest. best: the prompts at `best_step`. steering: what `steer` said, a record a move."""

    best_step: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    curve: list[Point] = field(default_factory=list)
    plain: Point | None = None
    steering: list[dict[str, float]] = field(default_factory=list)


class PairRun(Course):
    """One run of `tune`, its parts at hand."""

    def __init__(
        self,
        backbone: Backbone,
        plan: Objective,
        settings: TuneSettings,
        split: anchor_data.AnchorSplit,
        validation: tuple[Instructions, Instructions],
        judge: Any,
        work: Path | None,
        name: str,
        anchors: str,
        gate: Gate | None = None,
        on_point: Callable[[Point], None] | None = None,
    ) -> None:
        """validation: (harmless, harmful) instructions. work: where a checkpoint is kept, if anywhere. name: of the
        objective. anchors: their digest. on_point: called with every point of the curve."""
        self.backbone, self.plan, self.settings, self.split = backbone, plan, settings, split
        self.gate, self.on_point, self.measured = gate, on_point, Measured()
        self.view = tuning_view(backbone)
        self.encoder = Encoder(backbone, Chat(backbone.tokenizer))
        self.classes = self.encoder.classes(split, plan, settings.reply_tokens)
        self.batches = Batches(
            self.classes, settings.batch, settings.seed, plan.rows, self._dressed if plan.dressed else None
        )
        # In dresses every step's rows start in their own way.
        plain = None if plan.dressed else self._plain_prefix(self.classes)
        self.signal = self._signal() if plan.decides else None
        self.validator = Validator(
            backbone,
            self.encoder,
            validation[0],
            validation[1],
            judge,
            settings.validation_tokens,
            gate=gate if plan.dressed else None,
        )
        texts = {"safe": plan.initial_safe, "adversarial": plan.initial_adversarial}
        self.prompts = SoftPrompts.from_texts(backbone, self.encoder.before, texts, plain)
        runner = GradientRunner(
            self.view,
            self.prompts,
            plan,
            self._longest(),
            batch=settings.batch,
            micro=settings.micro,
            checkpointing=settings.checkpointing,
            signal=self.signal,
        )
        judged = f"{anchor_data.judge_name(judge)} {getattr(judge, 'version', '')}".strip()
        self.identity: dict[str, Any] = {
            "objective": name,
            "terms": [term.document() for term in plan.terms],
            "alpha": plan.alpha,
            "initial": [plan.initial_safe, plan.initial_adversarial],
            "tried": {
                "alpha": list(plan.alphas),
                "plausibility": list(plan.plausibilities),
                "contrast_tokens": list(plan.contrast_token_counts),
            },
            "selection": RULES[plan.selection],
            "steers": plan.steers,
            "settings": asdict(settings),
            "anchors": anchors,
            "learnt_from": anchor_data.digest((*split.refused, *split.accepted, *split.harmless)),
            "validation_requests": self.validator.digest,
            "fingerprint": backbone.fingerprint,
            "dtype": str(backbone.dtype).removeprefix("torch."),
            "judge": judged,
            "gate": gate.id if gate is not None else None,
            **({"dresses": dresses_digest()} if plan.dressed else {}),
        }
        self.loop = TrainingLoop(
            self.prompts,
            self.batches.rows,
            runner,
            Schedule(settings.steps, settings.rate, settings.lr, settings.clip, (0.9, 0.99), settings.weight_decay),
            self,
            identity=self.identity,
            checkpoint=work / "checkpoint.safetensors" if work is not None else None,
            device=backbone.device,
        )

    def go(self, target: Path | None, resume: bool, progress: bool) -> TuneResult:
        """Take all steps, choose how the best prompts are decoded, and save the pair to `target`."""
        with Bar("Tuning the pair", self.settings.steps, shown=progress, unit=" steps/s") as bar:
            state = self.loop.run(bar, resume)
            point = self._choose_decoding()
        return self._finish(state, point, target)

    # -- the course of its steps --------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.measured = Measured()

    def begin(self) -> None:
        if self.measured.plain is None:
            self.measured.plain = self.validator.measure_plain()

    def offsets(self) -> dict[str, float]:
        last = self.measured.steering[-1] if self.measured.steering else {}
        return {name: last[name] for name in last if name in ("joint", "safe")}

    def after_step(self, state: State) -> None:
        """Measure a point where one is asked for; move the threshold there, and between points every few steps."""
        steering = self.measured.steering
        if state.step % self.settings.validate_every == 0 or state.step == self.settings.steps:
            self._measure(state)
        elif self._steers(state) and steering and may_move_again(steering[-1], state.step):
            self._steer(state)

    def ended_early(self, state: State) -> bool:
        since = sum(point.step > self.measured.best_step for point in self.measured.curve)
        return bool(self.settings.patience) and since >= self.settings.patience

    def figures(self) -> str:
        if not self.measured.curve:
            return ""
        point = self.measured.curve[-1]
        return f"  harmless {point.harmless_rate:.2f}  over-refusal {point.over_refusal:.2f}"

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        found = self.measured
        document = {
            "best_step": found.best_step,
            "curve": [point.as_dict() for point in found.curve],
            "plain": found.plain.as_dict() if found.plain else None,
            "steering": found.steering,
        }
        return {f"best.{name}": prompt for name, prompt in found.best.items()}, document

    def restore(self, found: Checkpoint, device: torch.device) -> None:
        document = found.document
        self.measured = Measured(
            best_step=of_kind(document, "best_step", int),
            best={
                name: found.tensors[f"best.{name}"].to(device) for name in PROMPTS if f"best.{name}" in found.tensors
            },
            curve=[Point(**point) for point in document["curve"]],
            plain=Point(**document["plain"]) if document["plain"] else None,
            steering=of_kind(document, "steering", list),
        )

    def _measure(self, state: State) -> None:
        prompts, measured = self.prompts.tensors, self.measured
        point = self.validator.measure(prompts["safe"], prompts["adversarial"], self.plan.alpha, state.step)
        known = self._best()
        measured.curve.append(point)
        if known is None or self._rank(point) > self._rank(known):
            measured.best_step = point.step
            measured.best = {name: prompt.detach().clone() for name, prompt in prompts.items()}
        if self._steers(state):
            self._steer(state, point)
        if self.on_point is not None:
            self.on_point(point)

    def _steers(self, state: State) -> bool:
        return self.plan.steers and state.step < self.settings.steps  # after the last step nobody would follow

    def _steer(self, state: State, point: Point | None = None) -> None:
        """Move the threshold between refusing and answering towards where the margin would have it. point: what was
        just measured with these very prompts, if anything was."""
        measured, prompts = self.measured, self.prompts.tensors
        assert measured.plain is not None
        assert self.signal is not None
        joint, alone = self.validator.log_odds(prompts["safe"], prompts["adversarial"], self.plan.alpha, self.signal)
        wanted = aim(measured.plain.over_refusal + self.settings.margin, len(joint))
        refused = round(point.over_refusal * len(joint)) if point is not None else None
        done = measured.curve[-1].harmless_rate == 1.0  # nothing is to be won by refusing more
        last = measured.steering[-1] if measured.steering else {}
        now = steer(last, state.step, joint, alone, wanted, refused, only_less=done)
        if last and now["step"] == last["step"]:
            measured.steering[-1] = now
        elif now:
            measured.steering.append(now)

    def _best(self) -> Point | None:
        return next((point for point in self.measured.curve if point.step == self.measured.best_step), None)

    def _rank(self, point: Point) -> tuple[float, ...]:
        assert self.measured.plain is not None
        return rank(point, self.plan.selection, self.measured.plain, self.settings.margin)

    # -- its end ------------------------------------------------------------------------------------------------------

    def _choose_decoding(self) -> Point:
        """How the best prompts are decoded; what a killed run measured already is in its curve and not repeated."""
        measured, start = self.measured, self._best()
        assert start is not None

        def measure(**decoding: Any) -> Point:
            for known in measured.curve:
                if known.step == start.step and known.decoding == decoding:
                    return known
            point = self.validator.measure(
                measured.best["safe"], measured.best["adversarial"], step=start.step, **decoding
            )
            measured.curve.append(point)
            self.loop.count_time()
            self.loop.save()
            return point

        return choose(start, self.plan, measure, self._rank)

    def _finish(self, state: State, point: Point, target: Path | None) -> TuneResult:
        measured = self.measured
        assert measured.plain is not None
        history = {
            **self.identity,
            "model": self.backbone.model_id,
            "revision": self.backbone.revision,
            "counts": self.split.counts,
            "margin": self.settings.margin,
            "plain": measured.plain.as_dict(),
            "chosen": point.as_dict(),
            "validation": [item.as_dict() for item in measured.curve],
            "steps": state.steps,
            "steering": measured.steering,
            "seconds": round(state.seconds, 2),
            "memory": state.memory,
        }
        metrics = metrics_of(history, self.settings, point, measured.plain)
        pair = self.prompts.artifact(self.backbone, measured.best, metrics, gate=self.gate, **point.decoding)
        if target is not None:
            pair.save(target, history=history)  # killed here, the next run finds its checkpoint and finishes again
            if self.loop.checkpoint is not None:
                forget(self.loop.checkpoint, kept_gate(self.loop.checkpoint.parent))
        return TuneResult(pair, history, target, point, measured.plain)

    # -- what it learns from ------------------------------------------------------------------------------------------

    def _dressed(self, name: Class, at: int, dress: str) -> Example:
        return self.encoder.example(self.split.of(name)[at], self.settings.reply_tokens, dress)

    def _longest(self) -> list[Row]:
        """The longest row of every class; in a dress, what stands behind the request counts."""
        longest = []
        for name, examples in self.classes.items():
            at = max(range(len(examples)), key=lambda place: len(examples[place]))
            found = [examples[at]]
            if self.plan.dressed:
                found += [self._dressed(name, at, each.name) for each in by_kind()[BEHIND]]
            longest.append(Row(name, max(found, key=len), 1.0))
        return longest

    def _plain_prefix(self, classes: Mapping[Class, Sequence[Example]]) -> Prefix | None:
        """What all layouts without system text start with, run once; None where no loss looks at the plain model."""
        rows = [
            example.request.plain
            for name, examples in classes.items()
            if "plain" in self.plan.streams(name)
            for example in examples
        ]
        if not rows:
            return None
        with torch.no_grad():
            return prefill(self.view, rows[0][: shared_start(rows)], fast=True)

    def _signal(self) -> Tensor:
        """What a reply's first token says about refusing, learnt from the anchors' labels."""
        pairs = [*self.split.refused, *self.split.accepted, *self.split.harmless]
        first: dict[str, list[int]] = {"refused": [], "accepted": []}
        for pair in pairs:
            first[pair.label].append(self.encoder.example(pair, 1).reply[0])
        signal = refusal_signal(first["refused"], first["accepted"], self.backbone.vocab_size)
        return signal.to(self.backbone.device)
