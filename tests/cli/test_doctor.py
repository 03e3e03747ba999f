"""`acd doctor` says what is there, what would be used and why, and what is missing with the command to get it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from acd_core.cli import doctor

ROOT = Path(__file__).parents[2]


def test_versions_device_and_dtype_with_reasons(acd):
    result = acd("doctor", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert re.search(r"^torch +\d", result.stdout, re.M)
    assert re.search(r"^device +cpu \(asked for\)", result.stdout, re.M)
    assert re.search(r"^dtype +(float32|bfloat16) \(.+\)", result.stdout, re.M)


def test_a_missing_extra_comes_with_its_command(acd, monkeypatch: pytest.MonkeyPatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "uvicorn" else real(name))
    result = acd("doctor")
    assert result.exit_code == 0
    assert 'pip install "acd-integrations[serve]"' in result.stdout
    assert 'pip install "acd-integrations[langchain]"' not in result.stdout


def test_its_extras_are_those_of_the_packaging():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    offered = {name: packages for name, packages in project.items() if name not in ("all", "dev")}
    assert set(doctor.EXTRAS) == set(offered)
    for name, (packages, _) in doctor.EXTRAS.items():
        named = {re.split(r"[\[>=<~]", requirement)[0] for requirement in offered[name]}
        assert named == set(packages)


def test_a_model_is_checked(acd, tiny: Path):
    result = acd("doctor", "--model", str(tiny), "--device", "cpu", "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert re.search(r"^context +4096 tokens", result.stdout, re.M)
    assert re.search(r"^system slot +the template's own system turn", result.stdout, re.M)
    assert re.search(r"^tools +the template does not render tools", result.stdout, re.M)
    assert re.search(r"^ends a turn +\S+ \(\d+\)", result.stdout, re.M)
    assert re.search(r"^model's own decoding +plain scores", result.stdout, re.M)
    assert re.search(r"^drawing +greedy unless a call asks", result.stdout, re.M)
    assert re.search(r"^decode step +eager \(on cpu a step is bound by its arithmetic", result.stdout, re.M)


def test_a_fitting_pair_is_tried(acd, tiny: Path, tiny_pair: Path):
    result = acd("doctor", "--model", str(tiny), "--pair", str(tiny_pair), "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert re.search(r"^fits +yes", result.stdout, re.M)
    assert re.search(r"^alpha +0\.4 \(recommended\)", result.stdout, re.M)
    assert re.search(r"^trial +\d+ tokens", result.stdout, re.M)


def test_a_model_without_a_chat_template(acd, tmp_path: Path, make_tiny):
    result = acd("doctor", "--model", str(make_tiny(tmp_path / "m", template=None)))
    assert result.exit_code == 1
    assert "has no chat template" in result.stderr
