"""Figures in README.md and docs/ stand in a file under benchmarks/results/ that the same section links to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_KEPT = re.compile(r"<!-- figures not kept: .+? -->")
"""A section of experiments whose files were not kept says so; the README may not."""
FIGURE = re.compile(r"(?<![\w.-])(?<!Python )\d{0,3}\.\d{1,3}(?![\w.]*\w)")
LINK = re.compile(r"\]\((?:\.\./)?(benchmarks/results/[\w./-]+)\)")
HARMFUL = ("advbench", "malicious-instruct", "harmfulqa", "dangerousqa")


def sections(page: Path) -> list[str]:
    """A page cut at its headings; code and links' addresses are no claims."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.split(r"^#+ ", text, flags=re.M)


def numbers(value: Any) -> Iterator[float]:
    """All numbers of a JSON document, and the mean of the four harmful sets wherever they stand side by side."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield float(value)
    elif isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from numbers(each)
        if all(name in value for name in HARMFUL):
            four = [list(numbers(value[name])) for name in HARMFUL]
            yield from (sum(same) / 4 for same in zip(*four))


def known(files: list[str]) -> set[str]:
    """Every number of some results, as it may be written: to one, two or three places, with or without the zero."""
    found: set[float] = set()
    for name in files:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        found |= set(numbers(json.loads(text))) if path.suffix == ".json" else set(map(float, FIGURE.findall(text)))
    return {f"{value:.{places}f}" for value in found for places in (1, 2, 3)}


def untraced(page: Path) -> list[str]:
    missing = []
    for section in sections(page):
        files = LINK.findall(section)
        plain = re.sub(r"\]\([^)]*\)", "]", section)
        if NOT_KEPT.search(plain) and page.name != "README.md":
            continue
        stand = known(files)
        missing += [
            figure
            for figure in FIGURE.findall(plain)
            if f"{float(figure):.{len(figure.partition('.')[2])}f}" not in stand
        ]
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_figure_stands_in_the_results(page: Path) -> None:
    assert untraced(page) == []


def test_the_readmes_table_is_the_measured_one() -> None:
    measured = (ROOT / "benchmarks/results/gate/summary.md").read_text(encoding="utf-8").splitlines()
    rows = [
        line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if re.match(r"\|.*\(\.", line)
    ]
    assert len(rows) >= 6
    assert all(row in measured for row in rows)


def test_an_invented_figure_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    link = "[all](benchmarks/results/gate/gate.json)"
    page.write_text(f"# A\n\nIt refuses .87 of harm, then 7.31 ({link}).\n\n# B\n\nIt refuses .12.\n")
    assert untraced(page) == ["7.31", ".12"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
