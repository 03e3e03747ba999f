"""Killed, failed or raced, a save leaves the old version or the new one; what is not ours is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from acd_core.artifacts.lora import Expert
from acd_core.artifacts.pair import PromptPair, check_target
from acd_core.artifacts.pair_files import pair_digest
from acd_core.errors import ExpertError, PairError, TuningError
from acd_core.files.saving import LOCK, STAGED, BusyError, locked, save_file
from acd_core.tuning.anchors import Instruction, generate_anchors
from acd_core.tuning.runs import LOCK as RUN_LOCK
from acd_core.tuning.runs import alone_in
from tests.core.killed_saves import CASES, FAILING, expert, pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.core.killed_saves", str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs fork and Linux's /proc")
@pytest.mark.timeout(900)  # eight hundred processes: half a minute of work, and more on a machine that others use
class TestKilled:
    @pytest.mark.parametrize("name", list(CASES))
    def test_at_every_step_it_leaves_the_old_or_the_new(self, killed: dict[str, Any], name: str) -> None:
        found = killed[name]
        assert found["different"]
        assert found["wrong"] == []
        least = 8 if name in ("a checkpoint", "anchors") else 25
        ends = ("killed", "full disk", "interrupted") if name in FAILING else ("killed",)
        assert all(found["steps"][end] >= least for end in ends), found["steps"]

    @pytest.mark.parametrize("name", list(CASES))
    def test_a_reader_at_every_step_sees_one_change(self, killed: dict[str, Any], name: str) -> None:
        states = killed[name]["states"]
        assert killed[name]["watched"] == 0
        assert set(states) == {"old", "new"}
        assert states == sorted(states, reverse=True), "first the old one, then the new one, and no way back"

    def test_two_writers_and_a_reader(self, killed: dict[str, Any]) -> None:
        found = killed["race"]
        assert (found["mixed"], found["failed"], found["writers failed"]) == (0, 0, 0)
        assert found["whole"] > 20
        assert found["versions"] > 1


def test_what_a_killed_save_made_certain_is_read_from_anywhere(tmp_path: Path) -> None:
    """A copy of a folder amid a save, where nobody may write, is a whole pair too."""
    import shutil

    old, new = pair(1), pair(2)
    folder = old.save(tmp_path / "p")
    shutil.copytree(new.save(tmp_path / "new"), folder / STAGED)
    assert PromptPair.load(folder).id == new.id
    (folder / STAGED / "safe" / "adapter_model.safetensors").replace(folder / "safe" / "adapter_model.safetensors")
    assert PromptPair.load(folder).id == new.id
    (folder / STAGED / "pair.json").unlink()
    with pytest.raises(PairError, match=r"not the one that its pair\.json was saved with"):
        PromptPair.load(folder)


def test_a_digest_stands_for_what_was_loaded(tmp_path: Path) -> None:
    folder = pair(1, gated=True).save(tmp_path / "p")
    loaded = PromptPair.load(folder)
    assert loaded.digest == pair_digest(folder)
    pair(2).save(folder)
    assert loaded.digest != pair_digest(folder) == PromptPair.load(folder).digest
    assert pair(2).digest is None
    document = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**document, "alpha": 0.7}))
    assert pair_digest(folder) == PromptPair.load(folder).digest
    assert PromptPair.load(folder).alpha == 0.7


# --- what is not ours ---


def test_other_files_in_a_pair_stay(tmp_path: Path) -> None:
    folder = pair(1, gated=True).save(tmp_path / "p", history={"seed": 1})
    (folder / "notes.txt").write_text("mine")
    (folder / "safe" / "notes.txt").write_text("mine too")
    pair(2, soft=False).save(folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "README.md", "notes.txt", "pair.json", "safe/notes.txt",
    ]  # fmt: skip


def _somebodys_pair_json(folder: Path) -> None:
    folder.mkdir()
    (folder / "pair.json").write_text('{"left": "shoe", "right": "shoe"}')


def _unreadable_pair_json(folder: Path) -> None:
    folder.mkdir()
    (folder / "pair.json").write_bytes(b"\xff\xfe\x00")


def _an_adapter_where_a_prompt_goes(folder: Path) -> None:
    pair(1, soft=False).save(folder)
    (folder / "safe").mkdir()
    (folder / "safe" / "adapter_model.safetensors").write_bytes(b"weeks of work")


def _a_file_where_a_folder_goes(folder: Path) -> None:
    pair(1, soft=False).save(folder)
    (folder / "safe").write_text("mine")


def _a_link_where_a_folder_goes(folder: Path) -> None:
    pair(1, soft=False).save(folder)
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (folder / "safe").symlink_to(elsewhere)


def _a_file(folder: Path) -> None:
    folder.write_text("mine")


def _photos(folder: Path) -> None:
    folder.mkdir()
    (folder / "cat.jpg").write_text("x")


def _paths_out_of_the_folder(folder: Path) -> None:
    """A pair.json cannot have anything removed that is not a pair's."""
    made = pair(1, soft=False).save(folder)
    (folder / "safe").mkdir()
    (folder / "safe" / "adapter_config.json").write_text("mine")
    document = json.loads((made / "pair.json").read_text())
    document["files"] = {"../mine.txt": "00", "notes.txt": "00", **document["files"]}
    (made / "pair.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_somebodys_pair_json, "pair.json"),
        (_unreadable_pair_json, "pair.json"),
        (_an_adapter_where_a_prompt_goes, "safe/adapter_model.safetensors"),
        (_a_file_where_a_folder_goes, "safe"),
        (_a_link_where_a_folder_goes, "safe"),
        (_a_file, "no folder"),
        (_photos, "cat.jpg"),
        (_paths_out_of_the_folder, "safe/adapter_config.json"),
    ],
)
def test_a_pair_is_not_saved_over_it(tmp_path: Path, make: Any, named: str) -> None:
    folder = tmp_path / "p"
    make(folder)
    (tmp_path / "mine.txt").write_text("mine")
    before = {str(path): path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
    for attempt in (pair(2).save, check_target):
        with pytest.raises(PairError, match="will not be overwritten") as caught:
            attempt(folder)
        assert named in str(caught.value)
    assert {str(path): path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")} == before


def test_a_name_in_pair_json_is_no_path(tmp_path: Path) -> None:
    folder = pair(1, soft=False).save(tmp_path / "p")
    (tmp_path / "mine.txt").write_text("mine")
    document = json.loads((folder / "pair.json").read_text())
    document["files"]["../mine.txt"] = "00"
    (folder / "pair.json").write_text(json.dumps(document))
    pair(2, soft=False).save(folder)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_somebody_elses_adapter_is_no_expert_to_replace(tmp_path: Path) -> None:
    folder = expert(1).save(tmp_path / "e")
    expert(2).save(folder)
    (folder / "expert.json").unlink()
    assert Expert.load(folder).id == expert(2).id, "it is read as anybody's adapter"
    with pytest.raises(ExpertError, match=r"adapter_config\.json(?s:.*)not an adapter of ours"):
        expert(3).save(folder)
    assert Expert.load(folder).id == expert(2).id


def test_a_config_that_a_person_corrected_counts(tmp_path: Path) -> None:
    folder = expert(1).save(tmp_path / "e")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 7.0}))
    assert Expert.load(folder).lora_alpha == 7.0
    other = expert(2).save(tmp_path / "other")
    (folder / "adapter_model.safetensors").write_bytes((other / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ExpertError, match=r"not the one that its expert\.json was saved with"):
        Expert.load(folder)


# --- locks ---


def test_one_run_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "p.tuning"
    with alone_in(work):
        with alone_in(work):  # the same run, further in
            pass
        said: list[BaseException] = []

        def second() -> None:
            try:
                with alone_in(work):
                    pass
            except BaseException as error:
                said.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert [type(error) for error in said] == [TuningError]
        assert "Another run is at work" in str(said[0])
    with alone_in(work):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_locks_nobody_out(tmp_path: Path) -> None:
    lock = tmp_path / "p.tuning" / RUN_LOCK
    code = f"""
import os
from pathlib import Path
from acd_core.files.saving import locked
with locked(Path({str(lock)!r})):
    print("held", flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("held", -9)
    assert lock.exists()
    with locked(lock):
        pass
    assert not lock.exists()


def test_a_second_process_is_refused_while_the_first_makes_anchors(tmp_path: Path) -> None:
    out = tmp_path / "work" / "anchors.jsonl"
    code = f"""
from pathlib import Path
from acd_core.tuning.runs import alone_with
with alone_with(Path({str(out)!r})):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline().strip() == "held"
        row = [Instruction("a", "hello")]
        with pytest.raises(TuningError, match="Another run is at work"):
            generate_anchors(None, row, [], out=out, progress=False)  # type: ignore[arg-type]
        first.communicate("\n")
    assert not out.exists()


def test_a_writer_that_cannot_have_its_turn_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acd_core.files.saving.PATIENCE", 0.05)
    folder = pair(1).save(tmp_path / "p")
    held, go = threading.Event(), threading.Event()

    def first() -> None:
        with locked(folder / LOCK):
            held.set()
            go.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    held.wait(10)
    try:
        with pytest.raises(PairError, match="another process is at work there"):
            pair(2).save(folder)
    finally:
        go.set()
        thread.join()
    assert PromptPair.load(folder).id == pair(1).id
    pair(2).save(folder)
    assert PromptPair.load(folder).id == pair(2).id
    with pytest.raises(BusyError), locked(tmp_path / "x"):
        raise BusyError("comes through")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_forbidden_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PairError, match="Permission denied"):
            pair(1).save(tmp_path / "p")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_is_replaced_in_one_step_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.bin"
    save_file(path, b"1")
    (path.parent / ".x.bin.new").write_bytes(b"half of a kil")
    save_file(path, b"2")
    assert path.read_bytes() == b"2"
    assert [each.name for each in path.parent.iterdir()] == ["x.bin"]


def test_vectors_of_two_widths_are_no_pair() -> None:
    with pytest.raises(PairError, match="different widths, 3 and 4"):
        PromptPair(torch.randn(2, 3), torch.randn(2, 4))
