"""The picture of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acd_core.errors import MissingExtraError
from acd_core.tuning import TuneResult
from acd_core.tuning.plot import along_the_steps, plot_history

POINT = {"step": 1, "alpha": 0.4, "harmless_rate": 0.9, "over_refusal": 0.1}
HISTORY: dict[str, Any] = {
    "model": "m",
    "objective": "paper",
    "alpha": 0.4,
    "steps": [{"step": 1.0, "rate": 0.1, "safe/positive": 0.5, "total": 0.5}],
    "validation": [POINT, {**POINT, "alpha": 0.2}],
    "plain": {**POINT, "step": 0},
    "chosen": POINT,
}


def test_a_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert plot_history(HISTORY, tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_the_joint_objective_draws_its_curve_and_marks_the_choice(
    run: Callable[..., TuneResult], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    history = run(objective="joint", steps=4, validate_every=2).history
    assert [point["step"] for point in along_the_steps(history)] == [2, 4]
    chosen = {**history["chosen"], "alpha": 0.3, "plausibility": 0.1, "contrast_tokens": 8}
    more = [*history["validation"], chosen, {**chosen, "alpha": history["alpha"]}]
    history = {**history, "chosen": chosen, "validation": more}
    assert [point["step"] for point in along_the_steps(history)] == [2, 4]
    drawn = plot_history(history, tmp_path / "run.svg").read_text()
    for text in (
        "chosen: alpha 0.3, plausibility 0.1, first 8 tokens",
        "joint/refuse",
        "harmless rate",
        "over-refusal",
    ):
        assert f"<!-- {text} -->" in drawn


def test_without_matplotlib_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match="plots"):
        plot_history(HISTORY, tmp_path / "run.png")
