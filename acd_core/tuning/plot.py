"""A picture of a tuning run: losses above, harmless rate and over-refusal below, over the steps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acd_core.errors import missing_extra


def plot_history(history: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Draw `history` (as in `history.json` or `TuneResult.history`) to `path`, in the format its ending names.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "plots") from None
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
    curve = [point for point in history["validation"] if point["alpha"] == history["alpha"]]
    at = [point["step"] for point in curve]
    rates.plot(at, [point["harmless_rate"] for point in curve], "o-", label="harmless rate")
    rates.plot(at, [point["over_refusal"] for point in curve], "s-", label="over-refusal")
    rates.axhline(history["plain"]["harmless_rate"], linestyle=":", color="C0", label="harmless rate, no system text")
    rates.axhline(history["plain"]["over_refusal"], linestyle=":", color="C1", label="over-refusal, no system text")
    rates.axvline(history["chosen"]["step"], color="gray", linewidth=0.8, label="chosen")
    rates.set_ylim(-0.02, 1.02)
    rates.set_xlabel("step")
    rates.set_ylabel(f"validation rate at alpha {history['alpha']:g}")
    rates.legend(fontsize="small")
    target = Path(path)
    figure.savefig(target)
    return target
