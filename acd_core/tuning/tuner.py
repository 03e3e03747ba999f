"""Opposite Prompt Optimization: tune the two soft prompts of a pair on a frozen model.

`tune` is the whole recipe: anchor pairs (generated if none are given), initialisation from two manual texts, steps of
AdamW on the prompts alone, a validation curve by decoding, the choice of the best point and of alpha under a stated
rule, and a saved pair. Prompts are float32 whatever the model is. A killed run continues where it was and ends in the
same result; a half-written pair cannot come about.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.gate import Gate
from acd_core.artifacts.pair import PromptPair, check_target
from acd_core.chat import Chat
from acd_core.errors import PairError, TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.checkpoint import Checkpoint, State, forget
from acd_core.tuning.choice import RULES, choose, rank
from acd_core.tuning.dresses import BEHIND, by_kind, dresses_digest
from acd_core.tuning.examples import Batches, Encoder, Example
from acd_core.tuning.gradients import PROMPTS
from acd_core.tuning.memory import Fit
from acd_core.tuning.objectives import (
    DEFAULT_OBJECTIVE,
    GATED_OBJECTIVE,
    Class,
    Objective,
    get_objective,
    refusal_signal,
)
from acd_core.tuning.preparing import (
    Instructions,
    Model,
    Pairs,
    check_validation,
    more_harmful,
    opened,
    pairs_of,
    split_for,
)
from acd_core.tuning.progress import Bar
from acd_core.tuning.reading import gate_for, kept_gate
from acd_core.tuning.runs import alone_in, work_folder
from acd_core.tuning.settings import TuneSettings, metrics_of, settings_of
from acd_core.tuning.stepping import Stepper
from acd_core.tuning.streams import Prefix, prefill, shared_start, tuning_view
from acd_core.tuning.threshold import aim, due, steer
from acd_core.tuning.validation import Point, Validator

CHECKPOINT_EVERY = 10
MAX_BAD_STEPS = 5
"""Steps in a row without finite gradients after which the run gives up."""


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


def tune(
    model: Model,
    anchors: Pairs = None,
    *,
    objective: str | Objective | None = None,
    gate: bool | Gate | None = None,
    refusals: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    validation: tuple[Instructions, Instructions] | None = None,
    judge: Any = None,
    resume: bool = True,
    progress: bool = True,
    on_point: Callable[[Point], None] | None = None,
    **settings: Any,
) -> TuneResult:
    """Tune a pair for `model` and, with `out`, save it there.

    model: a model id or folder, a Backbone, or a ContrastiveLM (needed only where anchors are generated).
    anchors: pairs, a JSONL file of pairs, or None to generate them from the bundled instructions. They are kept, to be
    inspected and corrected, in `<out>.tuning/anchors.jsonl`. validation: (harmless, harmful) instructions that tuning
    never learns from; default the bundled ones. judge: default RefusalJudge. `settings`: see TuneSettings.
    objective: None takes "gated" where the model has a gate worth the name, else "joint". gate: True learns one first
    (see `reading`), False makes a pair without, a Gate is taken as it is; None learns one unless anchors are given.
    refusals: texts to learn refusing from, instead of ours, where refusals are supplied.
    resume: continue a killed run with the same settings, anchors and model from `<out>.tuning/`.
    on_point: called with every point of the validation curve.
    Raises TuningError (too few anchors, a model that cannot be tuned, divergence, another run towards `out`, an `out`
    that is something else or cannot be written to) and UsageError (impossible settings).
    """
    settings_of(settings)  # an impossible setting, file or folder fails here, before anything is computed
    if objective is not None:
        get_objective(objective)
    if isinstance(anchors, (str, os.PathLike)):
        anchors = anchor_data.load_pairs(anchors)
    target = Path(out) if out is not None else None
    work = work_folder(target) if target is not None else None
    with alone_in(work) if work is not None else contextlib.nullcontext():
        if target is not None:
            try:
                check_target(target)
            except PairError as error:
                raise TuningError(error.message, hint=error.hint) from error
        backbone, lm = opened(model)
        judge = anchor_data.default_judge() if judge is None else judge
        safe, unsafe = validation or (
            anchor_data.bundled_instructions("validation_safe"),
            anchor_data.bundled_instructions("validation_unsafe"),
        )
        if not safe or not unsafe:
            raise TuningError("The validation split needs harmless and harmful instructions, at least one of each.")
        seed = int(settings.get("seed", 0))
        if isinstance(gate, Gate):
            gate.check(backbone)
        found = gate if isinstance(gate, Gate) else None
        if gate is True or (gate is None and anchors is None):
            found = gate_for(backbone, (safe, unsafe), work if resume else None, seed, progress)
        name = objective if isinstance(objective, str) else "custom"
        if objective is None:
            name = objective = DEFAULT_OBJECTIVE if found is None else GATED_OBJECTIVE
        plan = get_objective(objective)
        chosen = settings_of({**plan.settings, **settings})
        pairs = pairs_of(anchors, lm, backbone, work, judge, chosen.seed, progress, plan)
        check_validation(pairs, safe, unsafe)
        more = more_harmful(pairs, (*safe, *unsafe)) if plan.dressed and anchors is None else ()
        split = split_for(pairs, plan, refusals, chosen.seed, more)
        digest = anchor_data.digest(pairs)
        run = _Run(backbone, plan, chosen, split, Validator, (safe, unsafe), judge, work, name, digest, found)
        return run.go(target, resume, progress, on_point)


class _Run:
    """One run of `tune`, its parts at hand."""

    def __init__(
        self,
        backbone: Backbone,
        plan: Objective,
        settings: TuneSettings,
        split: anchor_data.AnchorSplit,
        validator: type[Validator],
        validation: tuple[Instructions, Instructions],
        judge: Any,
        work: Path | None,
        name: str,
        anchors: str,
        gate: Gate | None,
    ) -> None:
        self.backbone, self.plan, self.settings, self.split = backbone, plan, settings, split
        self.gate = gate
        self.view = tuning_view(backbone)
        self.encoder = Encoder(backbone, Chat(backbone.tokenizer))
        self.classes = self.encoder.classes(split, plan, settings.reply_tokens)
        worn = self._worn if plan.dressed else None
        self.batches = Batches(self.classes, settings.batch, settings.seed, plan.rows, worn)
        # In dresses every step's rows start in their own way.
        self.plain_prefix = None if plan.dressed else self._plain_prefix(self.classes)
        self.signal = self._signal() if plan.decides else None
        self.validator = validator(
            backbone,
            self.encoder,
            validation[0],
            validation[1],
            judge,
            settings.validation_tokens,
            gate=gate if plan.dressed else None,
        )
        self.checkpoint = work / "checkpoint.safetensors" if work is not None else None
        self.stepper = Stepper(
            self.view, plan, self.encoder.before, settings, self._longest(), self.plain_prefix, self.signal
        )
        judged = f"{anchor_data.judge_name(judge)} {getattr(judge, 'version', '')}".strip()
        self.identity: dict[str, Any] = {
            "objective": name,
            "terms": [asdict(term) for term in plan.terms],
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

    @property
    def memory(self) -> dict[str, Any]:
        """How steps go under the memory there is; empty before the first."""
        return asdict(self.stepper.fit) if self.stepper.fit is not None else {}

    def _worn(self, name: Class, at: int, dress: str) -> Example:
        return self.encoder.example(self.split.of(name)[at], self.settings.reply_tokens, dress)

    def _longest(self) -> dict[Class, list[Example]]:
        """The longest examples of every class; in a dress, what stands behind the request counts."""
        longest = {}
        for name, examples in self.classes.items():
            at = max(range(len(examples)), key=lambda place: len(examples[place]))
            longest[name] = [examples[at]]
            if self.plan.dressed:
                longest[name] += [self._worn(name, at, each.name) for each in by_kind()[BEHIND]]
        return longest

    # -- the course of a run ------------------------------------------------------------------------------------------

    def go(
        self, target: Path | None, resume: bool, progress: bool, on_point: Callable[[Point], None] | None
    ) -> TuneResult:
        started = time.monotonic()
        with Bar("Tuning the pair", self.settings.steps, shown=progress, unit=" steps/s") as bar:
            state = self._start(resume, bar)
            before = state.seconds
            bar.advance(state.step)
            try:
                while state.step < self.settings.steps and not self._tired(state):
                    losses = self._step(state)
                    state.step += 1
                    state.seconds = before + time.monotonic() - started
                    if state.step % self.settings.validate_every == 0 or state.step == self.settings.steps:
                        self._measure(state, on_point)
                    elif self._steers(state) and state.steering and due(state.steering[-1], state.step):
                        self._steer(state)
                    if state.step % CHECKPOINT_EVERY == 0:
                        self._save(state)
                    bar.advance(1, _figures(losses, state))
            except KeyboardInterrupt:
                # An interrupt may fall between the two prompts' updates; the last checkpoint on disk is whole.
                bar.say("Interrupted. The same command continues from the last checkpoint.")
                raise
            self._save(state)
            point = self._choose_decoding(state, lambda: before + time.monotonic() - started)
        return self._finish(state, point, target)

    def _start(self, resume: bool, bar: Bar) -> State:
        """The state to go on from: a checkpoint of the very same run, or the initial texts."""
        state, file = self._initial(), self.checkpoint
        found = Checkpoint.read(file) if resume and file is not None else None
        if found is not None:
            try:
                state.restore(found, self.identity, self.backbone.device)
                self.stepper.fit = Fit(**state.memory) if state.memory else None
                bar.say(f"Continuing at step {state.step} of {self.settings.steps}.")
            except (TuningError, TypeError) as error:
                bar.say(f"Starting anew: {error}")
                state = self._initial()
        elif resume and file is not None and file.exists():
            bar.say(f"Starting anew: the checkpoint {str(file)!r} cannot be read.")
        if state.plain is None:
            state.plain = self.validator.measure_plain()
        return state

    def _initial(self) -> State:
        texts = {"safe": self.plan.initial_safe, "adversarial": self.plan.initial_adversarial}
        prompts = {name: self._embed(text) for name, text in texts.items()}
        return State.start(prompts, self.settings.lr, self.settings.weight_decay)

    def _embed(self, text: str) -> Tensor:
        ids = torch.tensor(Chat(self.backbone.tokenizer).encode_text(text), dtype=torch.long)
        with torch.no_grad():
            vectors = self.backbone.embed(ids)
        precision = torch.float64 if vectors.dtype == torch.float64 else torch.float32
        return vectors.detach().to(precision).clone().requires_grad_(True)

    def _step(self, state: State) -> dict[str, float]:
        """One update of both prompts. Steps without finite gradients are skipped; several in a row end the run."""
        settings = self.settings
        found = self.stepper.gradients(state.prompts, self.batches.rows(state.step), state.offsets)
        state.memory = self.memory
        rate = settings.rate(state.step)
        state.steps.append({"step": float(state.step + 1), "rate": rate, **found.losses})
        if not found.finite:
            state.bad += 1
            if state.bad >= MAX_BAD_STEPS:
                raise TuningError(
                    f"The losses were not finite in {state.bad} steps in a row (the last: step {state.step + 1}).",
                    hint=f"Lower the step size (now --lr {settings.lr}), or load the model with --dtype float32.",
                )
            return found.losses
        state.bad = 0
        for group, name in zip(state.optimizer.param_groups, PROMPTS):
            grad = found.grads[name]
            norm = float(grad.norm())
            state.prompts[name].grad = grad * min(1.0, settings.clip / (norm + 1e-12))
            group["lr"] = rate * group["scale"]
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        return found.losses

    def _measure(self, state: State, on_point: Callable[[Point], None] | None) -> None:
        prompts = state.prompts
        point = self.validator.measure(prompts["safe"], prompts["adversarial"], self.plan.alpha, state.step)
        known = self._best(state)
        state.curve.append(point)
        if known is None or self._rank(point, state) > self._rank(known, state):
            state.best_step = point.step
            state.best = {name: prompt.detach().clone() for name, prompt in prompts.items()}
        if self._steers(state):
            self._steer(state, point)
        if on_point is not None:
            on_point(point)

    def _steers(self, state: State) -> bool:
        return self.plan.steers and state.step < self.settings.steps  # after the last step nobody would follow

    def _steer(self, state: State, point: Point | None = None) -> None:
        """Move the line between refusing and answering towards where the margin would have it. point: what was just
        measured with these very prompts, if anything was."""
        assert state.plain is not None
        assert self.signal is not None
        prompts = state.prompts
        joint, alone = self.validator.log_odds(prompts["safe"], prompts["adversarial"], self.plan.alpha, self.signal)
        wanted = aim(state.plain.over_refusal + self.settings.margin, len(joint))
        refused = round(point.over_refusal * len(joint)) if point is not None else None
        done = state.curve[-1].harmless_rate == 1.0  # nothing is to be won by refusing more
        last = state.steering[-1] if state.steering else {}
        now = steer(last, state.step, joint, alone, wanted, refused, only_less=done)
        if last and now["step"] == last["step"]:
            state.steering[-1] = now
        elif now:
            state.steering.append(now)

    def _best(self, state: State) -> Point | None:
        return next((point for point in state.curve if point.step == state.best_step), None)

    def _rank(self, point: Point, state: State) -> tuple[float, ...]:
        assert state.plain is not None
        return rank(point, self.plan.selection, state.plain, self.settings.margin)

    def _tired(self, state: State) -> bool:
        since = sum(point.step > state.best_step for point in state.curve)
        return bool(self.settings.patience) and since >= self.settings.patience

    def _choose_decoding(self, state: State, seconds: Callable[[], float]) -> Point:
        """How the best prompts are decoded; what a killed run measured already is in its curve and not repeated."""
        start = self._best(state)
        assert start is not None

        def measure(**decoding: Any) -> Point:
            for known in state.curve:
                if known.step == start.step and known.decoding == decoding:
                    return known
            point = self.validator.measure(state.best["safe"], state.best["adversarial"], step=start.step, **decoding)
            state.curve.append(point)
            state.seconds = seconds()
            self._save(state)
            return point

        return choose(start, self.plan, measure, lambda point: self._rank(point, state))

    def _finish(self, state: State, point: Point, target: Path | None) -> TuneResult:
        assert state.plain is not None
        history = {
            **self.identity,
            "model": self.backbone.model_id,
            "revision": self.backbone.revision,
            "counts": self.split.counts,
            "margin": self.settings.margin,
            "plain": state.plain.as_dict(),
            "chosen": point.as_dict(),
            "validation": [item.as_dict() for item in state.curve],
            "steps": state.steps,
            "steering": state.steering,
            "seconds": round(state.seconds, 2),
            "memory": state.memory,
        }
        pair = PromptPair.from_tensors(
            state.best["safe"],
            state.best["adversarial"],
            backbone=self.backbone,
            metrics=metrics_of(history, self.settings, point, state.plain),
            gate=self.gate,
            **point.decoding,
        )
        if target is not None:
            pair.save(target, history=history)  # killed here, the next run finds its checkpoint and finishes again
            if self.checkpoint is not None:
                forget(self.checkpoint, kept_gate(self.checkpoint.parent))
        return TuneResult(pair, history, target, point, state.plain)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self, state: State) -> None:
        if self.checkpoint is not None:
            state.checkpoint(self.identity).write(self.checkpoint)

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


def _figures(losses: Mapping[str, float], state: State) -> str:
    shown = f"loss {losses['total']:.3f}"
    if state.curve:
        point = state.curve[-1]
        shown += f"  harmless {point.harmless_rate:.2f}  over-refusal {point.over_refusal:.2f}"
    return shown
