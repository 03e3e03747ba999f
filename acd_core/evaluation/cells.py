"""Rates and intervals as cells of a table."""

from __future__ import annotations

import math

from acd_core.evaluation.intervals import Rate


def share(rate: Rate) -> str:
    """ ".870 [.790, .922]", or a dash."""
    if not rate.total:
        return "-"
    return f"{short(rate.value)} [{short(rate.low)}, {short(rate.high)}]"


def short(value: float) -> str:
    """Three digits after the point, without the zero before it: ".870", "1.000"."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def three(values: tuple[float, float, float]) -> str:
    """(mean, low, high) as ".870 [.790, .922]", or a dash where the mean is NaN."""
    return "-" if math.isnan(values[0]) else f"{short(values[0])} [{short(values[1])}, {short(values[2])}]"
