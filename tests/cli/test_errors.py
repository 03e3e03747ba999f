"""Bad input gets one message and the next command, no traceback: exit code 2 for a usage mistake, else 1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from acd_core.cli import demo


def shown(result, code: int) -> str:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert "error: " in result.stderr and "next:  " in result.stderr
    assert "error" not in result.stdout
    return result.stderr


@pytest.mark.parametrize("verb", [("chat",), ("doctor",), ("tune", "--out", "x")], ids=lambda verb: verb[0])
def test_unknown_model_folder(acd, verb):
    assert "./no-such-model" in shown(acd(*verb, "--model", "./no-such-model"), 1)


def test_unknown_hub_model_while_offline(acd):
    assert "nobody/no-such-model" in shown(acd("chat", "--model", "nobody/no-such-model"), 1)


@pytest.mark.parametrize("verb", ["chat", "doctor"])
def test_unknown_pair(acd, tiny: Path, verb: str):
    message = shown(acd(verb, "--model", str(tiny), "--pair", "./no-such-pair"), 1)
    assert "./no-such-pair" in message
    assert "acd tune" in message


@pytest.mark.parametrize("verb", ["chat", "doctor"])
def test_a_pair_of_another_model(acd, tiny: Path, tiny_pair: Path, tmp_path: Path, make_tiny, verb: str):
    """Same width with other weights, and another width."""
    for number, width in enumerate((32, 64), start=1):
        other = make_tiny(tmp_path / f"other{width}", width=width, seed=number)
        message = shown(acd(verb, "--model", str(other), "--pair", str(tiny_pair)), 1)
        assert str(tiny) in message and str(other) in message
        assert f"acd tune --model {other}" in message


def test_a_truncated_pair(acd, tiny: Path, tiny_pair: Path, tmp_path: Path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_pair, broken)
    weights = broken / "safe" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    message = shown(acd("chat", "--model", str(tiny), "--pair", str(broken)), 1)
    assert "damaged" in message


@pytest.mark.parametrize("alpha", ["1", "1.5", "-0.1", "nan", "inf"])
def test_alpha_outside_its_range_before_anything_is_loaded(acd, alpha: str):
    message = shown(acd("chat", "--model", "./no-such-model", "--alpha", alpha), 2)
    assert "alpha" in message and alpha in message
    assert "no-such-model" not in message


def test_other_impossible_settings(acd):
    assert "max_tokens" in shown(acd("chat", "--max-tokens", "0"), 2)
    assert "temperature" in shown(acd("chat", "--temperature", "-1"), 2)
    assert "unheard-of" in shown(acd("chat", "--method", "unheard-of"), 2)
    assert "floaty" in shown(acd("doctor", "--dtype", "floaty", "--model", "reference"), 2)


def test_the_adversarial_prompt_alone_is_no_mode(acd):
    assert "adversarial prompt alone" in shown(acd("chat", "--method", "ap"), 2)


def test_a_contrast_without_a_pair(acd, tiny: Path):
    message = shown(acd("chat", "--model", str(tiny), "--method", "acd"), 2)
    assert "pair" in message


def test_no_distribution_offers_the_demo(acd, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo.metadata, "entry_points", lambda **wanted: ())
    assert 'pip install "acd-integrations[langchain,llama-index]"' in shown(acd("demo"), 1)


@pytest.mark.parametrize("absent", ["langchain_core", "llama_index"])
def test_the_demo_without_a_framework(absent: str):
    """In a process of its own, where the framework cannot be imported."""
    code = f"import sys; sys.modules[{absent!r}] = None; from acd_core.cli import app; app(['demo'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install" in done.stderr and "acd-integrations[" in done.stderr


def test_too_many_requests_for_the_demo(acd):
    assert "100000" in shown(acd("demo", "--requests", "100000"), 2)


@pytest.mark.parametrize("arguments", [("--debug", "chat", "--alpha", "2"), ("chat", "--alpha", "2", "--debug")])
def test_debug_keeps_the_error(acd, arguments):
    result = acd(*arguments)
    assert type(result.exception).__name__ == "UsageError"


def test_debug_prints_the_traceback():
    command = [sys.executable, "-c", "from acd_core.cli import main; main()", "chat", "--alpha", "2", "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "alpha" in done.stderr


def test_tune_does_not_overwrite_what_is_no_pair(acd, tmp_path: Path, tiny: Path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    message = shown(acd("tune", "--model", str(tiny), "--out", str(tmp_path)), 1)
    assert "will not be overwritten" in message
    assert (tmp_path / "thesis.txt").read_text() == "three years of work"


def test_usage_mistakes_of_the_command_line_itself(acd):
    assert acd("fly").exit_code == 2
    assert acd("tune").exit_code == 2  # --out is missing
    assert acd("chat", "--alpha", "much").exit_code == 2


def test_a_pair_with_a_spoilt_description(acd, tiny: Path, tiny_pair: Path, tmp_path: Path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_pair, broken)
    document = json.loads((broken / "pair.json").read_text())
    (broken / "pair.json").write_text(json.dumps(document | {"alpha": 1.0}))
    result = acd("doctor", "--model", str(tiny), "--pair", str(broken))
    assert result.exit_code in (1, 2)
    assert "alpha is 1.0" in result.stderr
