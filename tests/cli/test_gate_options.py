"""`--gate`, and where the command line says what a gate is and did."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from acd_core.artifacts.pair import PromptPair
from acd_core.artifacts.pair_card import model_card
from acd_core.cli.gating import gate_facts, gate_said, gate_setting
from acd_core.errors import UsageError
from acd_core.evaluation.runner import Arm, arm_settings
from acd_core.identity import identity, reply_facts
from acd_core.lm import ContrastiveLM
from acd_core.params import GateReport
from tests.core.gated import NEVER, gate, open_lm
from tests.core.tiny import family

FIXED = ("--max-tokens", "8", "--device", "cpu", "--dtype", "float32", "--no-stream")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose replies the contrast changes."""
    folder = tmp_path_factory.mktemp("wide")
    for part in family("llama"):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with open_lm() as lm:
        assert lm.pair is not None
        return lm.pair.save(tmp_path_factory.mktemp("ungated") / "pair")


@pytest.fixture(scope="module")
def gated(tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pair behind a gate that never opens."""
    pair = replace(PromptPair.load(str(tiny_pair)), gate=gate(NEVER, NEVER))
    return pair.save(tmp_path_factory.mktemp("gated") / "pair")


def test_what_the_option_takes() -> None:
    assert [gate_setting(each) for each in ("", "on", "off", "0.02")] == [None, True, False, 0.02]
    for wrong in ("yes", "0", "1.5", "nan"):
        with pytest.raises(UsageError, match="--gate"):
            gate_setting(wrong)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (GateReport(None, -1.25, 0.4, 2), "[gate: closed; reading -1.25, threshold 0.4]"),
        (GateReport(0, 3.1, 0.4, 1), "[gate: opened at the prompt; reading 3.1, threshold 0.4]"),
        (GateReport(32, float("nan"), 0.4, 2), "[gate: opened after 32 tokens; reading nan, threshold 0.4]"),
        (GateReport(0, None, 0.4, 0), "[gate: opened at the prompt; nothing to read, threshold 0.4]"),
    ],
)
def test_what_a_gate_did(report: GateReport, text: str) -> None:
    assert gate_said(report) == text


def test_chat_takes_the_gate_and_says_what_it_did(
    acd, tiny: Path, gated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with ContrastiveLM.from_pretrained(str(tiny), str(gated), device="cpu", dtype="float32") as lm:
        alone, contrasted = (lm.generate("Hello", max_tokens=8, gate=each) for each in (None, False))
    assert alone.text != contrasted.text
    arguments = ("chat", "--model", str(tiny), "--pair", str(gated), *FIXED)
    for options, reply in (((), alone), (("--gate", "on"), alone), (("--gate", "off"), contrasted)):
        result = acd(*arguments, *options, lines="Hello\n")
        assert result.exit_code == 0, result.output
        assert result.stdout == f"{reply.text}\n"
    assert acd(*arguments, "--gate", "perhaps", lines="Hello\n").exit_code == 2

    from acd_core.cli import chat

    monkeypatch.setattr(chat.sys.stdin, "isatty", lambda: True, raising=False)
    chat._report(alone)
    assert "out] [gate: closed; reading " in capsys.readouterr().err


def test_a_pair_says_whether_it_has_a_gate(acd, tiny: Path, gated: Path, tiny_pair: Path):
    told = (
        "reads layers 2, 3; threshold 0.5, above it 33.3% of the harmless and 100.0% of the harmful validation requests"
    )
    assert gate_facts(gate(0.5)) == f"{told}; read again in replies"
    assert gate_facts(gate(0.5, None)) == f"{told}; read at the prompt only"
    for command in (("pair", "show"), ("doctor", "--model", str(tiny), "--device", "cpu", "--pair")):
        with_one, without = acd(*command, str(gated)), acd(*command, str(tiny_pair))
        assert "reads layers 2, 3; threshold 1e+09" in with_one.stdout
        assert "none: the method acts on every request" in without.stdout
    card = (gated / "README.md").read_text()
    assert "(in layers\n2, 3); to every other one" in card
    assert "opens for 0.0% of the harmless" in card
    assert "gate" not in model_card({"kind": "soft", "gate": None}, 3)


def test_kept_replies_are_those_of_one_gate(tiny: Path, tiny_pair: Path, gated: Path) -> None:
    def facts(arm: str, pair: Path = gated, **settings: object) -> object:
        with ContrastiveLM.from_pretrained(str(tiny), str(pair), device="cpu", dtype="float32", **settings) as lm:
            return reply_facts(identity(lm), arm_settings({}, Arm.of(arm)))

    for arm in ("acd", "rose"):
        found = [facts(arm, tiny_pair), facts(arm), facts(arm, gate=0.5), facts(arm, gate=0.5, gate_floor=0.5)]
        found += [facts(arm, recheck=8), facts(f"{arm} gate=off"), facts(f"{arm} gate=0.5")]
        assert all(one != other for at, one in enumerate(found) for other in found[:at])
    assert facts("rose", gate=False) == facts("rose", tiny_pair)
    assert facts("none") == facts("none", tiny_pair)


def test_evaluate_hands_the_gate_to_every_method(acd, tiny: Path, gated: Path, tmp_path: Path):
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "Hello"}) + "\n")
    replies = {}
    for setting in ("", "off", "both"):
        out = tmp_path / f"out-{setting}"
        options = ("--gate", setting) if setting else ()
        result = acd(
            "evaluate", "--model", str(tiny), "--pair", str(gated), "--methods", "none,acd@0.4", "--alphas", "none",
            "--sets", f"harmless:{asked}", "--no-utility", "--max-tokens", "8", "--device", "cpu", "--dtype", "float32",
            "--out", str(out), *options,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        rows = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
        replies[setting] = {row["arm"]: row["completion"] for row in rows}
        page = (out / "report.md").read_text()
        assert ("| acd@0.4 | off |" in page) == (setting == "off")
        assert "| none | - |" in page
    assert replies[""]["acd@0.4"] == replies[""]["none"] == replies["off"]["none"] != replies["off"]["acd@0.4"]
    assert replies["both"] == {**replies[""], "acd@0.4 gate=off": replies["off"]["acd@0.4"]}
    assert "| acd@0.4 | on |" in page and "| acd@0.4 gate=off | off |" in page
    assert acd("evaluate", "--gate", "perhaps").exit_code == 2
