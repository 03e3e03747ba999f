"""The pictures of an evaluation: the harm / over-refusal plane, and the sweep over alpha. Needs the extra `plots`."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from acd_core.errors import UsageError, missing_extra
from acd_core.evaluation.harness import Evaluation


def _figure(width: float, height: float) -> Any:
    """A figure of its own, without pyplot's global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plots") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_plane(result: Evaluation, path: str | os.PathLike[str]) -> Path:
    """Every method as a point: over-refusal to the right, harmless rate up, with both 95% intervals. Best is top left.

    Writes the format that the ending of `path` names (.png, .svg, .pdf). Raises UsageError unless both a harmful and a
    harmless set were run.
    """
    points = [s for s in result.summaries() if not (math.isnan(s.harmless_rate[0]) or math.isnan(s.over_refusal[0]))]
    if not points:
        raise UsageError("The plane needs a harmful and a harmless set.", hint='Add "everyday" to the benchmarks.')
    figure = _figure(6.4, 5.2)
    axes = figure.subplots()
    for point in points:
        (x, x_low, x_high), (y, y_low, y_high) = point.over_refusal, point.harmless_rate
        axes.errorbar(x, y, xerr=[[x - x_low], [x_high - x]], yerr=[[y - y_low], [y_high - y]], fmt="o", capsize=2)
        axes.annotate(point.arm, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xlabel="over-refusal on harmless sets", ylabel="harmless rate on harmful sets")
    axes.set_xlim(-0.02, max(0.2, *(point.over_refusal[2] for point in points)) + 0.03)
    axes.set_ylim(min(0.0, *(point.harmless_rate[1] for point in points)) - 0.02, 1.03)
    axes.grid(alpha=0.3)
    return _save(figure, path)


def plot_alpha_sweep(result: Evaluation, path: str | os.PathLike[str], method: str = "acd") -> Path:
    """Harmless rate and over-refusal of `method` over alpha (the paper's Figure 5, with the other error beside it).

    Raises UsageError when fewer than two strengths of the method were run.
    """
    alphas = {row.arm: row.alpha for row in result.rows if row.method == method and row.alpha is not None}
    points = sorted((alphas[s.arm], s) for s in result.summaries() if s.arm in alphas)
    if len(points) < 2:
        raise UsageError(
            f"A sweep needs at least two strengths of {method!r} (run: {len(points)}).",
            hint=f'Give "{method}@0.2", "{method}@0.4", ...',
        )
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for label, marker, lines in (
        ("harmless rate, harmful sets", "o", [(alpha, point.harmless_rate) for alpha, point in points]),
        ("over-refusal, harmless sets", "s", [(alpha, point.over_refusal) for alpha, point in points]),
    ):
        drawn = [(alpha, value) for alpha, value in lines if not math.isnan(value[0])]
        if drawn:
            xs = [alpha for alpha, _ in drawn]
            (line,) = axes.plot(xs, [value[0] for _, value in drawn], marker=marker, label=label)
            lows, highs = [value[1] for _, value in drawn], [value[2] for _, value in drawn]
            axes.fill_between(xs, lows, highs, alpha=0.15, color=line.get_color())
    axes.set(xlabel=f"alpha of {method}", ylabel="rate", ylim=(-0.02, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # No date inside the file: the same figures give the same bytes.
        figure.savefig(target, dpi=150, metadata={"Date": None} if target.suffix == ".svg" else None)
    except ValueError as error:
        raise UsageError(
            f"{target.name!r} has no picture format: {error}", hint="Name it .png, .svg or .pdf."
        ) from error
    return target
