"""Runs of `tune` and `train_expert`, each killed by SIGKILL somewhere and started again; what came of them as JSON on
stdout.

A script, not a test: `test_killed.py` starts it. It imports once and then forks, so that every run is a process of its
own and is really killed. Usage: python -m tests.tuning.killed_runs FOLDER
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from acd_core.model.backbone import Backbone
from acd_core.tuning import Instruction, anchors, loop, train_expert, tune
from tests.core.gated import gate as random_gate
from tests.tuning.conftest import OddJudge, make_tiny, make_tokenizer

# Where a run is killed: (module, name) of what it is about to call, and at which call; with a class, module.Class.
POINTS: dict[str, tuple[str, str, int]] = {
    "amid the anchors": ("acd_core.tuning.anchors", "_append", 2),
    "after the anchors": ("acd_core.tuning.anchors", "split_pairs", 1),
    "between checkpoints": ("acd_core.tuning.gradient_runner", "step_gradients", 6),
    "writing a checkpoint": ("acd_core.tuning.runs", "save", 3),
    "choosing alpha": ("acd_core.tuning.validation.Validator", "measure", 2 + 3),
    "making the pair": ("acd_core.artifacts.pair", "model_card", 1),
    "after the pair": ("acd_core.tuning.pair_run", "forget", 1),
}
EXPERT_POINTS: dict[str, tuple[str, str, int]] = {
    "amid the replies": ("acd_core.tuning.anchors", "_append", 2),
    "between its checkpoints": ("acd_core.tuning.gradient_runner", "step_gradients", 6),
    "writing its checkpoint": ("acd_core.tuning.runs", "save", 3),
    "saving the expert": ("acd_core.artifacts.lora", "save_folder", 1),
    "after the expert": ("acd_core.tuning.adapter_run", "forget", 1),
}
BEHIND_A_GATE = ("after the anchors", "between checkpoints", "writing a checkpoint")
"""The points at which a run behind a gate, whose steps wear dresses, is killed as well."""


def instructions(split: str, learnt: int) -> tuple[Instruction, ...]:
    """A few made-up ones instead of those that are bundled."""
    kind = "ill" if "unsafe" in split else "kind"
    mine = "wish" if split.startswith("validation") else "aim"
    count = 3 if split.startswith("validation") else learnt
    return tuple(Instruction(f"{split}{index}", f"a {kind} {mine}, number {index}") for index in range(count))


def run(backbone: Backbone, out: Path, gated: bool) -> None:
    # Behind a gate the model replies to half of them only.
    anchors.bundled_instructions = functools.partial(instructions, learnt=40 if gated else 11)  # type: ignore[assignment]
    # The seed is one with which alpha 0 does not win: where it does, nothing more is tried and there is less to kill.
    gate = random_gate(0.0, layers=(1, 2), width=32) if gated else False
    tune(
        backbone, None, out=out, judge=OddJudge(), progress=False, steps=8, batch=6, warmup=2, reply_tokens=6,
        validate_every=4, validation_tokens=4, seed=1, gate=gate, objective="gated" if gated else None,
    )  # fmt: skip


class Refusing:
    """A judge to whom everything is a refusal."""

    name = "refusing"

    def judge(self, prompt: str, completion: str) -> Any:
        return SimpleNamespace(refused=True)


def run_expert(backbone: Backbone, out: Path) -> None:
    train_expert(
        backbone, unsafe=instructions("unsafe", 30), out=out, judge=Refusing(), progress=False, rank=4, epochs=1,
        batch=4, per_request=1, reply_tokens=6, lr=2e-2, dropout=0.3,
    )  # fmt: skip


def die_at(place: str, name: str, call: int) -> None:
    """Kill this process at the `call`-th call of `name`."""
    try:
        owner: Any = importlib.import_module(place)
    except ModuleNotFoundError:
        module, _, owner_name = place.rpartition(".")
        owner = getattr(importlib.import_module(module), owner_name)
    original, calls = getattr(owner, name), [0]

    def counting(*args: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **named)

    setattr(owner, name, counting)


def run_killed(point: tuple[str, str, int], going: Callable[[], None]) -> None:
    die_at(*point)
    going()


def in_child(action: Callable[[], None]) -> int:
    """`action` in a process of its own; its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            loop.CHECKPOINT_EVERY = 3
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def outcome(out: Path) -> dict[str, Any]:
    """The two prompts' bytes as digests, what the history says of the course, and what is left beside the pair."""
    history = json.loads((out / "history.json").read_text())
    found: dict[str, Any] = {
        name: history[name] for name in ("anchors", "steps", "steering", "validation", "chosen", "plain")
    }
    for side in ("safe", "adversarial"):
        found[side] = hashlib.sha256((out / side / "adapter_model.safetensors").read_bytes()).hexdigest()
    work = out.with_name(f"{out.name}.tuning")
    found["left"] = sorted(each.name for each in work.iterdir()) if work.exists() else []
    return found


def expert_outcome(out: Path) -> dict[str, Any]:
    """The adapter's bytes as a digest, what its run measured, and what is left beside it."""
    work = out.with_name(f"{out.name}.training")
    return {
        "weights": hashlib.sha256((out / "adapter_model.safetensors").read_bytes()).hexdigest(),
        "metrics": {**json.loads((out / "expert.json").read_text())["metrics"], "seconds": 0},
        "left": sorted(each.name for each in work.iterdir()) if work.exists() else [],
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)  # no pool of threads that a fork would lose
    backbone = make_tiny(make_tokenizer())
    results: dict[str, Any] = {}
    for gated, points in ((False, tuple(POINTS)), (True, BEHIND_A_GATE)):
        kind = "gated " if gated else ""
        whole = folder / f"{kind}whole"
        assert in_child(functools.partial(run, backbone, whole, gated)) == 0
        results[whole.name] = outcome(whole)
        for point in points:
            out = folder / f"{kind}{point}"
            if "anchors" not in point:  # nothing new in making them again
                shutil.copytree(folder / f"{whole.name}.tuning", folder / f"{out.name}.tuning")
            going = functools.partial(run, backbone, out, gated)
            first = in_child(functools.partial(run_killed, POINTS[point], going))
            there = out.exists()
            again = in_child(going)
            results[out.name] = {"first": first, "there after the kill": there, "again": again, **outcome(out)}
    assert in_child(functools.partial(run_expert, backbone, folder / "whole expert")) == 0
    results["whole expert"] = expert_outcome(folder / "whole expert")
    for point, place in EXPERT_POINTS.items():
        out = folder / point
        if "replies" not in point:
            shutil.copytree(folder / "whole expert.training", folder / f"{point}.training")
        going = functools.partial(run_expert, backbone, out)
        first = in_child(functools.partial(run_killed, place, going))
        there = out.exists()
        again = in_child(going)
        results[point] = {"first": first, "there after the kill": there, "again": again, **expert_outcome(out)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
