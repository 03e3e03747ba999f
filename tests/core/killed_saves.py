"""Saves that are killed, or fail, at every step they take in the file system; what is left, as JSON on stdout.

A script, not a test: `test_saving.py` starts it. Every save is a process of its own (forked). An audit hook sees every
file opened, renamed, made or removed under the folder, and `os.fsync` is counted too: a kill there first cuts the file
in half, as a machine may. Usage: python -m tests.core.killed_saves FOLDER
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from acd_core.artifacts.lora import Expert
from acd_core.artifacts.pair import PromptPair
from acd_core.errors import ACDError
from acd_core.files.saving import LOCK
from acd_core.tuning.anchors import AnchorPair, load_pairs, save_pairs
from acd_core.tuning.runs import Checkpoint
from tests.core.gated import gate as random_gate

EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir")
WIDTH = 8
KILLED, FAILED = 137, 3


def pair(seed: int, *, soft: bool = True, gated: bool = False) -> PromptPair:
    generator = torch.Generator().manual_seed(seed)
    sides: list[Any] = [torch.randn(3, WIDTH, generator=generator) for _ in range(2)]
    if not soft:
        sides = [f"be safe {seed}", f"be careless {seed}"]
    gate = random_gate(float(seed), layers=(1,), width=WIDTH) if gated else None
    return PromptPair(sides[0], sides[1], 0.1 * seed, "m", None, {"seed": seed}, gate=gate)


def save_pair(made: PromptPair, place: Path) -> None:
    made.save(place, history={"seed": made.metrics["seed"]} if made.gate is not None else None)


def read_pair(place: Path) -> Any:
    found = PromptPair.load(place)
    return [found.id, found.alpha, found.metrics.get("seed")]


def without_digests(place: Path) -> None:
    """Make the saved pair one of before there were digests."""
    path = place / "pair.json"
    document = json.loads(path.read_text())
    del document["files"]
    path.write_text(json.dumps(document))


def expert(seed: int) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": ((2, 4), (6, 2)), "b": ((2, 6), (4, 2))}
    weights = {
        name: (torch.randn(down, generator=generator), torch.randn(up, generator=generator))
        for name, (down, up) in shapes.items()
    }
    return Expert(weights, 2, float(seed), base_model="m", metrics={"seed": seed})


def read_expert(place: Path) -> Any:
    found = Expert.load(place)
    return [found.id, found.metrics.get("seed")]


def write_checkpoint(seed: int, place: Path) -> None:
    Checkpoint({"a": torch.full((50,), float(seed))}, {"step": seed}).write(place / "checkpoint.safetensors")


def read_checkpoint(place: Path) -> Any:
    found = Checkpoint.read(place / "checkpoint.safetensors")
    return None if found is None else [found.document["step"], found.tensors["a"].tolist()]


def write_anchors(seed: int, place: Path) -> None:
    rows = [AnchorPair(f"i{n}", f"text {n}", True, "null", f"reply {seed}", "refused") for n in range(20)]
    save_pairs(rows, place / "anchors.jsonl")


def read_anchors(place: Path) -> Any:
    return sorted({row.reply for row in load_pairs(place / "anchors.jsonl")})


@dataclass(frozen=True)
class Case:
    """Three versions of one thing. old: None where nothing is there before. spoil: what is done to the old one."""

    old: Callable[[Path], None] | None
    new: Callable[[Path], None]
    third: Callable[[Path], None]
    read: Callable[[Path], Any]
    spoil: Callable[[Path], None] = lambda _: None


def _pairs(old: PromptPair | None, new: PromptPair, third: PromptPair, **more: Any) -> Case:
    first = None if old is None else functools.partial(save_pair, old)
    return Case(first, functools.partial(save_pair, new), functools.partial(save_pair, third), read_pair, **more)


def _files(write: Callable[[int, Path], None], read: Callable[[Path], Any]) -> Case:
    return Case(*(functools.partial(write, seed) for seed in (1, 2, 3)), read)


CASES: dict[str, Case] = {
    "a gated pair by one without": _pairs(pair(1, gated=True), pair(2), pair(3, gated=True)),
    "a pair by a gated one": _pairs(pair(1), pair(2, gated=True), pair(3)),
    "a pair without digests": _pairs(pair(1), pair(2), pair(3), spoil=without_digests),
    "texts by vectors": _pairs(pair(1, soft=False), pair(2), pair(3, soft=False)),
    "vectors by texts": _pairs(pair(1), pair(2, soft=False), pair(3)),
    "the first pair": _pairs(None, pair(2), pair(3)),
    "an expert": Case(*(expert(seed).save for seed in (1, 2, 3)), read_expert),
    "the first expert": Case(None, expert(2).save, expert(3).save, read_expert),
    "a checkpoint": _files(write_checkpoint, read_checkpoint),
    "anchors": _files(write_anchors, read_anchors),
}


FAILING = ("a gated pair by one without", "the first pair", "an expert", "a checkpoint", "anchors")


def seen(case: Case, place: Path) -> Any:
    try:
        return case.read(place)
    except ACDError:
        return None


def listing(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*")) if place.exists() else []


def in_child(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        except (ACDError, KeyboardInterrupt):
            status = FAILED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stepping(root: Path, at_step: Callable[[int], None]) -> None:
    """From now on, in this process, every step under `root` is counted and told; `at_step` may end or fail it."""
    count, inside = [0], [False]

    def step() -> None:
        if inside[0]:
            return
        inside[0] = True
        count[0] += 1
        try:
            at_step(count[0])
        finally:
            inside[0] = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(str(root)):
            step()

    def fsync(handle: int) -> None:
        if os.path.realpath(f"/proc/self/fd/{handle}").startswith(str(root)):
            TORN[:] = [handle]
            step()
            TORN.clear()

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hook)


TORN: list[int] = []
"""The file that is being written at this step, if it is one."""


def tear() -> None:
    for handle in TORN:
        size = os.fstat(handle).st_size
        with contextlib.suppress(OSError):  # a folder
            os.ftruncate(handle, size // 2)


def die(at: int, now: int) -> None:
    if now == at:
        tear()
        os._exit(KILLED)


def fail(at: int, error: Callable[[], BaseException], now: int) -> None:
    if now == at:
        raise error()


ENDS: dict[str, Callable[[int], Callable[[int], None]]] = {
    "killed": lambda at: functools.partial(die, at),
    "full disk": lambda at: functools.partial(fail, at, lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "interrupted": lambda at: functools.partial(fail, at, KeyboardInterrupt),
}


def prepared(case: Case, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    place = root / "p"
    if case.old is not None:
        case.old(place)
        case.spoil(place)
        (place / "notes.txt").write_text("mine")
    return place


def run_case(case: Case, root: Path, failing: bool) -> dict[str, Any]:
    """failing: whether every step is failed as well, by a full disk and by Ctrl-C."""
    place = prepared(case, root)
    old, before = seen(case, place), listing(place)
    case.new(place)
    new = seen(case, place)
    case.third(place)
    third, clean = seen(case, place), listing(place)
    names = {json.dumps(old): "old", json.dumps(new): "new", json.dumps(third): "third"}
    found: dict[str, Any] = {"different": len(names) == 3, "steps": {}, "wrong": []}

    def reading(_: int) -> None:
        states.append(names.get(json.dumps(seen(case, place)), "mixed"))
        with (root.parent / "states").open("a") as file:
            file.write(states[-1] + "\n")

    # A reader at every step of a save that is left alone.
    states: list[str] = []
    place = prepared(case, root)
    (root.parent / "states").unlink(missing_ok=True)

    def watched() -> None:
        stepping(root, reading)
        case.new(place)

    found["watched"] = in_child(watched)
    found["states"] = (root.parent / "states").read_text().split()

    for end, of in ENDS.items() if failing else [("killed", ENDS["killed"])]:
        at, statuses = 0, []
        while not statuses or statuses[-1] != 0 or (end != "killed" and at < found["steps"]["killed"]):
            at += 1
            place = prepared(case, root)

            def ended(at: int = at, place: Path = place, of: Any = of) -> None:
                stepping(root, of(at))
                case.new(place)

            statuses.append(in_child(ended))
            state = names.get(json.dumps(seen(case, place)), "mixed")
            left = [name for name in listing(place) if not name.endswith(("lock", LOCK))]
            case.third(place)
            ok = (
                statuses[-1] in (0, KILLED if end == "killed" else FAILED)
                and state in ("old", "new")
                and (statuses[-1] != 0 or state == "new")
                and (end == "killed" or state != "old" or left == before)
                and seen(case, place) == third
                and listing(place) == clean
                and (case.old is None or (place / "notes.txt").read_text() == "mine")
                and [path.name for path in root.iterdir()] == ["p"]
            )
            if not ok:
                found["wrong"].append([end, at, statuses[-1], state, left, listing(place)])
        found["steps"][end] = at - 1 if end == "killed" else at
    return found


def race(root: Path, seconds: float) -> dict[str, int]:
    """Two writers replacing one pair all the time, and a reader: what it read."""
    import time

    place, made = root / "p", [pair(1, gated=True), pair(2), pair(3, soft=False)]
    root.mkdir(parents=True)
    save_pair(made[0], place)
    known = [[each.id, each.alpha, each.metrics["seed"]] for each in made]
    until = time.monotonic() + seconds

    def writing(own: list[PromptPair]) -> None:
        while time.monotonic() < until:
            for each in own:
                save_pair(each, place)

    writers = []
    for own in (made[:2], made[1:]):
        writers.append(os.fork())
        if writers[-1] == 0:
            status = 1
            try:
                writing(own)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    counts = {"whole": 0, "mixed": 0, "failed": 0}
    different = set()
    while time.monotonic() < until:
        try:
            state = read_pair(place)
        except ACDError:
            counts["failed"] += 1
        else:
            counts["whole" if state in known else "mixed"] += 1
            different.add(state[0])
    ended = [os.waitstatus_to_exitcode(os.waitpid(writer, 0)[1]) for writer in writers]
    return {**counts, "versions": len(different), "writers failed": sum(map(bool, ended))}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    folder = folder.resolve()
    os.fsync = lambda _: None  # type: ignore[assignment]  # of the saves that are left alone
    results: dict[str, Any] = {}
    for name, case in CASES.items():
        results[name] = run_case(case, folder / "case", name in FAILING)
    results["race"] = race(folder / "race", 2.0)
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
