"""garak itself, offline, over our generator. It wants datasets<4 (0.17.0) or transformers<5.20 (0.17.1), so it lives in
an environment of its own, without constraints.txt:

    python -m venv venv-garak
    venv-garak/bin/pip install -e ".[garak]" pytest pytest-asyncio pytest-benchmark pytest-socket pytest-timeout
    venv-garak/bin/python -m pytest tests/harnesses/test_garak.py

Only garak's own test probe is posed here: pangrams, greetings and an empty prompt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("garak", reason='needs the extra "garak", in an environment of its own (datasets<4)')
import garak._config
from garak.attempt import Conversation, Message, Turn
from garak.generators.function import Single

from acd_core import ContrastiveLM
from acd_core.errors import UsageError
from acd_integrations.garak import ContrastiveGenerator, reply

ROOT = Path(__file__).parents[2]
OPTIONS = {"pair": "reference", "alpha": 0.3, "max_tokens": 6}


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    with ContrastiveLM.from_pretrained("reference", "reference") as made:
        yield made


@pytest.fixture(autouse=True, scope="module")
def _configured() -> None:
    garak._config.load_config()


def generator(**options: Any) -> ContrastiveGenerator:
    return ContrastiveGenerator("reference", config_root={"generators": {"acd": {**OPTIONS, **options}}})


def said(*turns: tuple[str, str]) -> Conversation:
    return Conversation([Turn(role, Message(text)) for role, text in turns])


def test_a_run_of_garak_s_own_command_line(lm: ContrastiveLM, tmp_path: Path) -> None:
    """Its report holds, for every prompt of the probe, the reply that the LM gives on its own."""
    folders = {f"XDG_{kind}_HOME": str(tmp_path / kind) for kind in ("DATA", "CONFIG", "CACHE")}
    command = [sys.executable, "-m", "acd_integrations.garak", "--target_type", "acd", "--target_name", "reference"]
    command += ["--spec", "probes.test.Test", "--generations", "2", "--report_prefix", "run"]
    command += ["--generator_options", json.dumps({"acd": OPTIONS})]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **folders}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (report,) = (tmp_path / "DATA").rglob("run.report.jsonl")
    entries = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    answered = {
        entry["prompt"]["turns"][-1]["content"]["text"]: [output["text"] for output in entry["outputs"]]
        for entry in entries
        if entry["entry_type"] == "attempt" and entry["status"] == 2
    }
    assert "" in answered and len(answered) == 8
    prompts = sorted(answered)
    expected = lm.generate([[{"role": "user", "content": each}] for each in prompts], alpha=0.3, max_tokens=6)
    assert [answered[each] for each in prompts] == [[each.text] * 2 for each in expected]
    (verdict,) = (entry for entry in entries if entry["entry_type"] == "eval")
    assert verdict["passed"] == verdict["total_evaluated"] == 16


def test_the_whole_conversation_reaches_the_model(lm: ContrastiveLM) -> None:
    turns = [("system", "Be brief."), ("user", "My name is Ada."), ("assistant", "Hello Ada."), ("user", "And you?")]
    expected = lm.generate([{"role": r, "content": t} for r, t in turns], alpha=0.3, max_tokens=6).text
    assert generator().generate(said(*turns)) == [Message(expected)]
    begun = [*turns, ("assistant", "I am")]
    continued = lm.generate([{"role": r, "content": t} for r, t in begun], alpha=0.3, max_tokens=6).text
    assert generator().generate(said(*begun)) == [Message(continued)]


def test_the_function_target_gives_what_the_class_gives() -> None:
    function = Single("acd_integrations.garak#reply", kwargs=OPTIONS)
    function.kwargs = OPTIONS
    for text in ("What colour is snow?", ""):
        assert function.generate(said(("user", text))) == generator().generate(said(("user", text)))


def test_options_reach_the_decoding(lm: ContrastiveLM) -> None:
    asked = said(("user", "Name a fruit."))
    plain = lm.generate("Name a fruit.", method="none", max_tokens=6).text
    assert generator(method="none").generate(asked) == [Message(plain)]
    drawn = generator(temperature=5.0, seed=3)
    first = drawn.generate(asked, 3)
    assert first == drawn.generate(asked, 3)
    assert len({each.text for each in first}) > 1
    with pytest.raises(UsageError, match="alpha"):
        generator(alpha=1.5)
    with pytest.raises(UsageError, match="alfa"):
        reply("x", "reference", "reference", alfa=0.1)


def test_what_does_not_fit_and_what_is_empty() -> None:
    assert generator().generate(said(("user", "word " * 4000)), 2) == [None, None]
    assert reply("word " * 4000, **OPTIONS) == [None]
    alone = generator().generate(said(("system", "Be brief.")))
    assert alone == generator().generate(said(("system", "Be brief."), ("user", "")))
