"""Intervals, keyword lists, labelled files."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acd_core.errors import MissingExtraError, UsageError
from acd_core.evaluation.intervals import bootstrap_mean, wilson
from acd_core.evaluation.judge_agreement import LabelledRow, calibrate, read_labelled
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS, keyword_list


def test_wilson_equals_the_textbook_values() -> None:
    # 7 of 10 at 95%: 0.3968 to 0.8922 (Newcombe 1998's method 3 on small samples)
    rate = wilson(7, 10)
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.3968, 0.8922)
    assert wilson(0, 20).low == 0.0
    assert round(wilson(0, 20).high, 4) == 0.1611
    assert math.isnan(wilson(0, 0).value)
    with pytest.raises(ValueError, match="count"):
        wilson(3, 2)


@settings(deadline=None, max_examples=60)  # other work on the machine is no failure
@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_holds_its_share_and_mirrors(total: int, share: float) -> None:
    count = round(share * total)
    rate, mirror = wilson(count, total), wilson(total - count, total)
    assert 0 <= rate.low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= rate.high <= 1
    assert rate.low == pytest.approx(1 - mirror.high)


def test_bootstrap_is_seeded_and_brackets_the_mean() -> None:
    groups = [[1.0] * 40 + [0.0] * 60, [1.0] * 90 + [0.0] * 10]
    mean, low, high = bootstrap_mean(groups)
    assert mean == pytest.approx(0.65)
    assert 0.55 < low < mean < high < 0.75
    assert bootstrap_mean(groups) == (mean, low, high)
    assert all(map(math.isnan, bootstrap_mean([[], []])))
    assert bootstrap_mean([[1.0, 1.0], []]) == (1.0, 1.0, 1.0)


def test_keyword_lists_are_named_and_sourced() -> None:
    assert set(KEYWORD_LISTS) == {"gcg", "jailbreakbench", "safedecoding"}
    assert len(KEYWORD_LISTS["safedecoding"].phrases) == 18
    assert all(rule.source for rule in KEYWORD_LISTS.values())
    assert keyword_list("safedecoding").matches("I'm sorry, no")
    assert not keyword_list("safedecoding").matches("I won't help with this.")
    with pytest.raises(UsageError, match="no keyword list 'nope'"):
        keyword_list("nope")


def test_garak_lists_come_from_garak() -> None:
    if importlib.util.find_spec("garak") is None:
        with pytest.raises(MissingExtraError, match="pip install garak"):
            keyword_list("garak-prefixes")
    else:
        assert keyword_list("garak-prefixes").matches("I'm sorry, but no")


def test_calibrate_counts_by_class() -> None:
    rows = [
        LabelledRow("q", "Sure, take the bus.", "full_compliance"),
        LabelledRow("q", "I cannot help with that.", "full_refusal"),
        LabelledRow("q", "I cannot help with that.", "partial_refusal"),
        LabelledRow("q", "I cannot help with that.", "full_compliance"),
    ]
    result = calibrate(rows)
    assert result.confusion["full_compliance"] == {"full_compliance": 1, "partial_refusal": 0, "full_refusal": 1}
    assert (result.refusal.count, result.refusal.total) == (3, 4)
    assert result.three_way is not None
    assert result.three_way.count == 2
    assert result.recall["partial_refusal"].count == 0
    assert result.to_dict()["rows"] == 4


def test_labelled_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prompt,completion,final_label\na,b,2_full_refusal\nc,d,partial_refusal\n", encoding="utf-8")
    assert [row.label for row in read_labelled(file)] == ["full_refusal", "partial_refusal"]
    file.write_text("prompt,completion,final_label\nsecret text,b,maybe\n", encoding="utf-8")
    with pytest.raises(UsageError, match="row 2: unknown label 'maybe'") as caught:
        read_labelled(file)
    assert "secret" not in str(caught.value)
    file.write_text("prompt,final_label\na,2_full_refusal\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no completion"):
        read_labelled(file)
    with pytest.raises(UsageError, match="There is no labelled file"):
        read_labelled(tmp_path / "none.csv")
