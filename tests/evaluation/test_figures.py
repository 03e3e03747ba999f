"""Pictures are drawn from counted rows; what cannot be drawn is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from acd_core.errors import UsageError
from acd_core.evaluation.intervals import wilson
from acd_core.evaluation.records import Completion
from acd_core.evaluation.results import Evaluation, SetRates

pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")

from acd_core.evaluation.figures import all_figures, plot_alpha_sweep, plot_plane


def made(*rows: tuple[str, float, str, str, int]) -> Evaluation:
    """An Evaluation out of (arm, alpha, set, kind, refused of 10) without a model."""
    counted, completions = [], []
    for arm, alpha, name, kind, refused in rows:
        rate = wilson(refused, 10)
        counted.append(
            SetRates(arm, arm.split("@")[0], alpha, name, kind, rate, rate, 0, 0, 10, 1.0, {}, {})  # type: ignore[arg-type]
        )
        for number in range(10):
            text = "I cannot help with that." if number < refused else "Take the bus."
            completions.append(Completion(f"{arm}{name}{number}", arm, name, kind, str(number), "", "q", text))
    return Evaluation(tuple(counted), {}, tuple(completions))


WHOLE = made(
    ("none", 0.0, "bad", "harmful", 3),
    ("none", 0.0, "good", "harmless", 0),
    ("acd@0.2", 0.2, "bad", "harmful", 7),
    ("acd@0.2", 0.2, "good", "harmless", 1),
    ("acd@0.4", 0.4, "bad", "harmful", 9),
    ("acd@0.4", 0.4, "good", "harmless", 2),
)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pictures_are_written_and_the_same_twice(tmp_path: Path, ending: str) -> None:
    for draw in (plot_plane, plot_alpha_sweep):
        first = draw(WHOLE, tmp_path / f"a.{ending}").read_bytes()
        second = draw(WHOLE, tmp_path / "sub" / f"b.{ending}").read_bytes()
        assert len(first) > 2000
        if ending == "png":
            assert first == second


def test_the_plane_names_every_method_and_strength(tmp_path: Path) -> None:
    text = plot_plane(WHOLE, tmp_path / "plane.svg").read_text("utf-8")
    assert all(f">{name}</text>" in text for name in ("1  none", "0.2", "0.4", "acd, alpha as marked"))
    rivals = made(
        *((name, 0.0, *rest) for name in ("a", "b", "c") for rest in (("x", "harmful", 3), ("y", "harmless", 1)))
    )
    text = plot_plane(rivals, tmp_path / "rivals.svg").read_text("utf-8")
    assert ">1, 2, 3</text>" in text  # three methods on one spot share a label


def test_a_run_draws_what_it_can_fill() -> None:
    assert set(all_figures(WHOLE)) == {"plane", "sweep"}
    assert all_figures(WHOLE) == all_figures(WHOLE)
    assert all_figures(made(("none", 0.0, "bad", "harmful", 3))) == {}
    prompts = made(*((name, 0.0, "bad", "harmful", 3) for name in ("none", "safe-prompt", "ap")))
    assert set(all_figures(prompts)) == {"prompts"}


def test_bars_by_category_need_categories_of_some_size() -> None:
    many, one = wilson(3, 8), wilson(1, 1)
    rows = [replace(row, categories={"a": many, "b": one}) for row in WHOLE.rows]
    drawn = all_figures(Evaluation(tuple(rows), {}, WHOLE.completions))
    assert ">a (8)</text>" in drawn["categories-bad"]
    assert "answers wanted" in drawn["categories-good"]
    small = [replace(row, categories={"a": one, "b": one}) for row in WHOLE.rows]
    assert "categories-bad" not in all_figures(Evaluation(tuple(small), {}, WHOLE.completions))


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    harmful_only = made(("none", 0.0, "bad", "harmful", 3))
    with pytest.raises(UsageError, match="needs a harmful and a harmless set"):
        plot_plane(harmful_only, tmp_path / "x.png")
    with pytest.raises(UsageError, match="at least two strengths of 'acd'"):
        plot_alpha_sweep(harmful_only, tmp_path / "x.png")
    with pytest.raises(UsageError, match="no picture format"):
        plot_plane(WHOLE, tmp_path / "x.nope")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match="cannot be saved"):
        plot_plane(WHOLE, tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]
    assert plot_alpha_sweep(
        made(("acd@0.1", 0.1, "b", "harmful", 1), ("acd@0.3", 0.3, "b", "harmful", 4)), tmp_path / "y.png"
    ).exists()
