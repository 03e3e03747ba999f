"""What can be wrong with files and folders is said before a model is loaded; what nobody foresaw, in words of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acd_core.artifacts.pair import PromptPair
from acd_core.tuning.runs import alone_in, work_folder

NOWHERE = "./no-such-model"
"""Loading it fails and names it: an error without the name came before."""


def told_first(result: Any, *words: str) -> None:
    assert result.exit_code in (1, 2), (result.output, result.exception)
    assert "Traceback" not in result.output
    assert "error: " in result.stderr
    assert NOWHERE not in result.stderr, "the model was loaded first"
    for word in words:
        assert word in result.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_text("x")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("x")
    return path


@pytest.mark.parametrize("verb", ["tune", "gate", "expert"])
def test_a_folder_of_something_else(acd: Any, photos: Path, verb: str) -> None:
    told_first(acd(verb, "-m", NOWHERE, "--out", str(photos)), "will not be overwritten", "cat.jpg")
    assert [path.name for path in photos.iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize("verb", ["tune", "gate", "expert", "evaluate"])
def test_a_folder_that_cannot_be_made(acd: Any, file: Path, verb: str) -> None:
    told_first(acd(verb, "-m", NOWHERE, "--out", str(file / "out")))
    assert file.read_text() == "x"


@pytest.mark.parametrize("verb", ["tune", "gate", "expert", "evaluate"])
def test_a_folder_on_a_disk_that_takes_nothing(acd: Any, verb: str) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("needs Linux's /proc, in which nobody may make a file")
    told_first(acd(verb, "-m", NOWHERE, "--out", "/proc/self/out"))


def test_anchors_that_cannot_be_read(acd: Any, tmp_path: Path) -> None:
    out, bad = str(tmp_path / "out"), tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a"}\n')
    for verb in ("tune", "expert"):
        told_first(acd(verb, "-m", NOWHERE, "--out", out, "--anchors", str(bad)), "bad.jsonl")
        told_first(acd(verb, "-m", NOWHERE, "--out", out, "--anchors", str(tmp_path / "none.jsonl")), "none.jsonl")
    told_first(acd("tune", "-m", NOWHERE, "--out", out, "--safe", str(bad), "--unsafe", str(bad)), "bad.jsonl")
    told_first(acd("expert", "-m", NOWHERE, "--out", out, "--unsafe", str(bad)), "bad.jsonl")
    for more in (["--objective", "unheard-of"], ["--steps", "0"], ["--refusals", str(tmp_path / "none.txt")]):
        told_first(acd("tune", "-m", NOWHERE, "--out", out, *more))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"], "nothing was made on the way"


def test_a_picture_that_cannot_be_drawn(acd: Any, tmp_path: Path, file: Path) -> None:
    pytest.importorskip("matplotlib")
    for plot in ("x.evil", "x", str(file / "x.png"), "/proc/self/x.png"):
        told_first(acd("tune", "-m", NOWHERE, "--out", str(tmp_path / "out"), "--plot", plot), plot)


def test_a_second_run_is_refused_while_the_first_goes_on(acd: Any, tmp_path: Path) -> None:
    """In another process: the same thread may ask again."""
    for verb, end in (("tune", "tuning"), ("expert", "training")):
        out = tmp_path / verb
        with alone_in(work_folder(out, end)):
            command = [sys.executable, "-m", "acd_core.cli", verb, "-m", NOWHERE, "--out", str(out)]
            code = f"import sys; sys.argv[1:] = {command[3:]!r}; from acd_core.cli import main; main()"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Another run is at work" in done.stderr
        assert NOWHERE not in done.stderr


@pytest.mark.parametrize("verb", ["chat", "evaluate"])
def test_a_pair_or_an_expert_that_is_not_there(acd: Any, tmp_path: Path, verb: str) -> None:
    where = ("--out", str(tmp_path / "out")) if verb == "evaluate" else ()
    told_first(acd(verb, "-m", NOWHERE, "--pair", "./no-such-pair", *where), "./no-such-pair")
    told_first(acd(verb, "-m", NOWHERE, "--expert", "./no-such-expert", *where), "./no-such-expert")


def test_gate_looks_at_the_pair_first(acd: Any, tmp_path: Path) -> None:
    told_first(acd("gate", "-m", NOWHERE, "--pair", "./none", "--out", str(tmp_path / "out")), "./none")


def test_replies_of_something_else(acd: Any, tmp_path: Path) -> None:
    (tmp_path / "completions.jsonl").write_text('{"mine": 1}\n')
    told_first(acd("evaluate", "-m", NOWHERE, "--out", str(tmp_path)), "completions.jsonl")
    assert (tmp_path / "completions.jsonl").read_text() == '{"mine": 1}\n'


# --- what is printed ---


def test_show_prints_nothing_that_steers_a_terminal(acd: Any, tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202ecod\x7f"
    metrics = {"judge": evil, evil: {"a" + evil: evil}, "curve": [{"step" + evil: 1}]}
    folder = PromptPair("be kind", "be bad", 0.3, evil, evil, metrics, evil, evil).save(tmp_path / "p")
    result = acd("pair", "show", str(folder))
    assert result.exit_code == 0, (result.output, result.exception)
    assert not {letter for letter in result.output if letter in "\x1b\x07\x9b\u202e\x7f"}
    assert "\\x1b" in result.stdout
    assert "\\u202e" in result.stdout
    document = json.loads((folder / "pair.json").read_text())
    (folder / "pair.json").write_text(json.dumps({**document, "kind": evil}))
    result = acd("pair", "show", str(folder))
    assert result.exit_code == 1
    assert not {letter for letter in result.output if letter in "\x1b\x07\x9b\u202e\x7f"}


# --- what nobody foresaw ---


def test_a_fault_of_ours_is_told_without_a_traceback(acd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("left\x1bshoe")

    monkeypatch.setattr("acd_core.artifacts.pair.PromptPair.load", broken)
    result = acd("pair", "show", "reference")
    assert result.exit_code == 70
    assert "KeyError" in result.stderr
    assert "--debug" in result.stderr and "report" in result.stderr
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    assert isinstance(acd("pair", "show", "reference", "--debug").exception, KeyError)


def test_what_the_system_says_is_told_without_a_traceback(acd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/mnt/x")

    monkeypatch.setattr("acd_core.artifacts.pair.PromptPair.load", full)
    result = acd("pair", "show", "reference")
    assert result.exit_code == 1
    assert "No space left on device (/mnt/x)" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize(
    ("line", "codes"),
    [
        ("chat --model reference --max-tokens 2 <&-", (0,)),
        ("pair show reference >&-", (0,)),
        ("pair show reference 2>&-", (0,)),
        ("pair show reference <&- >&- 2>&-", (0,)),
        ("pair show reference >/dev/full", (1,)),
    ],
)
def test_streams_that_are_closed_or_full(line: str, codes: tuple[int, ...]) -> None:
    command = f'"{sys.executable}" -c "from acd_core.cli import main; main()" {line}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in codes, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_reader_that_has_seen_enough() -> None:
    command = f'"{sys.executable}" -c "from acd_core.cli import main; main()" pair show reference | head -1'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "reference"
    assert done.stderr == ""
