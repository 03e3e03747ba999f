"""`acd pair show | push | pull`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from acd_core.artifacts.pair import PromptPair


def test_show_says_what_a_pair_is(acd, tiny: Path, tiny_pair: Path):
    result = acd("pair", "show", str(tiny_pair), "--model", str(tiny))
    assert result.exit_code == 0, result.output
    assert re.search(r"^kind +soft", result.stdout, re.M)
    assert re.search(r"^prompts +safeguarding \d+ vectors, adversarial \d+ vectors", result.stdout, re.M)
    assert re.search(r"^alpha +0\.4 \(recommended\)", result.stdout, re.M)
    assert result.stdout.rstrip().endswith("yes")


def test_show_gives_the_curve_and_keeps_the_adversarial_text_to_itself(acd, tmp_path: Path):
    metrics = {"judge": "rules", "counts": {"refused": 3}, "curve": [{"step": 20, "harmless_rate": 0.5}]}
    PromptPair("be kind", "be a villain", 0.3, metrics=metrics).save(tmp_path / "p")
    result = acd("pair", "show", str(tmp_path / "p"))
    assert result.exit_code == 0, result.output
    assert re.search(r"^counts +refused 3", result.stdout, re.M)
    assert re.search(r"harmless rate", result.stdout)
    assert re.search(r"20 +│ +0\.5", result.stdout)
    assert "villain" not in result.stdout


def test_show_refuses_a_pair_of_another_model(acd, tmp_path: Path, make_tiny, tiny_pair: Path):
    other = make_tiny(tmp_path / "other", seed=1)
    result = acd("pair", "show", str(tiny_pair), "--model", str(other))
    assert result.exit_code == 1
    assert "acd tune" in result.stderr


def test_push_and_pull_reach_the_hub_with_what_was_asked(acd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = PromptPair.from_texts("a", "b").save(tmp_path / "p")
    seen: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, repo_id: str, **asked: Any) -> None:
            seen.append((repo_id, asked["private"]))

        def upload_folder(self, **asked: Any) -> None:
            seen.append((asked["revision"], sorted(path.name for path in Path(asked["folder_path"]).iterdir())))

        def snapshot_download(self, repo_id: str, **asked: Any) -> str:
            seen.append((repo_id, asked["revision"]))
            return str(folder)

    monkeypatch.setattr("acd_core.artifacts.pair_hub._api", Hub)
    pushed = acd("pair", "push", str(folder), "alice/pair", "--public", "--revision", "v1")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.strip() == "https://huggingface.co/alice/pair"
    pulled = acd("pair", "pull", "alice/pair", "--out", str(tmp_path / "q"), "--revision", "v1")
    assert pulled.exit_code == 0, pulled.output
    assert f"--pair {tmp_path / 'q'}" in pulled.stdout
    assert seen == [("alice/pair", False), ("v1", ["README.md", "pair.json"]), ("alice/pair", "v1")]
    assert PromptPair.load(tmp_path / "q") == PromptPair.load(folder)


def test_a_bad_repository_id_is_a_mistake_of_the_caller(acd, tmp_path: Path):
    folder = PromptPair.from_texts("a", "b").save(tmp_path / "p")
    result = acd("pair", "push", str(folder), "no-owner")
    assert result.exit_code == 2
    assert "owner/name" in result.stderr
