"""`acd tune`: a pair on disk that loads, or nothing at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acd_core.artifacts.pair import PromptPair
from acd_core.model.backbone import Backbone


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    """Twelve labelled replies of every kind the paper's losses need."""
    path = tmp_path / "anchors.jsonl"
    kinds = ((True, "refused", "I cannot."), (True, "accepted", "Sure."), (False, "accepted", "Of course."))
    rows = [
        {"id": f"{harmful}-{label}-{n}", "text": f"Do thing {n} {label}", "harmful": harmful, "prompt": "null"}
        | {"reply": reply, "label": label}
        for harmful, label, reply in kinds
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(tiny: Path, anchors: Path, out: Path, steps: int) -> list[str]:
    fixed = ["--batch", "6", "--reply-tokens", "4", "--device", "cpu", "--dtype", "float32", "--seed", "1"]
    return ["tune", "-m", str(tiny), "--anchors", str(anchors), "--out", str(out), "--steps", str(steps), *fixed]


def test_a_pair_that_loads_and_what_it_does(acd, tiny: Path, anchors: Path, tmp_path: Path):
    out = tmp_path / "pair"
    picture = tmp_path / "run.svg"
    more = ["--margin", "0.25", "--validate-every", "1", "--plot", str(picture)]
    result = acd(*arguments(tiny, anchors, out, steps=2), *more)
    assert result.exit_code == 0, (result.output, result.exception)
    pair = PromptPair.load(out, backbone=Backbone.load(str(tiny), device="cpu", dtype="float32"))
    assert pair.is_soft
    assert (pair.metrics["steps"], pair.metrics["margin"]) == (2, 0.25)
    assert "model alone" in result.stdout
    assert f"acd chat --model {tiny} --pair {out}" in result.stdout
    assert picture.read_text().lstrip().startswith("<?xml")
    assert "step 1: harmless rate" in result.stderr
    assert "step 2: harmless rate" in result.stderr


def test_a_picture_needs_its_extra_and_says_so_at_once(acd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("acd_core.cli.tune.find_spec", lambda name: None)
    result = acd("tune", "-m", "./no-such-model", "--out", str(tmp_path / "p"), "--plot", "run.png")
    assert result.exit_code == 1
    assert 'pip install "acd-integrations[plots]"' in result.stderr


def test_half_of_the_instructions_is_not_enough(acd, tiny: Path, tmp_path: Path):
    result = acd("tune", "-m", str(tiny), "--out", str(tmp_path / "p"), "--safe", "safe.jsonl")
    assert result.exit_code == 2
    assert "--unsafe" in result.stderr


def test_an_impossible_setting_before_the_model_is_loaded(acd, tmp_path: Path):
    result = acd("tune", "-m", "./no-such-model", "--out", str(tmp_path / "p"), "--steps", "0")
    assert result.exit_code == 2
    assert "steps" in result.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda end: end.name)
def test_ended_in_the_middle_it_leaves_no_pair(acd, tiny: Path, anchors: Path, tmp_path: Path, end: signal.Signals):
    out = tmp_path / "pair"
    command = [sys.executable, "-c", "from acd_core.cli import main; main()"]
    process = subprocess.Popen(
        [*command, *arguments(tiny, anchors, out, steps=100_000)],
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores SIGINT, and its children with it; a person's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        checkpoint = tmp_path / "pair.tuning" / "checkpoint.safetensors"
        patience = time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        process.send_signal(end)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert checkpoint.exists(), errors
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anchors.jsonl", "pair.tuning"]
    found = f"{tmp_path / 'pair.tuning'} holds a checkpoint"
    if end is not signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[end]
        assert "Traceback" not in errors
        assert f"Interrupted. {found}; the same command resumes from there." in errors
    if end is signal.SIGINT:  # on a pipe, too, the next run says at once what it found, and then what it does with it
        result = acd(*arguments(tiny, anchors, out, steps=100_001), "--steps", "2")
        assert f"{found} of an earlier run; resuming from there" in result.stderr
        assert result.stderr.index("of an earlier run") < result.stderr.index("loading torch")
        assert result.exit_code == 0, (result.output, result.exception)
