"""The state of a tuning run in one file, written beside and renamed: a killed run finds the old state or the new one.

One safetensors file holds the tensors and, in its metadata, everything else as JSON. No pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from acd_core.tuning.validation import Point


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name (prompts, the optimiser's moments, the best prompts so far) and a JSON document."""

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any]

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, metadata={"document": json.dumps(self.document)}))

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint at `path`; None where there is none or it cannot be read (then the run starts anew)."""
        try:
            with safe_open(str(path), "pt") as file:
                document = json.loads((file.metadata() or {})["document"])
                return cls({name: file.get_tensor(name) for name in file.keys()}, document)  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None


@dataclass
class State:
    """Everything a resumed run needs; tensors on the model's device, float32.

    curve: the points along the steps, and after the last step those of the choice of alpha and the rest. steering:
    what `threshold.steer` said, a record a move.
    """

    prompts: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    best_step: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    curve: list[Point] = field(default_factory=list)
    plain: Point | None = None
    seconds: float = 0.0
    bad: int = 0
    memory: dict[str, Any] = field(default_factory=dict)
    steering: list[dict[str, float]] = field(default_factory=list)

    @property
    def offsets(self) -> dict[str, float]:
        """What the losses add now."""
        last = self.steering[-1] if self.steering else {}
        return {name: last[name] for name in last if name in ("joint", "safe")}

    def checkpoint(self, identity: Mapping[str, Any]) -> Checkpoint:
        """This state, to be written. identity: what a run must have in common with this one to go on from it."""
        tensors = {f"prompt.{name}": prompt for name, prompt in self.prompts.items()}
        tensors.update({f"best.{name}": prompt for name, prompt in self.best.items()})
        for name, prompt in self.prompts.items():
            for key, value in self.optimizer.state.get(prompt, {}).items():
                tensors[f"adam.{name}.{key}"] = torch.as_tensor(value)
        document: dict[str, Any] = {"identity": identity, **{name: getattr(self, name) for name in _PLAIN}}
        document["curve"] = [point.as_dict() for point in self.curve]
        document["plain"] = self.plain.as_dict() if self.plain else None
        return Checkpoint(tensors, document)

    def restore(self, found: Checkpoint, device: torch.device) -> None:
        """Become what `found` holds."""
        for name, prompt in self.prompts.items():
            with torch.no_grad():
                prompt.copy_(found.tensors[f"prompt.{name}"])
            start = f"adam.{name}."
            moments = {key.removeprefix(start): value for key, value in found.tensors.items() if key.startswith(start)}
            if moments:
                self.optimizer.state[prompt] = {
                    key: value if key == "step" else value.to(device) for key, value in moments.items()
                }
            if f"best.{name}" in found.tensors:
                self.best[name] = found.tensors[f"best.{name}"].to(device)
        document = found.document
        for name in _PLAIN:
            setattr(self, name, document[name])
        self.curve = [Point(**point) for point in document["curve"]]
        self.plain = Point(**document["plain"]) if document["plain"] else None


_PLAIN = ("step", "best_step", "steps", "seconds", "bad", "memory", "steering")


def write_beside(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def replaceable(target: Path) -> bool:
    """Whether `target` is a pair or an empty folder, so that a new pair may take its place."""
    return (target / "pair.json").is_file() or not any(target.iterdir())


def forget(path: Path) -> None:
    """Remove a checkpoint, what killed writers left beside it, and its folder where nothing else is in it."""
    folder = path.parent
    for left in (path, *folder.glob(f".{path.name}.*")):
        left.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
