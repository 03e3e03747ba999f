"""Every rule against numbers worked out by hand, and against its paper's own way of writing it."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.methods import rules
from acd_core.methods.table import METHODS

ROWS = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=7, max_size=7), min_size=2, max_size=2)


def run(name: str, kept: list[float], other: list[float], alpha: float, rescale: bool = True) -> list[float]:
    scores = rules.RULES[name](
        torch.tensor([kept]), torch.tensor([other]), torch.tensor([[alpha]]), torch.tensor([[rescale]])
    )
    return scores[0].tolist()  # type: ignore[no-any-return]


def logits(*probabilities: float) -> list[float]:
    assert math.isclose(sum(probabilities), 1.0)
    return [math.log(each) for each in probabilities]


# -- contrast: ACD, ROSE, Instructive Decoding, Self-CD --


def test_contrast_by_hand() -> None:
    # 2 - 0.4 * 1 = 1.6, 1 - 0.4 * 3 = -0.2, 0 - 0.4 * -1 = 0.4; divided by 0.6 where rescaled
    assert run("contrast", [2, 1, 0], [1, 3, -1], 0.4, rescale=False) == pytest.approx([1.6, -0.2, 0.4])
    assert run("contrast", [2, 1, 0], [1, 3, -1], 0.4) == pytest.approx([1.6 / 0.6, -0.2 / 0.6, 0.4 / 0.6])


def test_instructive_decoding_by_hand() -> None:
    # z + eps * z_noisy with eps = -0.3: 1 - 0.3 * 2 = 0.4, 3 + 0.3 = 3.3, -2 - 0 = -2
    method = METHODS["instructive-opposite"]
    assert run(method.rule.name, [1, 3, -2], [2, -1, 0], method.alpha, rescale=False) == pytest.approx([0.4, 3.3, -2.0])


def test_rose_by_hand() -> None:
    # z_pos - 0.5 * z_rev: 4 - 1 = 3, 2 - 3 = -1, 0 + 1 = 1
    for name in ("rose", "rose-opposite-replace", "rose-rand-words"):
        method = METHODS[name]
        assert run(method.rule.name, [4, 2, 0], [2, 6, -2], method.alpha, rescale=False) == pytest.approx([3, -1, 1])


def test_self_cd_by_hand() -> None:
    # The paper: y - 2.5 * (y - y'), y under the safety prompt, y' without.
    # 3 - 2.5 * (3 - 1) = -2, 1 - 2.5 * (1 - 2) = 3.5, 0 - 2.5 * (0 - -1) = -2.5
    method = METHODS["self-cd"]
    with_prompt, without = [3.0, 1.0, 0.0], [1.0, 2.0, -1.0]
    assert method.alpha == pytest.approx(1 - 1 / 2.5)
    assert run(method.rule.name, without, with_prompt, method.alpha) == pytest.approx([-2.0, 3.5, -2.5])


# -- adaptive: AdaCD --


def test_adacd_refuses_more_where_the_branches_agree_by_hand() -> None:
    # Both say token 0 first, and max p = 0.6 >= 0.9 * 0.6: zp + 4.5 * (zp - z).
    z, zp = logits(0.6, 0.3, 0.1), logits(0.6, 0.1, 0.3)
    method = METHODS["adacd"]
    expected = [zp[i] + 4.5 * (zp[i] - z[i]) for i in range(3)]
    assert expected[1] == pytest.approx(math.log(0.1) - 4.5 * math.log(3))
    assert run(method.rule.name, z, zp, method.alpha) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("z", "zp"),
    [
        ((0.6, 0.3, 0.1), (0.3, 0.6, 0.1)),  # zp's first is second in z: agreement 1/2
        ((0.5, 0.3, 0.2), (0.9, 0.05, 0.05)),  # same first, but max p = 0.5 < 0.9 * 0.9
    ],
)
def test_adacd_refuses_less_elsewhere_by_hand(z: tuple[float, ...], zp: tuple[float, ...]) -> None:
    plain, prompted = logits(*z), logits(*zp)
    method = METHODS["adacd"]
    expected = [prompted[i] - 4.5 * (prompted[i] - plain[i]) for i in range(3)]
    assert run(method.rule.name, plain, prompted, method.alpha) == pytest.approx(expected, abs=1e-4)


def test_adacd_decides_row_by_row() -> None:
    z = torch.tensor([logits(0.6, 0.3, 0.1), logits(0.6, 0.3, 0.1)])
    zp = torch.tensor([logits(0.6, 0.1, 0.3), logits(0.3, 0.6, 0.1)])
    alpha, rescale = torch.full((2, 1), 1 - 1 / 4.5), torch.full((2, 1), True)
    found = rules.adaptive(z, zp, alpha, rescale)
    torch.testing.assert_close(found[0], zp[0] + 4.5 * (zp[0] - z[0]))
    torch.testing.assert_close(found[1], zp[1] - 4.5 * (zp[1] - z[1]))


def test_adacd_masks_by_the_plain_row_by_hand() -> None:
    # p < 0.01 * max p: 0.005 < 0.00795 is dropped, 0.2 stays.
    z = torch.tensor([logits(0.795, 0.2, 0.005)])
    assert METHODS["adacd"].plausibility == 0.01
    assert rules.plausible(z, torch.tensor([[0.01]])).tolist() == [[True, True, False]]


# -- intersect: SafeDecoding --


def test_safedecoding_by_hand() -> None:
    # c = 2. Ranks in p: 0 1 2 3; in p': 2 1 3 0 (ids 3, 1, 0, 2). k = 2: {0, 1} and {3, 1} share {1}: one too few.
    # k = 3: {0, 1, 2} and {3, 1, 0} share {0, 1}.
    p, expert = logits(0.5, 0.3, 0.15, 0.05), logits(0.1, 0.3, 0.04, 0.56)
    assert rules.common(torch.tensor([p]), torch.tensor([expert]), 2).tolist() == [[True, True, False, False]]


def test_safedecoding_moves_probabilities_by_hand() -> None:
    # Six tokens, c = 5; the last is last in both rows, so k = 5 leaves the first five.
    # p + 3 * (p' - p): 0.3 - 0.6 < 0, 0.25 + 0.15, 0.2 + 0.3, 0.15 + 0.15, 0.06 + 0; together 1.26
    p, expert = logits(0.30, 0.25, 0.20, 0.15, 0.06, 0.04), logits(0.10, 0.30, 0.30, 0.20, 0.06, 0.04)
    method = METHODS["safedecoding"]
    assert method.alpha / (1 - method.alpha) == pytest.approx(3)
    found = run(method.rule.name, p, expert, method.alpha)
    assert [math.exp(each) for each in found] == pytest.approx(
        [1e-8 / 1.26, *(n / 1.26 for n in (0.4, 0.5, 0.3, 0.06)), 0]
    )
    assert found[0] == pytest.approx(math.log(1e-8 / 1.26), abs=1e-3)
    assert found[5] == -math.inf


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(1, 7))
def test_the_common_tokens_are_the_smallest_intersection_that_is_large_enough(
    rows: list[list[float]], least: int
) -> None:
    kept, other = torch.tensor(rows[:1]), torch.tensor(rows[1:])
    first, second = (row.argsort(dim=-1, descending=True, stable=True)[0].tolist() for row in (kept, other))
    wanted = next(
        both for k in range(1, 8) if len(both := set(first[:k]) & set(second[:k])) >= least
    )  # the authors' loop
    assert set(rules.common(kept, other, least)[0].nonzero()[:, 0].tolist()) == wanted


# -- all rules --


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_where_the_branches_are_equal_a_rescaled_rule_is_the_model(rows: list[list[float]]) -> None:
    kept = torch.tensor(rows[:1])
    alpha, rescale = torch.tensor([[0.75]]), torch.tensor([[True]])
    plain = kept.log_softmax(-1)
    for name in ("contrast", "adaptive"):
        torch.testing.assert_close(rules.RULES[name](kept, kept, alpha, rescale).log_softmax(-1), plain)
    found = rules.intersect(kept, kept, alpha, rescale)
    tokens = found > -torch.inf
    assert tokens.sum() == 5  # the model's own five best, in the model's own proportions
    torch.testing.assert_close(found[tokens], plain[tokens].clamp_min(math.log(1e-8)).log_softmax(-1))


def test_every_rule_serves_a_method_and_they_differ() -> None:
    assert {method.rule for method in METHODS.values()} == set(rules.RULES.values())
    z, zp = logits(0.6, 0.2, 0.1, 0.05, 0.03, 0.02), logits(0.6, 0.1, 0.2, 0.02, 0.05, 0.03)
    found = [run(name, z, zp, 0.75) for name in rules.RULES]
    assert all(one != pytest.approx(two, abs=0.1) for one, two in combinations(found, 2))
