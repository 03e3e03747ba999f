"""Computes confidence intervals for rates (Wilson's, and the percentile bootstrap for means of them), and writes them.

By hand and not by scipy: it would be a new dependency of every evaluation for two short formulas, and its bootstrap
draws otherwise, so that kept reports could not be made again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """`count` of `total`, with a 95% interval. `value` is NaN when total is 0; low and high are then 0 and 1."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.total else "-"

    def to_dict(self) -> dict[str, float | int | None]:
        """For JSON; the value is None when nothing was counted."""
        value = self.value if self.total else None
        return {"value": value, "count": self.count, "total": self.total, "low": self.low, "high": self.high}


def wilson(count: int, total: int, z: float = Z95) -> Rate:
    """Wilson's score interval (Wilson 1927) of `count` successes in `total` trials, 0 <= count <= total."""
    if not 0 <= count <= total:
        raise ValueError(f"count must lie in 0..total (given: {count} of {total})")
    if total == 0:
        return Rate(0, 0, 0.0, 1.0)
    share, square = count / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return Rate(count, total, max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_mean(groups: Sequence[Sequence[float]], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high): the mean over groups of each group's mean, resampling inside every group, 95% percentile.

    Empty groups are left out; NaN three times when all are empty. Seeded, so a report is the same twice.
    """
    kept = [np.asarray(group, dtype=float) for group in groups if len(group)]
    if not kept:
        return math.nan, math.nan, math.nan
    draw = np.random.default_rng(seed)
    mean = sum(float(group.mean()) for group in kept) / len(kept)
    drawn = sum(group[draw.integers(len(group), size=(draws, len(group)))].mean(axis=1) for group in kept) / len(kept)
    return mean, *_percentiles(drawn)


def bootstrap_ratio(
    pairs: Sequence[tuple[float, float]], draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(ratio, low, high) of the sum of the first numbers to the sum of the second, resampling pairs, 95% percentile.

    The second numbers are positive; NaN three times when there are none. Seeded.
    """
    if not pairs:
        return math.nan, math.nan, math.nan
    values = np.asarray(pairs, dtype=float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    above, below = values[chosen].sum(axis=1).T
    return float(values[:, 0].sum() / values[:, 1].sum()), *_percentiles(above / below)


def _percentiles(drawn: Any) -> tuple[float, float]:
    low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")
    return float(low), float(high)


# --- as cells of a table ---


def rate_cell(rate: Rate) -> str:
    """ ".870 [.790, .922]", or a dash where nothing was counted."""
    if not rate.total:
        return "-"
    return f"{three_digits(rate.value)} [{three_digits(rate.low)}, {three_digits(rate.high)}]"


def mean_cell(mean: tuple[float, float, float]) -> str:
    """(mean, low, high) as ".870 [.790, .922]", or a dash where the mean is NaN."""
    value, low, high = mean
    return "-" if math.isnan(value) else f"{three_digits(value)} [{three_digits(low)}, {three_digits(high)}]"


def three_digits(value: float) -> str:
    """Three digits after the point, without the zero before it: ".870", "1.000"."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"
