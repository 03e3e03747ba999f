"""Killed at any moment, a run started again ends in the same tensors, bit for bit, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.killed_runs import BEHIND_A_GATE, EXPERT_POINTS, POINTS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.timeout(900),  # thirty-three short runs: half a minute, and more on a machine that others use
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.tuning.killed_runs", str(tmp_path_factory.mktemp("killed"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("point", [*POINTS, *(f"gated {point}" for point in BEHIND_A_GATE)])
def test_the_same_prompts_in_the_end(results: dict[str, Any], point: str) -> None:
    found, whole = dict(results[point]), results["gated whole" if point.startswith("gated") else "whole"]
    assert found.pop("first") == -signal.SIGKILL
    assert found.pop("again") == 0
    assert found.pop("there after the kill") is (point == "after the pair")
    assert found == whole


@pytest.mark.parametrize("point", EXPERT_POINTS)
def test_the_same_expert_in_the_end(results: dict[str, Any], point: str) -> None:
    found = dict(results[point])
    assert found.pop("first") == -signal.SIGKILL
    assert found.pop("again") == 0
    assert found.pop("there after the kill") is (point == "after the expert")
    assert found == results["whole expert"]
    assert found["left"] == ["refusals.jsonl"]
    assert found["metrics"]["steps"] == 8


def test_the_whole_run_is_what_it_should_be(results: dict[str, Any]) -> None:
    whole = results["whole"]
    assert [point["step"] for point in whole["validation"]][:2] == [4, 8]
    # Two points along the steps and six other strengths at least; no setting twice.
    settings = [(p["step"], p["alpha"], p["plausibility"], p["contrast_tokens"]) for p in whole["validation"]]
    assert len(settings) == len(set(settings)) >= 2 + 6
    assert whole["left"] == ["anchors.jsonl"]
    assert whole["safe"] != whole["adversarial"]
