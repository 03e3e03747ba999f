"""The choice of alpha, plausibility and contrast_tokens: one axis after the other, and nothing without evidence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from acd_core.artifacts.pair import PromptPair
from acd_core.tuning import TuneResult
from acd_core.tuning.objectives import OBJECTIVES, Objective
from acd_core.tuning.selection import choose, rank
from acd_core.tuning.validation import Point, Validator

START = Point(20, 0.4, 0.8, 0.1)
PLAN = Objective((), "margin", alphas=(0.0, 0.2, 0.4, 0.6))
Rates = Callable[[float, float, int | None], tuple[float, float]]


def chosen(rates: Rates, plan: Objective = PLAN) -> tuple[Point, list[tuple[Any, ...]]]:
    """What is chosen where `rates` says what every setting gives, and the settings that were measured."""
    asked: list[tuple[Any, ...]] = []

    def measure(*, alpha: float, plausibility: float, contrast_tokens: int | None) -> Point:
        asked.append((alpha, plausibility, contrast_tokens))
        harmless, over = rates(alpha, plausibility, contrast_tokens)
        return Point(20, alpha, harmless, over, plausibility, contrast_tokens)

    plain = Point(0, 0.0, 0.3, 0.0)
    return choose(START, plan, measure, lambda point: rank(point, plan.selection, plain, 0.2)), asked


def test_ties_keep_what_the_pair_was_tuned_with() -> None:
    point, asked = chosen(lambda alpha, plausibility, tokens: (0.8, 0.1))
    assert point == START
    assert asked == [
        (0.0, 0.0, None),
        (0.2, 0.0, None),
        (0.6, 0.0, None),
        (0.4, 0.1, None),
        (0.4, 0.0, 1),
        (0.4, 0.0, 8),
    ]


def test_every_axis_is_tried_at_what_those_before_it_chose() -> None:
    def rates(alpha: float, plausibility: float, tokens: int | None) -> tuple[float, float]:
        harmless = 0.8 + 0.03 * (alpha == 0.2) + 0.03 * (plausibility == 0.1) - 0.03 * (tokens == 1)
        return harmless, 0.1 - 0.03 * (tokens == 8)

    point, asked = chosen(rates)
    assert point.decoding == {"alpha": 0.2, "plausibility": 0.1, "contrast_tokens": 8}
    assert asked[3:] == [(0.2, 0.1, None), (0.2, 0.1, 1), (0.2, 0.1, 8)]


def test_a_request_more_or_less_is_no_difference() -> None:
    assert chosen(lambda alpha, plausibility, tokens: (0.8 + 0.009 * (alpha == 0.6), 0.1))[0] == START
    fewer = chosen(lambda alpha, plausibility, tokens: (0.8 + 0.009 * (tokens == 8), 0.1 - 0.02 * (tokens == 8)))[0]
    assert fewer.contrast_tokens == 8
    more = chosen(lambda alpha, plausibility, tokens: (0.8 + 0.009 * (tokens == 8), 0.1 + 0.02 * (tokens == 8)))[0]
    assert more == START


def test_the_best_of_an_axis_wins_however_close_the_next_is() -> None:
    rates = {0.0: 0.85, 0.2: 0.865, 0.4: 0.8, 0.6: 0.81}
    assert chosen(lambda alpha, plausibility, tokens: (rates[alpha], 0.1))[0].alpha == 0.2


def test_nothing_contrasted_nothing_more_to_try() -> None:
    point, asked = chosen(lambda alpha, plausibility, tokens: (1.0 - alpha, 0.1))
    assert (point.alpha, len(asked)) == (0.0, 3)


def test_the_paper_keeps_its_own_settings() -> None:
    assert chosen(lambda *_: (1.0, 0.0), OBJECTIVES["paper"]) == (START, [])


def test_a_tie_is_not_broken_by_the_last_bit() -> None:
    plain = Point(0, 0.0, 0.3, 0.0)
    first, second = (rank(Point(1, 0.4, *rates), "margin", plain, 0.0) for rates in ((0.5, 0.09), (0.49, 0.08)))
    assert first[:2] == second[:2]
    assert 0.5 - 0.09 != 0.49 - 0.08


def test_the_pair_the_history_and_the_card_carry_it(
    run: Callable[..., TuneResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Validator.measure

    def favouring(self: Validator, *args: Any, **settings: Any) -> Point:
        point = measure(self, *args, **settings)
        best = point.plausibility == 0.1 and point.contrast_tokens == 8
        return replace(point, harmless_rate=0.5 + 0.2 * (point.plausibility == 0.1) + 0.2 * best, over_refusal=0.0)

    monkeypatch.setattr(Validator, "measure", favouring)
    result = run(objective="joint", out=tmp_path / "pair")
    pair = PromptPair.load(tmp_path / "pair")
    assert (pair.alpha, pair.plausibility, pair.contrast_tokens) == (0.4, 0.1, 8)
    history = json.loads((tmp_path / "pair" / "history.json").read_text())
    assert result.validation is not None
    assert history["chosen"] == result.validation.as_dict()
    assert {name: history["chosen"][name] for name in ("alpha", "plausibility", "contrast_tokens")} == {
        "alpha": 0.4, "plausibility": 0.1, "contrast_tokens": 8,
    }  # fmt: skip
    assert history["tried"]["contrast_tokens"] == [None, 1, 8]
    # two points along the steps, every other strength, one plausibility, two lengths
    strengths = OBJECTIVES["joint"].alphas
    assert len(history["validation"]) == 2 + (len(strengths) - 1) + 1 + 2
    assert sorted({point["alpha"] for point in history["validation"]}) == sorted(strengths)
    assert "plausibility **0.1**, contrast_tokens **8**" in (tmp_path / "pair" / "README.md").read_text()
