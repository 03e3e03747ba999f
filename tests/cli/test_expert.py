"""`acd expert`: an expert on disk that `acd chat` takes, or nothing at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acd_core.artifacts.lora import Expert


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.jsonl"
    rows = [
        {"id": f"u{n}", "text": f"Do thing {n}", "harmful": True, "prompt": "null", "reply": "No.", "label": "refused"}
        for n in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(tiny: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--reply-tokens", "4", "--rank", "2", "--batch", "3", "--device", "cpu", "--dtype", "float32"]
    return ["expert", "-m", str(tiny), "--out", str(out), *fixed, *more]


def test_an_expert_that_chat_takes(acd: Any, tiny: Path, anchors: Path, tmp_path: Path) -> None:
    out = tmp_path / "expert"
    result = acd(*arguments(tiny, out, "--anchors", str(anchors)))
    assert result.exit_code == 0, (result.output, result.exception)
    assert Expert.load(out).metrics["steps"] == 6
    assert f"acd chat --model {tiny} --expert {out}" in result.stdout
    assert "before" in result.stdout
    assert "Do thing" not in result.output
    said = acd("chat", "-m", str(tiny), "--expert", str(out), "--max-tokens", "3", lines="hello\n")
    assert said.exit_code == 0, (said.output, said.exception)


def test_what_is_wrong_is_told_before_the_model_is_loaded(acd: Any, anchors: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    nowhere = Path("no-such-model")
    for more, said in (
        (["--epochs", "0"], "epochs"),
        (["--anchors", str(anchors), "--unsafe", "unsafe.jsonl"], "--unsafe"),
        (["--out", str(tmp_path / "mine")], "not an adapter"),
    ):
        result = acd(*arguments(nowhere, tmp_path / "e"), *more)
        assert result.exit_code in (1, 2)
        assert said in result.stderr
        assert "no-such-model" not in result.stderr


def test_safedecoding_without_an_expert_names_the_command(acd: Any, tiny: Path) -> None:
    result = acd("chat", "-m", str(tiny), "--method", "safedecoding", lines="hello\n")
    assert result.exit_code == 2
    assert f"acd expert --model {tiny}" in result.stderr


def test_interrupted_it_leaves_no_expert(
    acd: Any, tiny: Path, anchors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("acd_core.tuning.gradient_runner.step_gradients", interrupted)
    result = acd(*arguments(tiny, tmp_path / "expert", "--anchors", str(anchors)))
    assert result.exit_code == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anchors.jsonl"]
