"""The threshold between refusing and answering: where it stands, which way it moves, and that the prompts follow it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acd_core.chat import Chat
from acd_core.model.backbone import Backbone
from acd_core.tuning import OBJECTIVES, TuneResult, streams
from acd_core.tuning.examples import Encoder
from acd_core.tuning.losses import joint_scores, refusal_log_odds
from acd_core.tuning.objectives import Loss, RowScores, Scores, Term, term_rows
from acd_core.tuning.steering import ALONE, BOUND, GAIN, MOST, STEER_EVERY, aim, shift, steer, threshold_for
from acd_core.tuning.streams import prefill, reply_logits
from acd_core.tuning.validation import Point, Validator
from tests.tuning.conftest import OddJudge

Make = Callable[..., Backbone]
ODDS = st.lists(st.integers(-1000, 1000), min_size=1, max_size=40, unique=True)


@given(ODDS, st.data())
def test_the_threshold_lies_below_as_many_as_asked(values: list[int], data: Any) -> None:
    odds = [value / 10.0 for value in values]
    count = data.draw(st.integers(0, len(odds)))
    assert sum(value > threshold_for(odds, count) for value in odds) == count


@given(ODDS, st.data())
def test_fewer_wanted_refusals_ask_for_less_refusing(values: list[int], data: Any) -> None:
    odds = [value / 10.0 for value in values]
    wanted, there = (data.draw(st.integers(0, len(odds))) for _ in range(2))
    moved = shift(odds, wanted, threshold_for(odds, there))
    assert abs(moved) <= MOST
    assert (moved > 0.0) == (wanted < there)
    assert (moved < 0.0) == (wanted > there)


def test_by_hand() -> None:
    odds = [3.0, -1.0, 1.0, -4.0]
    assert threshold_for(odds, 2) == 0.0
    assert threshold_for(odds, 1) == 2.0
    assert shift(odds, 1, 0.0) == GAIN * 2.0
    assert shift(odds, 0, -40.0) == MOST
    assert (aim(0.0125 + 0.02, 160), aim(0.05, 160), aim(3.0, 160), aim(1.0 / 3.0, 10)) == (4, 7, 160, 3)
    assert (aim(0.1, 10), aim(0.09, 10), aim(0.0, 10)) == (1, 0, 0)


def test_log_odds_are_those_of_the_scores_that_decoding_begins_with(tiny: Make, validation: Any) -> None:
    backbone = tiny()
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    validator = Validator(backbone, encoder, validation[0], validation[1], OddJudge(), 4)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(length, backbone.embedding_width, generator=generator) * 0.2 for length in (4, 6)]
    signal = torch.rand(backbone.vocab_size, generator=generator)
    rows = [encoder.request(row.text).after for row in validation[0]]
    with torch.no_grad():
        first = [
            reply_logits(backbone, prefill(backbone, encoder.before, prompt), rows, [(0,)] * len(rows), width=1)[:, 0]
            for prompt in prompts
        ]
    joint, alone = validator.log_odds(prompts[0], prompts[1], 0.4, signal)
    for alpha, found in ((0.4, joint), (0.0, alone)):
        expected = refusal_log_odds(joint_scores(first[0], first[1], alpha), signal)
        assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert joint != alone


def test_rows_too_many_for_memory_are_read_in_parts(
    tiny: Make, validation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny()
    encoder = Encoder(backbone, Chat(backbone.tokenizer))
    validator = Validator(backbone, encoder, validation[0], validation[1], OddJudge(), 4)
    prompts = torch.randn(2, 5, backbone.embedding_width, generator=torch.Generator().manual_seed(0)) * 0.2
    signal = torch.linspace(0.0, 1.0, backbone.vocab_size)
    whole = validator.log_odds(prompts[0], prompts[1], 0.4, signal)
    start, sizes = streams._Stream.start, []

    def tight(self: Any) -> torch.Tensor:
        sizes.append(len(self._ids))
        if len(self._ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return start(self)

    monkeypatch.setattr(streams._Stream, "start", tight)
    for found, expected in zip(validator.log_odds(prompts[0], prompts[1], 0.4, signal), whole):
        assert found == pytest.approx(expected, abs=1e-5)
    assert max(sizes) > 1
    assert min(sizes) == 1


def steered(run: Callable[..., TuneResult], over_refusal: float, **settings: Any) -> tuple[list[Any], float]:
    """The course of a run whose points all have this over-refusal, where the plain model has none; and the mean log
    odds of refusing under its joined scores in the end."""
    measure, plain, log_odds = Validator.measure, Validator.measure_plain, Validator.log_odds
    seen: list[float] = []

    def measured(self: Validator, *args: Any, **given: Any) -> Point:
        return replace(measure(self, *args, **given), harmless_rate=0.5, over_refusal=over_refusal)

    def heard(self: Validator, *args: Any) -> tuple[list[float], list[float]]:
        found = log_odds(self, *args)
        seen.append(sum(found[0]) / len(found[0]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Validator, "measure", measured)
        patch.setattr(Validator, "measure_plain", lambda self: replace(plain(self), over_refusal=0.0))
        patch.setattr(Validator, "log_odds", heard)
        result = run(objective="joint", **settings)
    return result.history["steering"], seen[-1]


def test_a_run_moves_towards_its_margin(run: Callable[..., TuneResult]) -> None:
    """Where all harmless requests are refused and none may be, refusing becomes less likely; and the reverse."""
    settings: dict[str, Any] = {"steps": 30, "validate_every": 6, "lr": 0.1}
    less, unwilling = steered(run, 1.0, margin=0.0, **settings)
    more, willing = steered(run, 0.0, margin=1.0, **settings)
    assert [row["step"] for row in less] == [6, 11, 16, 21, 26]  # from the first point on, and not for the last step
    assert less[0]["joint"] > 0.0 > more[0]["joint"]
    assert less[-1]["joint"] > 0.0 > more[-1]["joint"]
    assert unwilling < willing - 0.1


def test_nothing_left_to_win_moves_nothing(run: Callable[..., TuneResult], monkeypatch: pytest.MonkeyPatch) -> None:
    measure = Validator.measure

    def measured(self: Validator, *args: Any, **settings: Any) -> Point:
        return replace(measure(self, *args, **settings), harmless_rate=1.0, over_refusal=0.0)

    monkeypatch.setattr(Validator, "measure", measured)
    (only,) = run(objective="joint", margin=1.0, steps=4).history["steering"]
    assert only["joint"] == 0.0


def test_where_refusals_begin_is_half_of_what_was_known() -> None:
    joint, alone = [0.0, 2.0, 4.0, 6.0], [0.0, 1.0, 2.0, 3.0]
    first = steer({}, 10, joint, alone, 2, 1)
    assert int(ALONE * 2) == 1
    assert first == {"step": 10.0, "begins": 5.0, "joint": GAIN * (3.0 - 5.0), "safe": GAIN * (2.5 - 5.0)}
    between = steer(first, 15, joint, alone, 3, None)
    assert between == {"step": 15.0, "begins": 5.0, "joint": first["joint"] - 2.0, "safe": first["safe"] - 1.25}
    assert steer(between, 20, joint, alone, 2, 2)["begins"] == 4.0
    too_early = steer(between, 15 + STEER_EVERY - 1, joint, alone, 2, 2)
    assert too_early == {**between, "begins": 4.0}
    held = steer(first, 15, joint, alone, 3, None, only_less=True)
    assert held == {**first, "step": 15.0}
    assert steer(held, 20, joint, alone, 0, None, only_less=True)["joint"] > held["joint"]


def test_offsets_stay_within_their_bound_and_finite() -> None:
    last: dict[str, float] = {}
    for step in range(0, 200, STEER_EVERY):
        last = steer(last, step, [9.0, 10.0], [9.0, 10.0], 2, 0)
    assert last["joint"] == last["safe"] == -BOUND
    assert steer(last, 500, [float("nan"), 1.0], [0.0, 1.0], 2, 1) == last
    assert steer({}, 5, [0.0, 1.0], [float("inf"), 1.0], 2, 1) == {}


def test_only_what_offsets_can_move_is_steered(run: Callable[..., TuneResult]) -> None:
    joint = OBJECTIVES["joint"]
    alone = replace(joint, terms=tuple(term for term in joint.terms if term.scores != "joint" or not term.decides))
    assert joint.steers
    assert alone.decides
    assert not any(plan.steers for plan in (OBJECTIVES["paper"], replace(joint, selection="safest"), alone))
    assert run(objective="paper").history["steering"] == []
    assert run(objective=replace(joint, selection="safest")).history["steering"] == []


def test_offsets_reach_the_losses_of_their_scores_only() -> None:
    logits = {"safe": torch.tensor([[[1.0, 0.0, -1.0]]]), "adversarial": torch.tensor([[[0.0, 2.0, 0.5]]])}
    target, mask, signal = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1), torch.tensor([0.9, 0.2, 0.0])
    scores: dict[Scores, torch.Tensor] = {
        "safe": logits["safe"],
        "adversarial": logits["adversarial"],
        "joint": joint_scores(logits["safe"], logits["adversarial"], 0.4),
    }
    losses: dict[Loss, float] = {"refuse": -1.0, "comply": 1.0}
    offsets = {"joint": 1.5, "safe": -0.5}
    for name, each in scores.items():
        odds = refusal_log_odds(each[:, 0], signal).item() + offsets.get(name, 0.0)
        for loss, sign in losses.items():
            term = Term("t", name, "refusals", loss)
            found = term_rows(term, RowScores(target, mask, **logits, signal=signal, offsets=offsets), 0.4)
            assert found.item() == pytest.approx(math.log1p(math.exp(sign * odds)), rel=1e-5)
