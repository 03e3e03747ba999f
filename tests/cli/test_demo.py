"""The demo end to end through both real frameworks, on a tiny random model; only the tuning is a ready pair."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from acd_core.cli import demo


@pytest.fixture
def short(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requests of three words, two questions, and a pair that is there already."""
    from acd_core.pair import PromptPair

    for name in ("held_out_harmful.jsonl", "everyday.jsonl"):
        rows = [{"id": f"{name}-{n}", "text": f"{name.split('.')[0]} request {n}"} for n in range(4)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(demo, "REQUESTS", tmp_path)
    monkeypatch.setattr(demo, "QUESTIONS_ASKED", 2)
    monkeypatch.setattr(demo, "tuned", lambda model, out, **settings: SimpleNamespace(pair=PromptPair.load(tiny_pair)))
    return tmp_path


def test_both_frameworks_then_the_table(acd, tiny: Path, short: Path):
    result = acd("demo", "--model", str(tiny), "--requests", "2", "--max-tokens", "6")
    assert result.exit_code == 0, (result.output, result.exception)
    for title in ("through a LangChain chain", "a LlamaIndex query engine"):
        assert title in result.stdout
    table = result.stdout[result.stdout.index("2 harmful and 2 harmless requests") :]
    for row in ("harmless rate", "over-refusal", "document questions"):
        assert re.search(rf"{row}.*\d+%.*\d+%", table), table
    assert re.search(r"tokens per second\D+[1-9]\d*\D+[1-9]\d*", table), table
    assert "acd tune --model" in table
    assert "tuning a pair" in result.stderr and "tuning a pair" not in result.stdout


def test_the_same_requests_for_the_same_seed():
    path = demo.DOCUMENTS.parent / "demo_questions.jsonl"
    assert len(demo._rows(path)) >= demo.QUESTIONS_ASKED


def test_ctrl_c_ends_it_cleanly(acd, tiny: Path, short: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(model, out, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "tuned", interrupted)
    result = acd("demo", "--model", str(tiny), "--requests", "2")
    assert result.exit_code == 130
    assert result.stderr.rstrip().endswith("stopped")


def test_the_right_paragraph_is_found_for_every_question():
    """Otherwise the query engine's column would show the retriever's mistakes and not the model's."""
    from acd_integrations.demo import WordOverlap

    documents = {path.stem: path.read_text(encoding="utf-8") for path in demo.DOCUMENTS.glob("*.txt")}
    retriever = WordOverlap(documents)
    rows = demo._rows(demo.QUESTIONS)
    found = {row["question"]: retriever.retrieve(row["question"])[0].node for row in rows}
    wrong = {row["question"] for row in rows if found[row["question"]].metadata["name"] != row["document"]}
    assert not wrong
    assert all(row["sentence"].strip(". ") in found[row["question"]].text for row in rows)
