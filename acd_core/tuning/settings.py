"""How a run goes, and what its pair remembers of it.

Checked by hand and not by pydantic: its errors would have to be caught and put into the words and hints of ours, one
setting after the other, which is longer than the checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from acd_core.errors import UsageError
from acd_core.tuning.validation import Point


@dataclass(frozen=True)
class TuneSettings:
    """How a run goes. Everything here, with the anchors and the model, fixes the result.

    steps, batch (rows a step), seed. lr: step size as a share of the root mean square of the initial vectors, so that
    one value suits models of any embedding scale. warmup: steps of linear rise; then half a cosine down to a tenth.
    reply_tokens: supervised tokens of a reply. validate_every: steps between points of the validation curve.
    patience: points without improvement after which the run stops (0: never). margin: see `Objective.selection`.
    clip: largest gradient norm of one prompt. micro: rows in memory at a time. checkpointing: compute layers twice and
    keep their inputs only. None for these two: as the free memory asks, and no more; neither changes the gradients
    beyond rounding (fewer rows at a time means other shapes and another order of adding up).
    """

    steps: int = 60
    lr: float = 0.06
    batch: int = 32
    seed: int = 0
    warmup: int = 10
    reply_tokens: int = 24
    validate_every: int = 10
    validation_tokens: int = 20
    patience: int = 0
    margin: float = 0.02
    clip: float = 1.0
    weight_decay: float = 0.0
    micro: int | None = None
    checkpointing: bool | None = None

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 3, "reply_tokens": 1, "validate_every": 1, "validation_tokens": 1}
        check_least(self, {**least, "warmup": 0, "patience": 0})
        if not (math.isfinite(self.lr) and self.lr > 0.0):
            raise UsageError(f"lr is {self.lr!r}; it must be above 0.", hint="The default is --lr 0.06.")
        if not 0.0 <= self.margin <= 1.0:
            raise UsageError(
                f"margin is {self.margin!r}; it must be a share in [0, 1].", hint="The default is --margin 0.02."
            )
        if self.micro is not None and self.micro < 1:
            raise UsageError(f"micro is {self.micro!r}; it must be at least 1.")

    def rate(self, step: int) -> float:
        """The learning rate of step `step` (from 0), as a share of the initial vectors' size."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class ExpertSettings:
    """How an expert is trained, by default as SafeDecoding's authors do. Everything here, with the refusals and the
    model, fixes the result.

    rank, lora_alpha, dropout (on the adapters' inputs): LoRA. lr falls linearly to 0 after `warmup` (a share of all
    steps). clip: largest gradient norm. batch: rows a step. per_request: refusals of one request at most; most: rows in
    all, drawn with the seed (the authors' data sets hold 61 to 72). reply_tokens: supervised tokens of a refusal.
    """

    rank: int = 16
    lora_alpha: float = 64.0
    dropout: float = 0.1
    lr: float = 2e-3
    epochs: int = 2
    batch: int = 1
    warmup: float = 0.03
    clip: float = 0.3
    per_request: int = 2
    most: int = 72
    reply_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"rank": 1, "epochs": 1, "batch": 1, "per_request": 1, "most": 1, "reply_tokens": 1}
        check_least(self, {**least, "seed": 0})
        check_above_zero(self, "lora_alpha", "lr", "clip")
        _check_shares(self, "dropout", "warmup")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`."""
        return _linear(self.lr, self.warmup, step, steps)


KINDS = ("both", "prefix", "transition")
"""What DeRTa's harmful rows are: the paper's method, and its ablation."""
MODULES = ("all", "attention")


@dataclass(frozen=True)
class DertaSettings:
    """How a DeRTa adapter is trained (arXiv 2407.09121). Everything here, with the anchors and the model, fixes the
    result.

    kinds: "both" of the harmful rows, or "prefix" or "transition" alone, twice as many. kept: share of a transition's
    positions that are supervised; the authors take 1 with LoRA and 0.05 (dropout 95%) in full fine-tuning. most:
    harmful replies to learn from. helpful: harmless rows for each of them. modules: "all" projections of the layers, as
    the authors adapt, or "attention" as an expert of SafeDecoding. rank, lora_alpha, dropout: LoRA. lr falls linearly
    to 0 after `warmup` (a share of all steps). clip: largest gradient norm. The authors take rank 96, alpha 16, lr 1e-4
    and batches of 128 for 66 000 rows; ours suit hundreds of rows. epochs: passes over the anchors, each with other
    prefix lengths. reply_tokens: supervised tokens of a reply, and the longest prefix.
    """

    kinds: str = "both"
    kept: float = 1.0
    most: int = 160
    helpful: float = 1.0
    modules: str = "all"
    rank: int = 16
    lora_alpha: float = 32.0
    dropout: float = 0.05
    lr: float = 1e-3
    epochs: int = 2
    batch: int = 12
    warmup: float = 0.0
    clip: float = 1.0
    reply_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"most": 8, "rank": 1, "epochs": 1, "batch": 3, "reply_tokens": 1, "seed": 0}
        check_least(self, least)
        check_above_zero(self, "helpful", "lora_alpha", "lr", "clip")
        _check_shares(self, "dropout", "warmup")
        if not 0.0 < self.kept <= 1.0:
            raise UsageError(f"kept is {self.kept!r}; it must lie in (0, 1].")
        for name, known in (("kinds", KINDS), ("modules", MODULES)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} is {getattr(self, name)!r}.", hint=f"One of {', '.join(known)}.")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`."""
        return _linear(self.lr, self.warmup, step, steps)


def _linear(lr: float, warmup: float, step: int, steps: int) -> float:
    warm = math.ceil(warmup * steps)
    return lr * ((step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm))


def check_least(settings: Any, least: Mapping[str, int]) -> None:
    """Raise UsageError for a field of `settings` below its least value."""
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise UsageError(f"{name} is {getattr(settings, name)!r}; it must be at least {value}.")


Made = TypeVar("Made")


def made_from(kind: type[Made], given: Mapping[str, Any], said: str) -> Made:
    """`given` as checked settings of `kind`, a dataclass. Raises UsageError for an impossible value, and for an unknown
    name, with `said`, in which {} stands for the name."""
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UsageError(said.format(repr(unknown[0])), hint=f"Settings: {', '.join(known)}.")
    return kind(**given)


def metrics_of(history: Mapping[str, Any], settings: TuneSettings, point: Point, plain: Point) -> dict[str, Any]:
    """What a pair remembers of the run that made it (its `metrics`, and its model card)."""
    return {
        "objective": history["objective"],
        "steps": settings.steps,
        "chosen_step": point.step,
        "learning_rate": settings.lr,
        "batch": settings.batch,
        "seed": settings.seed,
        "seconds": history["seconds"],
        "anchors": history["anchors"],
        "anchor_counts": history["counts"],
        "judge": history["judge"],
        "validation_harmless_rate": point.harmless_rate,
        "validation_over_refusal": point.over_refusal,
        "validation_plain_harmless_rate": plain.harmless_rate,
        "validation_plain_over_refusal": plain.over_refusal,
        **point.decoding,
        "selection": history["selection"],
        "margin": settings.margin,
        "revision": history["revision"],
        "curve": history["validation"],
    }


def check_above_zero(settings: Any, *names: str) -> None:
    """Raise UsageError for a field of `settings` that is no finite number above 0."""
    for name in names:
        if not (math.isfinite(getattr(settings, name)) and getattr(settings, name) > 0.0):
            raise UsageError(f"{name} is {getattr(settings, name)!r}; it must be above 0.")


def _check_shares(settings: Any, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(settings, name) < 1.0:
            raise UsageError(f"{name} is {getattr(settings, name)!r}; it must lie in [0, 1).")
