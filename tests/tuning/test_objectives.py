"""Losses against values worked out by hand, and their behaviour at the edges of floating point."""

from __future__ import annotations

import math

import pytest
import torch

from acd_core.errors import UsageError
from acd_core.tuning import OBJECTIVES
from acd_core.tuning.losses import (
    UNLIKELIHOOD_BOUND,
    bounded_unlikelihood,
    decision,
    joint_scores,
    kl_to,
    nll,
    refusal_signal,
    token_nll,
    unlikelihood,
)
from acd_core.tuning.objectives import RowScores, Term, get_objective, term_rows

# One row, two reply tokens, three words: softmax of log-probabilities is the probabilities themselves.
LOGITS = torch.log(torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]))
TARGETS = torch.tensor([[0, 1]])
BOTH = torch.ones(1, 2)
FIRST = torch.tensor([[1.0, 0.0]])


def test_nll_by_hand() -> None:
    expected = -(math.log(0.5) + math.log(0.8)) / 2
    assert nll(LOGITS, TARGETS, BOTH).item() == pytest.approx(expected, rel=1e-6)
    assert nll(LOGITS, TARGETS, FIRST).item() == pytest.approx(-math.log(0.5), rel=1e-6)


def test_token_nll_is_a_sum() -> None:
    assert token_nll(LOGITS, TARGETS, BOTH).item() == pytest.approx(-math.log(0.5) - math.log(0.8), rel=1e-6)
    assert token_nll(LOGITS, TARGETS, FIRST).item() == pytest.approx(-math.log(0.5), rel=1e-6)


def test_unlikelihood_by_hand() -> None:
    expected = -(math.log(0.5) + math.log(0.2)) / 2
    assert unlikelihood(LOGITS, TARGETS, BOTH).item() == pytest.approx(expected, rel=1e-6)


def test_bounded_unlikelihood_by_hand() -> None:
    keep = 1 - math.exp(-UNLIKELIHOOD_BOUND)
    expected = -(math.log(1 - keep * 0.5) + math.log(1 - keep * 0.8)) / 2
    assert bounded_unlikelihood(LOGITS, TARGETS, BOTH).item() == pytest.approx(expected, rel=1e-6)


def test_kl_by_hand() -> None:
    other = torch.log(torch.tensor([[[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]]))
    expected = 0.5 * math.log(2.0) + 0.25 * math.log(0.5)
    assert kl_to(LOGITS, other, FIRST).item() == pytest.approx(expected, rel=1e-6)
    assert kl_to(LOGITS, LOGITS, BOTH).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("gap", [20.0, 200.0, 1e4])
def test_unlikelihood_is_finite_where_the_probability_is_one(gap: float) -> None:
    logits = torch.tensor([[[gap, 0.0, 0.0]]], requires_grad=True)
    targets, mask = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
    assert torch.softmax(logits, -1)[0, 0, 0].item() == pytest.approx(1.0, abs=1e-8)
    value = unlikelihood(logits, targets, mask)
    assert value.item() == pytest.approx(gap - math.log(2.0), rel=1e-5)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert gradient[0, 0].tolist() == pytest.approx([1.0, -0.5, -0.5], abs=1e-5)
    bounded = bounded_unlikelihood(logits, targets, mask)
    assert bounded.item() <= UNLIKELIHOOD_BOUND + 1e-4
    assert torch.isfinite(torch.autograd.grad(bounded.sum(), logits)[0]).all()


def test_unlikelihood_is_exact_where_the_probability_is_tiny() -> None:
    logits = torch.tensor([[[-40.0, 0.0]]], dtype=torch.float64)
    value = unlikelihood(logits, torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)).item()
    assert 0.0 <= value < 1e-15


def test_joint_scores() -> None:
    safe, adversarial = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])
    assert joint_scores(safe, adversarial, 0.5).tolist() == pytest.approx([3.0, -1.0])
    assert torch.equal(joint_scores(safe, adversarial, 0.0), safe)
    assert joint_scores(safe, safe, 0.4).tolist() == pytest.approx(safe.tolist())
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        joint_scores(safe, adversarial, 1.0)


def test_decision_by_hand() -> None:
    signal = torch.tensor([0.9, 0.2, 0.0])
    refuse = 0.5 * 0.9 + 0.25 * 0.2
    assert decision(LOGITS, signal, True).item() == pytest.approx(-math.log(refuse), rel=1e-4)
    assert decision(LOGITS, signal, False).item() == pytest.approx(-math.log(1 - refuse), rel=1e-4)


def test_refusal_signal_weighs_both_kinds_alike() -> None:
    # Token 1 opens half of the refusals and a quarter of the others; token 3 opens others only, token 0 nothing.
    signal = refusal_signal([1, 2], [1, 3, 3, 3], 5)
    assert signal.tolist() == pytest.approx([0.0, 0.5 / 0.75, 1.0, 0.0, 0.0])


def test_half_precision_logits_are_computed_in_float32() -> None:
    assert nll(LOGITS.bfloat16(), TARGETS, BOTH).dtype == torch.float32
    assert nll(LOGITS.double(), TARGETS, BOTH).dtype == torch.float64


def test_a_row_without_supervised_tokens_gives_zero() -> None:
    assert unlikelihood(LOGITS, TARGETS, torch.zeros(1, 2)).item() == 0.0


def test_a_term_looks_at_the_first_tokens_only() -> None:
    rows = RowScores(TARGETS, BOTH, safe=LOGITS)
    term = Term("t", "safe", "refused", "nll", first=1)
    assert term_rows(term, rows, 0.4).item() == pytest.approx(-math.log(0.5), rel=1e-6)


def test_a_missing_stream_is_an_error() -> None:
    with pytest.raises(ValueError, match="joint"):
        term_rows(Term("joint", "joint", "refused", "nll"), RowScores(TARGETS, BOTH, safe=LOGITS), 0.4)


def test_the_table_names_what_each_class_needs() -> None:
    paper, joint = OBJECTIVES["paper"], OBJECTIVES["joint"]
    assert paper.classes == ("refused", "accepted", "harmless")
    assert paper.streams("refused") == {"safe", "adversarial"}
    assert joint.classes == ("refusals", "harmless", "harmless_accepted")
    assert joint.streams("refusals") == {"safe", "adversarial"}
    assert joint.decides and not paper.decides
    assert joint.streams("harmless_accepted") == {"safe", "adversarial", "plain"}
    with pytest.raises(UsageError, match="paper"):
        get_objective("papper")


def test_terms_that_cannot_be_computed_say_so() -> None:
    with pytest.raises(UsageError, match="'nlll'") as caught:
        Term("t", "safe", "refused", "nlll")
    assert "unlikelihood" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no states"):
        Term("t", "joint", "refused", "nll", layers=(1,))
