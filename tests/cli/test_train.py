"""`acd train`: an adapter on disk that `acd chat` takes, the list of trainers, and errors before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acd_core.artifacts.lora import Expert
from acd_core.errors import UsageError
from acd_core.tuning.trainers import TRAINERS, trainer_named


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    path = tmp_path / "anchors.jsonl"
    kinds = ((True, "null", "Sure, it is.", "accepted"), (True, "safe", "No.", "refused"))
    rows = [
        {"id": f"u{n}", "text": f"Do thing {n}", "harmful": harmful, "prompt": prompt, "reply": said, "label": label}
        for n in range(9)
        for harmful, prompt, said, label in kinds
    ]
    rows += [
        {**row, "id": row["id"].replace("u", "s"), "harmful": False, "text": f"Be {n}"} for n, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["harmful"] or row["label"] == "accepted"))
    return path


def arguments(method: str, model: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--set", "reply_tokens=4", "--set", "rank=2", "--set", "batch=3", "--device", "cpu", "--dtype", "float32"]
    return ["train", method, "-m", str(model), "--out", str(out), *fixed, *more]


@pytest.mark.parametrize("method", ["derta", "safedecoding"])
def test_an_adapter_that_chat_takes(acd: Any, tiny: Path, anchors: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "adapter"
    result = acd(*arguments(method, tiny, out, "--anchors", str(anchors), "--seed", "3"))
    assert result.exit_code == 0, (result.output, result.exception)
    assert Expert.load(out).metrics["seed"] == 3
    assert f"acd chat --model {tiny} --expert {out} --method {method}" in result.stdout
    assert "loss after" in result.stdout
    assert "Do thing" not in result.output
    said = acd("chat", "-m", str(tiny), "--expert", str(out), "--method", method, "--max-tokens", "3", lines="hi\n")
    assert said.exit_code == 0, (said.output, said.exception)


def test_without_a_method_all_are_listed(acd: Any) -> None:
    result = acd("train")
    assert result.exit_code == 0
    for name, trainer in TRAINERS.items():
        assert name in result.stdout
        assert trainer.makes[:40] in result.stdout
    assert "kinds=both" in result.stdout


def test_every_trainer_has_settings_with_values_and_a_seed() -> None:
    for name, trainer in TRAINERS.items():
        assert trainer.name == name
        assert trainer.values([]) == {}
        assert "seed" in trainer.settings.__dataclass_fields__
        assert "{model}" in trainer.use and "{out}" in trainer.use


def test_settings_are_read_by_the_kind_of_their_default() -> None:
    found = trainer_named("derta").values(["lr=0.01", "epochs=3", "kinds=prefix"])
    assert found == {"lr": 0.01, "epochs": 3, "kinds": "prefix"}
    for wrong in ("epochs=2.5", "lr", "speed=1", "seed=1", "kept=0", "kinds=none"):
        with pytest.raises(UsageError, match=wrong.partition("=")[0]):
            trainer_named("derta").values([wrong])


@pytest.mark.parametrize(
    ("method", "more", "said"),
    [
        ("dertaa", [], "dertaa"),
        ("derta", ["--set", "epochs=0"], "epochs"),
        ("derta", ["--set", "speed=1"], "speed"),
        ("derta", ["--anchors", "a.jsonl", "--unsafe", "b.jsonl"], "--unsafe"),
        ("derta", ["--anchors", "a.jsonl"], "a.jsonl"),
        ("derta", ["--out", "mine"], "not an adapter"),
        ("derta", ["--out", ""], "--out"),
    ],
)
def test_what_is_wrong_is_told_before_the_model_is_loaded(
    acd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, more: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("x")
    result = acd(*arguments(method, Path("no-such-model"), Path("e")), *more)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "not found" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
