"""Where a run keeps what it has done, that it is alone there, and the file from which a killed one goes on.

A checkpoint is one safetensors file with the tensors and, in its metadata, everything else as JSON (no pickle). It is
written beside the old one and renamed: a killed run finds the old state or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from acd_core.errors import TuningError
from acd_core.files.reading import parse_json, parse_tensors, read_bytes
from acd_core.files.saving import BusyError, failing_as, leftovers_of, locked, save_file

LOCK = ".running.lock"
_PATIENCE = 0.3  # seconds: one that ends at this moment is waited for


def work_folder(out: Path, end: str = "tuning") -> Path:
    """Where a run towards the folder `out` keeps what it has done."""
    return out.with_name(f"{out.name}.{end}")


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Within, no other run works in the folder `work`, which is there meanwhile and goes if nothing is kept in it. The
    same thread may ask again.

    Raises TuningError where another run does, or no file can be made there: before anything takes long. What a killed
    run left holds nobody up.
    """
    try:
        with _holding(work / LOCK, work):
            yield
    finally:
        with suppress(OSError):
            work.rmdir()


@contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """As `alone_in`, for one file that a run adds to."""
    with _holding(file.with_name(f".{file.name}.lock"), file):
        yield


@contextmanager
def _holding(lock: Path, what: Path) -> Iterator[None]:
    with ExitStack() as held:
        with failing_as(TuningError, f"Nothing can be kept in {str(what)!r}"):
            try:
                held.enter_context(locked(lock, _PATIENCE))
            except BusyError:
                raise TuningError(
                    f"Another run is at work in {str(what)!r}.",
                    hint="Wait until it has ended, or give another folder with --out.",
                ) from None
        yield


def write_beside(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with failing_as(TuningError, f"The state of the run cannot be kept in {str(path)!r}"):
        save_file(path, data)


@dataclass(frozen=True)
class Checkpoint:
    """tensors by name (what is trained, the optimiser's moments, the best so far) and a JSON document."""

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


def forget(*paths: Path) -> None:
    """Remove what a run kept, what killed writers left beside it, and its folder where nothing else is in it. paths:
    files of one folder."""
    with suppress(OSError):  # the artifact is saved; what cannot be removed is no reason to fail
        for path in paths:
            for left in (path, *leftovers_of(path)):
                left.unlink(missing_ok=True)
        paths[0].parent.rmdir()
