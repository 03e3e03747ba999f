"""A picture of a tuning run: losses above, harmless rate and over-refusal below, over the steps; stars mark what was
chosen, at the strength that was chosen for it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acd_core.errors import TuningError, UsageError, missing_extra
from acd_core.files.saving import check_writable, failing_as, save_file


def plot_history(history: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Draw `history` (as in `history.json` or `TuneResult.history`) to `path`, in the format its ending names.

    Raises as `check_plot` does, and TuningError where the file cannot be written; then nothing half-written is left.
    """
    kind = check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True)
    steps = history["steps"]
    for name in steps[0] if steps else ():
        if name not in ("step", "rate"):
            losses.plot(
                [row["step"] for row in steps],
                [row[name] for row in steps],
                label=name,
                linewidth=2.0 if name == "total" else 1.0,
            )
    losses.set_ylabel("loss")
    losses.set_title(f"{history['model']}, objective {history['objective']}")
    losses.legend(fontsize="small")
    chosen = history["chosen"]
    losses.axvline(chosen["step"], color="gray", linewidth=0.8)
    curve = along_the_steps(history)
    at = [point["step"] for point in curve]
    for name, label, mark, colour in (
        ("harmless_rate", "harmless rate", "o", "C0"),
        ("over_refusal", "over-refusal", "s", "C1"),
    ):
        rates.plot(at, [point[name] for point in curve], f"{mark}-", color=colour, label=label)
        rates.axhline(history["plain"][name], linestyle=":", color=colour, label=f"{label}, no system text")
        star = f"chosen: {_decoding(chosen)}" if name == "harmless_rate" else None
        place = [chosen["step"]], [chosen[name]]
        rates.plot(*place, "*", color=colour, markersize=15, markeredgecolor="black", label=star)
    rates.axvline(chosen["step"], color="gray", linewidth=0.8)
    rates.set_ylim(-0.02, 1.02)
    rates.set_xlabel("step")
    rates.set_ylabel(f"validation rate at alpha {history['alpha']:g}")
    rates.legend(fontsize="small")
    target = Path(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind)
    with failing_as(TuningError, f"The picture cannot be saved to {str(target)!r}"):
        save_file(target, drawn.getvalue())
    return target


def check_plot(path: str | os.PathLike[str]) -> str:
    """The format that the ending of `path` names. Draws nothing: for before a run.

    Raises MissingExtraError without matplotlib, UsageError for an ending that is no format of it, TuningError for a
    place where no file can be made.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: F401  (what drawing takes)
        from matplotlib.figure import Figure  # noqa: F401
    except ImportError:
        raise missing_extra("matplotlib", "plots") from None
    target = Path(path)
    kind, known = target.suffix.lower().removeprefix("."), FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise UsageError(
            f"No picture can be drawn to {str(path)!r}: its ending names no format.",
            hint=f"Endings: {', '.join(f'.{name}' for name in sorted(known))}.",
        )
    with failing_as(TuningError, f"The picture cannot be saved to {str(target)!r}"):
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        check_writable(target.parent)
    return kind


def along_the_steps(history: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The points of the validation curve as the prompts were tuned, one a step, in order; what was tried of the best
    one afterwards (other strengths, plausibility, contrast_tokens) left out."""
    plain = [
        point
        for point in history["validation"]
        if point["alpha"] == history["alpha"] and not point.get("plausibility") and point.get("contrast_tokens") is None
    ]
    return sorted(plain, key=lambda point: float(point["step"]))


def _decoding(point: Mapping[str, Any]) -> str:
    said = [f"alpha {point['alpha']:g}"]
    if point.get("plausibility"):
        said.append(f"plausibility {point['plausibility']:g}")
    if point.get("contrast_tokens") is not None:
        said.append(f"first {point['contrast_tokens']} tokens")
    return ", ".join(said)
