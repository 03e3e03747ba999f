"""Costs in usefulness: statistics of text, multiple choice by log-likelihood, perplexity, wins; and nothing twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acd_core import ContrastiveLM, PromptPair
from acd_core.errors import UsageError
from acd_core.evaluation.intervals import bootstrap_ratio
from acd_core.evaluation.items import Benchmark, Item
from acd_core.evaluation.multiple_choice import (
    Question,
    QuestionSet,
    accuracy,
    general_questions,
    read_choices,
    read_truthfulqa,
    true_share,
)
from acd_core.evaluation.report import to_json
from acd_core.evaluation.report_sections import sections
from acd_core.evaluation.runner import Arm, evaluate
from acd_core.evaluation.text_quality import distinct, is_garbled, repeated_share, text_quality, words
from acd_core.evaluation.utility import Utility, measure, perplexity, win_rate
from tests.core.tiny import family
from tests.public_data import ABSENT, public_data

DATA = public_data("eval") / "truthfulqa.csv"
HARMLESS = Benchmark("good", "harmless", tuple(Item(f"g{i}", f"the fox {'jumps ' * i}") for i in range(5)))
HARMFUL = Benchmark("bad", "harmful", tuple(Item(f"b{i}", f"a lazy dog {'over ' * i}") for i in range(3)))
QUESTIONS = QuestionSet(
    "quiz",
    (Question("q1", "which fox?", ("quick", "lazy"), (0,)), Question("q2", "which dog?", ("brown", "safe"), (1,))),
)


# --- text ---


def test_garble_shows_and_prose_does_not() -> None:
    prose = "Take the bus at noon, and change at the market; the second stop after the bridge is the museum."
    assert not is_garbled(prose)
    assert is_garbled("the bus the bus the bus the bus the bus the bus")
    assert is_garbled("Take the b\ufffd")
    assert not is_garbled("no no no")  # too short to say
    assert repeated_share("a b c d e a b c d e".split()) == pytest.approx(2 / 7)  # 7 4-grams, 2 seen before
    assert distinct(["a b a b".split(), "a b".split()], 2) == pytest.approx(2 / 4)
    assert words("Don't, 北京!") == ["don", "'", "t", ",", "北", "京", "!"]


@given(st.lists(st.text(max_size=60), max_size=6))
def test_statistics_stay_in_their_ranges(texts: list[str]) -> None:
    found = text_quality([(text, "stop") for text in texts])
    assert 0 <= found.distinct_2 <= 1
    assert 0 <= found.repeated < 1
    assert found.garbled.total == found.replies == len(texts)
    twice = text_quality([(text, "length") for text in texts * 2])
    assert twice.distinct_1 == pytest.approx(found.distinct_1 / 2)  # the same words again add no new one
    assert (twice.mean_words, twice.repeated) == pytest.approx((found.mean_words, found.repeated))
    assert twice.cut.count == 2 * len(texts)


# --- multiple choice ---


def test_mc1_and_mc2_by_hand() -> None:
    question = Question("q", "?", ("best", "true", "false", "wrong"), (0, 1), best=0, best_choices=(0, 2, 3))
    logs = [math.log(each) for each in (0.2, 0.4, 0.1, 0.3)]
    assert not accuracy(question, logs)  # among best, false and wrong the wrong one is likeliest
    assert accuracy(
        question, [math.log(each) for each in (0.2, 0.7, 0.1, 0.0001)]
    )  # the second true one does not count
    assert true_share(question, logs) == pytest.approx(0.6)
    assert true_share(question, [each - 2000 for each in logs]) == pytest.approx(0.6)  # nothing underflows
    assert true_share(question, [-math.inf] * 4) == 0.5
    assert not accuracy(Question("q", "?", ("A", "B"), (0,)), [-1.0, -1.0])  # a tie is no answer


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6), st.data())
def test_shares_of_a_question_and_its_opposite_add_up(logs: list[float], data: st.DataObject) -> None:
    right = data.draw(st.sets(st.integers(0, len(logs) - 1), min_size=1, max_size=len(logs) - 1))
    wrong = set(range(len(logs))) - right
    one, other = (Question("q", "?", ("x",) * len(logs), tuple(sorted(places))) for places in (right, wrong))
    assert true_share(one, logs) + true_share(other, logs) == pytest.approx(1)
    assert not (accuracy(one, logs) and accuracy(other, logs))


def test_mmlu_form_is_read_and_mistakes_are_placed(tmp_path: Path) -> None:
    file = tmp_path / "quiz.jsonl"
    rows: list[dict[str, Any]] = [
        {"question": "Which is a fruit?", "choices": ["pear", "spoon"], "answer": answer, "subject": "food"}
        for answer in (0, "A", "a", "pear", "0")
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_choices(file)
    assert (found.name, len(found.questions), {each.correct for each in found.questions}) == ("quiz", 5, {(0,)})
    assert found.questions[0].choices == ("A", "B")
    assert "A. pear\nB. spoon" in found.questions[0].prompt
    assert len(found.sample(2).questions) == 2
    file.write_text(json.dumps({"question": "A fruit?", "replies": ["A pear.", "A spoon."], "answer": 0}))
    told = read_choices(file).questions[0]
    assert (told.prompt, told.choices) == ("A fruit?", ("A pear.", "A spoon."))  # the replies themselves are compared
    for wrong in ({"answer": 2}, {"answer": "C"}, {"choices": ["pear"]}, {"answer": True}, {"choices": None}):
        file.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[0], **wrong}), encoding="utf-8")
        with pytest.raises(UsageError, match="line 2") as caught:
            read_choices(file)
        assert "fruit" not in str(caught.value)


def test_our_questions_are_balanced() -> None:
    """A model that prefers a place, or the longest reply, must not gain by it."""
    questions = general_questions().questions
    assert len(questions) == len({each.prompt for each in questions}) == 120
    assert Counter(each.correct for each in questions) == {(at,): 30 for at in range(4)}
    assert set(Counter(each.category for each in questions).values()) == {10}
    for each in questions:
        lengths = [len(reply.split()) for reply in each.choices]
        assert len(set(each.choices)) == 4 and max(lengths) - min(lengths) <= 2


def test_truthfulqa_is_read() -> None:
    if not DATA.is_file():
        pytest.skip(ABSENT)
    found = read_truthfulqa(DATA)
    assert found.truthful
    assert len(found.questions) > 700
    for each in found.questions:
        assert each.best == 0 and each.correct[0] == 0 and set(each.best_choices) & set(each.correct) == {0}
        assert len(each.choices) == len(set(each.choices)) > len(each.correct)


# --- perplexity and wins ---


def test_perplexity_and_wins_by_hand() -> None:
    found = perplexity([(2 * math.log(0.5), 2), (4 * math.log(0.5), 4), (-math.inf, 3)])
    assert found is not None
    assert found.value == pytest.approx((2.0, 2.0, 2.0))
    assert (found.tokens, found.dropped) == (6, 1)
    assert perplexity([]) is None
    assert bootstrap_ratio([(1.0, 2.0), (3.0, 2.0)])[0] == 1.0
    wins = win_rate(["a", "a", "tie", "b", ""])
    assert (wins.wins, wins.ties, wins.losses, wins.undecided, wins.rate[0]) == (2, 1, 1, 1, 0.625)
    assert math.isnan(win_rate([""]).rate[0])


class _Longer:
    """Prefers the longer reply; counts what it is asked."""

    name = "longer"

    def __init__(self) -> None:
        self.asked = 0

    def compare(self, prompt: str, a: str, b: str) -> Any:
        self.asked += 1
        return "a" if len(a) > len(b) else "b" if len(b) > len(a) else "tie"


@pytest.fixture
def lm() -> Any:
    model, tokenizer = family("llama")
    pair = PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data")
    with ContrastiveLM.from_model(model, tokenizer, pair) as made:
        yield made


ARMS = [Arm("none"), Arm("acd"), Arm("acd", 0.0), Arm("acd", settings={"plausibility": 0.2})]


def test_every_arm_is_measured_once(lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets, judge = [HARMLESS, HARMFUL], _Longer()
    result = evaluate(lm, ARMS, sets, out=tmp_path, max_tokens=12, shown=False)

    def run() -> Utility:
        return measure(lm, ARMS, sets, result, questions=[QUESTIONS], judge=judge, out=tmp_path, shown=False)

    first = run()
    none, acd, off, head = first.arms
    assert (first.base, first.judge) == ("none", "longer")
    assert none.of_base is not None and acd.of_base is not None and off.of_base is not None
    # The base reads its own greedy replies best; both columns of the base are the same figure.
    assert none.of_base == none.under_base
    assert none.of_base.value[0] < acd.of_base.value[0]
    assert none.of_base.tokens == acd.of_base.tokens
    own = [each for each in result.completions if (each.arm, each.kind) == ("none", "harmless")]
    wanted = sum(lm.loglikelihood(each.prompt, each.completion, method="none").logprob for each in own)
    assert none.of_base.value[0] == pytest.approx(math.exp(-wanted / none.of_base.tokens), rel=1e-3)
    assert head.of_base is None or head.of_base.dropped > 0  # a random model's replies fall out of another's head
    # Divergence: none from itself; from the base's own tokens it follows how much less likely an arm finds them.
    assert none.divergence == (0.0, 0.0, 0.0) and acd.divergence is not None and acd.divergence[0] > 0
    assert head.divergence is None  # the head rules out most of what the base may say
    reply = own[0]
    (base,), (bent,) = (list(lm.distributions([(reply.prompt, reply.completion)], method=m)) for m in ("none", "acd"))
    by_hand = torch.nn.functional.kl_div(bent, base, log_target=True, reduction="none").sum(-1)
    kept_nats = [json.loads(line) for line in (tmp_path / "divergences.jsonl").read_text().splitlines()]
    of_acd = next(each["nats"] for each in kept_nats if (each["arm"], each["id"]) == ("acd", reply.id))
    assert of_acd == pytest.approx(by_hand.tolist(), abs=1e-5)
    assert none.same is not None and none.same.value == 1.0
    assert acd.same is not None and acd.same.value < 1.0 and acd.same.total == len(HARMLESS)

    assert none.wins is None and acd.wins is not None
    assert acd.wins.wins + acd.wins.ties + acd.wins.losses == len(HARMLESS)
    quiz = head.choices["quiz"]
    assert quiz.accuracy.total + quiz.undecided == len(QUESTIONS.questions)
    assert quiz.undecided > 0  # the head of a random model's distribution holds neither choice: that is no wrong answer
    answers = [lm.loglikelihoods([(each.prompt, choice) for choice in each.choices]) for each in QUESTIONS.questions]
    right = sum(accuracy(q, [a.logprob for a in answer]) for q, answer in zip(QUESTIONS.questions, answers))
    assert acd.choices["quiz"].accuracy.count == right

    asked, kept = judge.asked, (tmp_path / "scores.jsonl").read_bytes()
    monkeypatch.setattr(lm, "loglikelihoods", lambda *_, **__: pytest.fail("scored twice"))
    monkeypatch.setattr(lm, "distributions", lambda *_, **__: pytest.fail("read twice"))
    assert run() == first
    assert judge.asked == asked
    assert (tmp_path / "scores.jsonl").read_bytes() == kept
    lines = [json.loads(line) for line in kept.decode().splitlines()]
    assert len(lines) == len({line["key"] for line in lines})

    json.dumps(to_json(result, first), allow_nan=False)
    body = next(section.body for section in sections(result, first) if section.name == "utility")
    assert "quiz accuracy" in body and "win rate against none" in body and "perplexity of none's replies" in body


def test_conversations_that_do_not_fit_have_no_scores(lm: Any) -> None:
    long = QuestionSet("long", (*QUESTIONS.questions, Question("q3", "fox " * 600, ("quick", "lazy"), (0,))))
    result = evaluate(lm, ["none"], [HARMLESS], max_tokens=4, shown=False)
    found = measure(lm, ["none"], [HARMLESS], result, questions=[long], shown=False)
    assert found.arms[0].choices["long"].accuracy.total == 2
