"""The state of a tuning run in one file, written beside and renamed: a killed run finds the old state or the new one.

One safetensors file holds the tensors and, in its metadata, everything else as JSON. No pickle.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


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


def remove_if_empty(folder: Path) -> None:
    """Remove `folder` where nothing is left in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)
