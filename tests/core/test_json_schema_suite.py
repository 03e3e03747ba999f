"""The counting of benchmarks/json_schema_coverage.py, on cases of our own in the suite's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.json_schema_coverage import Bytes, judged, page, run, shares

pytest.importorskip("llguidance")
BYTES = Bytes()
PAIR = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "format": "date"}}}


@pytest.mark.parametrize(
    ("data", "valid", "kind"),
    [
        ({"a": 1, "b": "2024-01-31"}, True, "right"),
        ({"a": "1"}, False, "right"),
        ({"b": "2024-01-31", "a": 1}, True, "order"),
        ({"a": 1, "c": 2}, True, "closed"),
        ({"a": 1.0}, True, "number"),
        ({"b": "yesterday"}, True, "format"),
        ({"a": 1}, False, "accepted but wrong"),  # as if the suite said so
        ({"b": "2024-01-31", "a": 1}, False, "accepted but wrong"),  # in whatever order it is let through
    ],
)
def test_kinds_of_cases(data: Any, valid: bool, kind: str) -> None:
    assert judged(BYTES, BYTES.grammar.for_schema(PAIR), PAIR, data, valid) == kind


def test_a_refused_schema_counts_with_all_its_cases(tmp_path: Path) -> None:
    groups = [
        {"schema": {"not": {}}, "description": "refused", "tests": [{"data": 1, "valid": False}] * 3},
        {"schema": {"const": "x"}, "description": "kept", "tests": [{"data": "x", "valid": True}]},
    ]
    (tmp_path / "mine.json").write_text(json.dumps(groups))
    found = run(BYTES, tmp_path / "mine.json", "mine")
    row = found.row()
    assert (row["schemas"], row["refused schemas"], row["cases"], row["refused"], row["right"]) == (2, 1, 4, 3, 1)
    assert (row["covered, per cent"], row["covered of what is accepted, per cent"]) == (25.0, 100.0)
    assert list(row["reasons"].values()) == [1]
    whole = {"all": shares([found]), "by keyword": {"mine": row}}
    text = page({"llguidance": "0", "suite": "mine", "keywords": whole, "optional": whole, "formats": whole})
    assert "| mine | 2 | 1 | 4 |" in text
