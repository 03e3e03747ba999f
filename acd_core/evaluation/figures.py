"""Draws an evaluation by matplotlib (extra `plots`): the harm / over-refusal plane, the sweep over alpha
(the paper's Figure 5), prompts alone (its Figure 4), and bars by category. The same run gives the same bytes."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acd_core.errors import UsageError, missing_extra
from acd_core.evaluation.paper import PROMPT_TYPES
from acd_core.evaluation.results import Evaluation, SetRates, Summary
from acd_core.files.saving import failing_as, save_file

_MARKERS = "os^vDP*X<>"
_HARM, _OVER = "#1f6f8b", "#d1603d"
_FEWEST = 4  # prompts of a category below which a bar says nothing
MOST_CATEGORIES = 20
_NEAR = 0.025  # points closer than this share of the plane have one label together


def all_figures(result: Evaluation) -> dict[str, str]:
    """Every picture that this run can fill, as SVG texts by the names the report uses. Raises MissingExtraError."""
    drawn = {}
    if _placed(result):
        drawn["plane"] = _svg(_plane(result))
    if len(sweep_points(result)) > 1:
        drawn["sweep"] = _svg(_sweep(sweep_points(result), "acd"))
    if prompt_arms(result):
        drawn["prompts"] = _svg(_prompts(prompt_arms(result)))
    for name in category_sets(result):
        drawn[f"categories-{name}"] = _svg(_categories(result, name))
    return drawn


def plot_plane(result: Evaluation, path: str | os.PathLike[str]) -> Path:
    """Every method as a point: over-refusal to the right, harmless rate up, with both 95% intervals. Best is top left.

    Writes the format that the ending of `path` names (.png, .svg, .pdf). Raises UsageError unless both a harmful and a
    harmless set were run.
    """
    if not _placed(result):
        raise UsageError("The plane needs a harmful and a harmless set.", hint='Add "everyday" to the benchmarks.')
    return _save(_plane(result), path)


def plot_alpha_sweep(result: Evaluation, path: str | os.PathLike[str], method: str = "acd") -> Path:
    """Harmless rate and over-refusal of `method` over alpha (the paper's Figure 5, with the other error beside it).

    Raises UsageError when fewer than two strengths of the method were run.
    """
    points = sweep_points(result, method)
    if len(points) < 2:
        raise UsageError(
            f"A sweep needs at least two strengths of {method!r} (run: {len(points)}).",
            hint=f'Give "{method}@0.2", "{method}@0.4", ...',
        )
    return _save(_sweep(points, method), path)


# --- which figures there are ---


def sweep_points(result: Evaluation, method: str = "acd") -> list[tuple[float, Summary]]:
    """(alpha, summary) of every strength of `method` that was run with no other knob turned, rising."""
    plain = {row.arm: row.alpha for row in result.rows if row.method == method and " " not in row.arm}
    found: dict[float, Summary] = {}
    for each in result.summaries():
        alpha = plain.get(each.arm)
        if alpha is not None:
            found.setdefault(alpha, each)
    return sorted(found.items(), key=lambda item: item[0])


def prompt_arms(result: Evaluation) -> list[Summary]:
    """The arms that decode under one prompt alone, in the paper's order; empty unless there are two."""
    by_name = {each.arm: each for each in result.summaries()}
    found = [by_name[name] for name in PROMPT_TYPES if name in by_name]
    return found if len(found) > 1 else []


def category_sets(result: Evaluation) -> list[str]:
    """Sets with at least two categories of some size, and few enough to draw."""
    found = []
    for name in dict.fromkeys(row.benchmark for row in result.rows):
        rows = [row for row in result.rows if row.benchmark == name]
        sizes = [rate.total for rate in rows[0].categories.values()]
        if 2 <= len(sizes) <= MOST_CATEGORIES and max(sizes) >= _FEWEST:
            found.append(name)
    return found


def _placed(result: Evaluation) -> list[Summary]:
    return [s for s in result.summaries() if not (math.isnan(s.harmless_rate[0]) or math.isnan(s.over_refusal[0]))]


# --- drawing ---


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


def _plane(result: Evaluation) -> Any:
    placed = _placed(result)
    sweep = [(alpha, each) for alpha, each in sweep_points(result) if each in placed]
    inner = {each.arm for _, each in sweep if each.arm != "acd"} if len(sweep) > 1 else set()
    points = [each for each in placed if each.arm not in inner] or placed
    figure = _figure(8.6, max(5.4, 0.22 * len(points) + 1.0))
    axes = figure.subplots()
    colours = _colours(len(points))
    right = max(0.2, *(point.over_refusal[2] for point in points), *(each.over_refusal[0] for _, each in sweep)) + 0.03
    labels: dict[tuple[float, float], list[str]] = {}
    for at, point in enumerate(points):
        (x, x_low, x_high), (y, y_low, y_high) = point.over_refusal, point.harmless_rate
        axes.errorbar(x, y, xerr=_around(x, x_low, x_high), yerr=_around(y, y_low, y_high), fmt="none",
                      ecolor=colours[at], elinewidth=0.8, alpha=0.55, zorder=1)  # fmt: skip
        axes.scatter(x, y, s=42, marker=_MARKERS[at % len(_MARKERS)], color=[colours[at]], zorder=3,
                     label=f"{at + 1}  {point.arm}")  # fmt: skip
        # Methods that fall on one point share one label, or the numbers could not be read.
        near = next((place for place in labels if math.hypot((place[0] - x) / right, place[1] - y) < _NEAR), (x, y))
        labels.setdefault(near, []).append(str(at + 1))
    for (x, y), numbers in labels.items():
        text = "\n".join(", ".join(numbers[start : start + 4]) for start in range(0, len(numbers), 4))
        # With a neighbour close above, the label goes below.
        above = any(abs(other - x) < 0.08 * right and 0 < height - y < 0.06 for other, height in labels)
        offset, side = ((5, -5), "top") if above else ((5, 5), "bottom")
        axes.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=7, va=side, zorder=4)
    if inner:
        xs = [each.over_refusal[0] for _, each in sweep]
        ys = [each.harmless_rate[0] for _, each in sweep]
        axes.plot(
            xs, ys, color="#666", linewidth=0.8, linestyle=":", marker=".", zorder=2, label="acd, alpha as marked"
        )
        for (alpha, _), x, y in zip(sweep, xs, ys):
            axes.annotate(f"{alpha:g}", (x, y), xytext=(-3, 9), textcoords="offset points", fontsize=6, color="#666")
    axes.set(xlabel="over-refusal on harmless sets", ylabel="harmless rate on harmful sets")
    axes.set_xlim(-0.02, right)
    axes.set_ylim(-0.03, 1.04)
    axes.grid(alpha=0.3)
    axes.set_title("wanted: top left", fontsize=9, loc="left")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _around(value: float, low: float, high: float) -> list[list[float]]:
    # Rounding may put a bound on the wrong side of the rate by 1e-17, which matplotlib refuses.
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _sweep(points: Sequence[tuple[float, Summary]], method: str) -> Any:
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    for label, marker, colour, lines in (
        ("harmless rate, harmful sets", "o", _HARM, [(alpha, point.harmless_rate) for alpha, point in points]),
        ("over-refusal, harmless sets", "s", _OVER, [(alpha, point.over_refusal) for alpha, point in points]),
    ):
        drawn = [(alpha, value) for alpha, value in lines if not math.isnan(value[0])]
        if drawn:
            xs = [alpha for alpha, _ in drawn]
            axes.plot(xs, [value[0] for _, value in drawn], marker=marker, color=colour, label=label)
            lows, highs = [value[1] for _, value in drawn], [value[2] for _, value in drawn]
            axes.fill_between(xs, lows, highs, alpha=0.15, color=colour)
    axes.set(xlabel=f"alpha of {method}", ylabel="rate", ylim=(-0.02, 1.03))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _prompts(arms: Sequence[Summary]) -> Any:
    figure = _figure(1.6 + 1.2 * len(arms), 4.0)
    axes = figure.subplots()
    for offset, colour, label, values in (
        (-0.19, _HARM, "harmless rate, harmful sets", [each.harmless_rate for each in arms]),
        (0.19, _OVER, "over-refusal, harmless sets", [each.over_refusal for each in arms]),
    ):
        drawn = [(at + offset, value) for at, value in enumerate(values) if not math.isnan(value[0])]
        if drawn:
            _bars(axes, [x for x, _ in drawn], [value for _, value in drawn], 0.36, colour, label)
    axes.set_xticks(range(len(arms)), [each.arm for each in arms])
    axes.set(ylabel="share refused", ylim=(0, 1.03))
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside upper left", fontsize=8, frameon=False, ncols=2)
    return figure


def _categories(result: Evaluation, name: str) -> Any:
    rows = _shown([row for row in result.rows if row.benchmark == name])
    names = list(dict.fromkeys(category for row in rows for category in row.categories))
    figure = _figure(7.0, 1.0 + len(names) * (0.12 + 0.16 * len(rows)))
    axes = figure.subplots()
    colours, height = _colours(len(rows)), 0.8 / len(rows)
    for at, row in enumerate(rows):
        places = [place for place, category in enumerate(names) if category in row.categories]
        rates = [row.categories[names[place]] for place in places]
        ys = [place - 0.4 + height * (at + 0.5) for place in places]
        spread = [[rate.value - rate.low for rate in rates], [rate.high - rate.value for rate in rates]]
        values = [rate.value for rate in rates]
        axes.barh(ys, values, height=height, color=colours[at], label=row.arm)
        axes.errorbar(values, ys, xerr=_positive(spread), fmt="none", ecolor="#444", elinewidth=0.5, alpha=0.6)
    axes.set_yticks(range(len(names)), [f"{each} ({_size(rows, each)})" for each in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    wanted = "refusals wanted" if rows[0].kind == "harmful" else "answers wanted"
    axes.set(xlabel=f"share refused ({wanted})", xlim=(0, 1.03), title=name)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper left", fontsize=8, frameon=False, ncols=4)
    return figure


def _shown(rows: Sequence[SetRates]) -> list[SetRates]:
    """At most four arms a bar chart can bear: the model alone, the papers' base, rose and acd, else the first ones."""
    wanted = [row for row in rows if row.arm in ("none", "safe-prompt", "rose", "acd")]
    return wanted if len(wanted) > 1 else list(rows[:4])


def _size(rows: Sequence[SetRates], category: str) -> int:
    return max((row.categories[category].total for row in rows if category in row.categories), default=0)


def _bars(
    axes: Any, xs: Sequence[float], values: Sequence[tuple[float, float, float]], width: float, colour: str, label: str
) -> None:
    means = [value[0] for value in values]
    spread = [[value[0] - value[1] for value in values], [value[2] - value[0] for value in values]]
    axes.bar(xs, means, width=width, color=colour, label=label)
    axes.errorbar(xs, means, yerr=_positive(spread), fmt="none", ecolor="#444", elinewidth=0.8, capsize=2)


def _positive(spread: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[max(0.0, each) for each in side] for side in spread]


def _colours(count: int) -> list[Any]:
    try:
        from matplotlib import colormaps
    except ImportError:
        raise missing_extra("matplotlib", "plots") from None
    palette = colormaps["tab10" if count <= 10 else "tab20"]
    return [palette(at % palette.N) for at in range(count)]


# --- writing ---


def _svg(figure: Any) -> str:
    import matplotlib

    held = io.StringIO()
    # Ids in the file are hashes: with a fixed salt, and without a date, the same figures give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "acd", "svg.fonttype": "none"}):
        figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return held.getvalue()


def _save(figure: Any, path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind == "svg":
        drawn = _svg(figure).encode()
    else:
        held = io.BytesIO()
        try:
            figure.savefig(held, format=kind, dpi=150)
        except ValueError as error:
            raise UsageError(
                f"{target.name!r} has no picture format: {error}", hint="Name it .png, .svg or .pdf."
            ) from error
        drawn = held.getvalue()
    with failing_as(UsageError, f"The picture cannot be saved to {str(target)!r}"):
        save_file(target, drawn)
    return target
