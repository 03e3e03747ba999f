"""The state of a tuning run in one file, written beside and renamed: a killed run finds the old state or the new one.

One safetensors file holds the tensors and, in its metadata, everything else as JSON. No pickle.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from acd_core.errors import TuningError
from acd_core.files.reading import parse_json, parse_tensors, read_bytes
from acd_core.files.saving import litter_of
from acd_core.tuning.runs import write_beside
from acd_core.tuning.validation import Point


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name (prompts, the optimiser's moments, the best prompts so far) and a JSON document."""

    tensors: Mapping[str, Tensor]
    document: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Replace what is at `path`. Raises TuningError where the disk does not take it; then that is still there."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        write_beside(path, save(tensors, metadata={"document": json.dumps(self.document)}))

    @classmethod
    def read(cls, path: Path) -> Checkpoint | None:
        """The checkpoint at `path`; None where there is none or it cannot be read (then the run starts anew)."""
        try:
            found = parse_tensors(read_bytes(path))
            document = parse_json(found.metadata["document"])
        except (OSError, KeyError, ValueError):
            return None
        return cls(found.tensors, document) if isinstance(document, dict) else None


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

    @classmethod
    def start(cls, prompts: dict[str, Tensor], lr: float, weight_decay: float) -> State:
        """The state before the first step. lr: as a share of each prompt's size."""
        groups = [
            {"params": [prompt], "scale": float(prompt.detach().square().mean().sqrt())} for prompt in prompts.values()
        ]
        return cls(prompts, torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay))

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

    def restore(self, found: Checkpoint, identity: Mapping[str, Any], device: torch.device) -> None:
        """Become what `found` holds. Raises TuningError where it is of another run, and, half changed, where it does
        not hold a state."""
        known = found.document.get("identity")
        known = known if isinstance(known, dict) else {}
        if differing := [key for key, value in identity.items() if known.get(key) != value]:
            raise TuningError(f"the unfinished run differs in {', '.join(differing)}.")
        try:
            self._restore(found, device)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TuningError(f"the checkpoint holds no state of a run: {error}.") from error

    def _restore(self, found: Checkpoint, device: torch.device) -> None:
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
        for name, kind in _PLAIN.items():
            if not isinstance(document[name], kind) or isinstance(document[name], bool):
                raise TypeError(f"its {name} is {str(document[name])[:60]!r}")
            setattr(self, name, document[name])
        self.curve = [Point(**point) for point in document["curve"]]
        self.plain = Point(**document["plain"]) if document["plain"] else None


_PLAIN: Mapping[str, Any] = {
    "step": int, "best_step": int, "steps": list, "seconds": (int, float), "bad": int, "memory": dict, "steering": list,
}  # fmt: skip


def forget(*paths: Path) -> None:
    """Remove what a run kept, what killed writers left beside it, and its folder where nothing else is in it. paths:
    files of one folder."""
    with contextlib.suppress(OSError):  # the pair is saved; what cannot be removed is no reason to fail
        for path in paths:
            for left in (path, *litter_of(path)):
                left.unlink(missing_ok=True)
        paths[0].parent.rmdir()
