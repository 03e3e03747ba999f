"""Push and pull of a pair, against a hub that is a folder: the calls are checked against huggingface_hub's own."""

from __future__ import annotations

import inspect
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

from acd_core.artifacts.pair import PromptPair
from acd_core.artifacts.pair_hub import pull_pair, push_pair
from acd_core.errors import PairError, UsageError
from tests.core.gated import gate as random_gate


class FolderHub:
    """A hub whose repositories are folders. Every call must fit the signature of the real HfApi."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[str, Any] = {}

    def _real(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bound = inspect.signature(getattr(HfApi, name)).bind(self, *args, **kwargs)
        return dict(bound.arguments)

    def create_repo(self, *args: Any, **kwargs: Any) -> None:
        given = self._real("create_repo", *args, **kwargs)
        self.made[given["repo_id"]] = given["private"]

    def upload_folder(self, *args: Any, **kwargs: Any) -> Any:
        given = self._real("upload_folder", *args, **kwargs)
        if given["repo_id"] not in self.made:
            raise OSError("401: no such repository, or no right to write")
        self._copy(Path(given["folder_path"]), self.root / given["repo_id"], given["allow_patterns"])
        return SimpleNamespace(repo_url=f"https://hub.test/{given['repo_id']}")

    def snapshot_download(self, *args: Any, **kwargs: Any) -> str:
        given = self._real("snapshot_download", *args, **kwargs)
        source = self.root / given["repo_id"]
        if not source.is_dir():
            raise OSError("404: repository not found")
        target = self.root / "cache" / given["repo_id"]
        self._copy(source, target, given["allow_patterns"])
        return str(target)

    @staticmethod
    def _copy(source: Path, target: Path, patterns: list[str]) -> None:
        for path in source.rglob("*"):
            name = path.relative_to(source).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / name)


@pytest.fixture
def hub(tmp_path: Path) -> FolderHub:
    return FolderHub(tmp_path / "hub")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pair made for a model in a private place, with a run's history and a file that is nobody's business."""
    pair = PromptPair(torch.randn(5, 8), torch.randn(7, 8), 0.35, "/home/alice/models/tiny", "f00d", {"steps": 3})
    folder = pair.save(tmp_path / "mine")
    (folder / "history.json").write_text(json.dumps({"model": "/home/alice/models/tiny", "steps": [1]}))
    (folder / "notes.txt").write_text("private")
    return folder


def test_what_was_pushed_can_be_pulled(folder: Path, hub: FolderHub, tmp_path: Path) -> None:
    pair = PromptPair.load(folder)
    assert push_pair(folder, "alice/pair", license="apache-2.0", api=hub) == "https://hub.test/alice/pair"
    assert hub.made == {"alice/pair": True}, "a new repository is private unless asked otherwise"
    pulled = pull_pair("alice/pair", tmp_path / "theirs", api=hub)
    assert pulled.id == PromptPair.load(tmp_path / "theirs").id == pair.id
    assert (pulled.alpha, pulled.fingerprint, pulled.license) == (0.35, "f00d", "apache-2.0")
    assert json.loads((tmp_path / "theirs" / "history.json").read_text())["steps"] == [1]


def test_nothing_but_the_pair_leaves_the_machine(folder: Path, hub: FolderHub) -> None:
    push_pair(folder, "alice/pair", private=False, api=hub)
    assert hub.made == {"alice/pair": False}
    published = [path for path in (hub.root / "alice" / "pair").rglob("*") if path.is_file()]
    assert "notes.txt" not in {path.name for path in published}
    for path in published:
        assert b"/home/alice" not in path.read_bytes(), path.name
    assert 'pair="alice/pair"' in (hub.root / "alice" / "pair" / "README.md").read_text()
    assert PromptPair.load(folder).base_model == "/home/alice/models/tiny", "the caller's own folder was changed"


def test_a_damaged_pair_goes_neither_way(folder: Path, hub: FolderHub, tmp_path: Path) -> None:
    push_pair(folder, "alice/pair", api=hub)
    mine = PromptPair.from_texts("a", "b").save(tmp_path / "theirs")
    (hub.root / "alice" / "pair" / "safe" / "adapter_model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(PairError, match="damaged"):
        pull_pair("alice/pair", mine, api=hub)
    assert PromptPair.load(mine).safeguarding == "a"
    (folder / "adversarial" / "adapter_model.safetensors").unlink()
    with pytest.raises(PairError, match="lacks"):
        push_pair(folder, "alice/other", api=hub)
    assert "alice/other" not in hub.made


def test_errors_name_the_next_command(folder: Path, hub: FolderHub, tmp_path: Path) -> None:
    for bad in ("pair", "a/b/c", "../x", "/tmp/x", ""):
        with pytest.raises(UsageError, match="owner/name"):
            push_pair(folder, bad, api=hub)
        with pytest.raises(UsageError, match="owner/name"):
            pull_pair(bad, tmp_path / "x", api=hub)
    with pytest.raises(PairError, match=r"404(?s:.*)hf auth login"):
        pull_pair("nobody/nothing", tmp_path / "x", api=hub)
    hub.create_repo = lambda *_, **__: None  # type: ignore[method-assign]
    with pytest.raises(PairError, match=r"401(?s:.*)hf auth login"):
        push_pair(folder, "alice/forbidden", api=hub)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("x")
    hub.made["alice/pair"] = True
    push_pair(folder, "alice/pair", api=hub)
    with pytest.raises(PairError, match="will not be overwritten"):
        pull_pair("alice/pair", photos, api=hub)


def test_a_gate_goes_with_its_pair(hub: FolderHub, tmp_path: Path) -> None:
    weights = random_gate(0.5, layers=(1,), width=8)
    pair = PromptPair(torch.randn(5, 8), torch.randn(7, 8), 0.35, "alice/tiny", "f00d", gate=weights)
    push_pair(pair.save(tmp_path / "gated"), "alice/gated", api=hub)
    pulled = pull_pair("alice/gated", tmp_path / "theirs", api=hub)
    assert pulled.gate is not None
    assert PromptPair.load(tmp_path / "theirs").id == pair.id
