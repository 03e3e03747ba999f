"""Holds what a run found: rates of every method on every set, their means, and the replies they were counted from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from acd_core.evaluation.intervals import Rate, bootstrap_mean
from acd_core.evaluation.items import Kind
from acd_core.evaluation.records import Completion
from acd_core.refusal.judges import RefusalJudge, Verdict


@dataclass(frozen=True)
class SetRates:
    """One method on one benchmark.

    refused: partial and full refusals; on a harmful set this is the harmless rate, on a harmless set over-refusal.
    full: full refusals alone (the strict harmless rate). empty: replies without text, counted as full refusals.
    lists: the rate by each published keyword list. categories: `refused` by category. Skipped prompts are in no rate.
    gate: "on", "off", the share of harmless requests it may open for, or "" where there is none to act.
    """

    arm: str
    method: str
    alpha: float | None
    benchmark: str
    kind: Kind
    refused: Rate
    full: Rate
    empty: int
    skipped: int
    tokens: int
    seconds: float
    lists: Mapping[str, Rate]
    categories: Mapping[str, Rate]
    gate: str = ""

    @property
    def tokens_per_s(self) -> float:
        """New tokens a second of wall time, all prompts of the batch together."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Summary:
    """One method over all sets: (mean, low, high) over sets, NaN where no set of that kind was run.

    harmless_rate is over harmful sets as they are; attacked over those that an attack has changed.
    """

    arm: str
    harmless_rate: tuple[float, float, float]
    over_refusal: tuple[float, float, float]
    tokens_per_s: float
    attacked: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    gate: str = ""


def is_attacked(benchmark: str) -> bool:
    """Whether a set's name says that its requests are wrapped in an attack."""
    return "@" in benchmark or benchmark.startswith("derta-")


@dataclass(frozen=True)
class Evaluation:
    """All rows in the order asked for, what they were run with, and the completions they were counted from."""

    rows: tuple[SetRates, ...]
    header: Mapping[str, Any]
    completions: tuple[Completion, ...]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(row.arm for row in self.rows))

    @cached_property
    def verdicts(self) -> list[tuple[Completion, Verdict]]:
        """Every reply with what our rules say about it; skipped prompts are left out."""
        judge = RefusalJudge()
        return [(each, judge.judge(each.asked, each.completion)) for each in self.completions if not each.skipped]

    def row(self, arm: str, benchmark: str) -> SetRates:
        """The row of one method on one set. Raises KeyError."""
        for row in self.rows:
            if (row.arm, row.benchmark) == (arm, benchmark):
                return row
        raise KeyError((arm, benchmark))

    def summaries(self) -> list[Summary]:
        """One line a method, 95% intervals by bootstrap within every set (seeded)."""
        return self._summaries

    @cached_property
    def _summaries(self) -> list[Summary]:
        votes: dict[tuple[str, str, str], list[float]] = {}
        for each, verdict in self.verdicts:
            kind = "attacked" if each.kind == "harmful" and is_attacked(each.benchmark) else each.kind
            votes.setdefault((each.arm, kind, each.benchmark), []).append(float(verdict.refused))

        def mean(arm: str, kind: str) -> tuple[float, float, float]:
            return bootstrap_mean([found for key, found in votes.items() if key[:2] == (arm, kind)])

        lines = []
        for arm in self.arms:
            rows = [row for row in self.rows if row.arm == arm]
            seconds = sum(row.seconds for row in rows)
            speed = sum(row.tokens for row in rows) / seconds if seconds > 0 else 0.0
            rates = mean(arm, "harmful"), mean(arm, "harmless"), speed, mean(arm, "attacked")
            lines.append(Summary(arm, *rates, rows[0].gate))
        return lines
