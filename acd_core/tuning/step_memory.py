"""How many bytes a step takes, how many are free, and so how many rows go through it at a time.

Where memory is near, nothing about an architecture is guessed: a step of one row and one of two tell what a row takes.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acd_core.engine.memory import give_back, is_out_of_memory

SHARE = 0.6
"""Of the free memory that a step may take: the estimate is not exact, and others want some too."""
FEW = 8
"""Layers are computed twice where less than the batch divided by this would fit otherwise: passes over so few rows
spend their time on reading weights."""


def crude_bytes(tokens: int, layers: int, width: int, vocabulary: int) -> int:
    """More than a step over `tokens` positions (rows x streams x length) can need, by the model's shape alone: 64
    widths a layer (measured: 15 to 30) and 6 rows of logits, all in float32. What fits so need not be measured."""
    return 4 * tokens * (64 * layers * width + 6 * vocabulary)


@dataclass(frozen=True)
class Need:
    """Bytes of a step: `fixed` (the prompts' own prefixes), and `row` for each row in memory."""

    fixed: int
    row: int

    def of(self, rows: int) -> int:
        return self.fixed + rows * self.row


@dataclass(frozen=True)
class Fit:
    """micro: rows in memory at a time. checkpointing: layers keep their input only and are computed twice."""

    micro: int
    checkpointing: bool = False


def fit(
    batch: int,
    budget: int | None,
    plain: Callable[[], Need | None],
    recomputed: Callable[[], Need | None],
    *,
    micro: int | None = None,
    checkpointing: bool | None = None,
) -> Fit:
    """How a step of `batch` rows goes under `budget` bytes (None: unknown, so the whole batch).

    plain, recomputed: what a step needs without and with checkpointing; None where it cannot be told (for `plain`: not
    even two rows fit). micro, checkpointing: asked for by the caller, and then kept.
    """
    if budget is None or (micro is not None and checkpointing is not None):
        return Fit(micro or batch, bool(checkpointing))
    if not checkpointing:
        need = plain()
        most = 0 if need is None else _most(batch, budget, need)
        if checkpointing is False or most >= (micro or max(1, batch // FEW)):
            return Fit(micro or max(1, most))
    need = recomputed()
    if need is None:  # these layers cannot be wrapped: as few rows as it takes
        return Fit(micro or 1)
    return Fit(micro or max(1, _most(batch, budget, need)), True)


def _most(batch: int, budget: int, need: Need) -> int:
    """The most rows that fit, of the batch, its half, its quarter ...; 0 where not even one does."""
    rows = batch
    while rows and need.of(rows) > budget:
        rows //= 2
    return rows


def probe(step: Callable[[int], object], device: torch.device) -> Need | None:
    """What `step(rows)` needs, from one row and from two. None where the device runs out of memory on the way."""
    try:
        one, two = _taken(step, 1, device), _taken(step, 2, device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    else:
        row = max(1, two - one)
        return Need(max(0, one - row), row)
    give_back(device)
    return None


def _taken(step: Callable[[int], object], rows: int, device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step(rows)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with _Allocations() as seen:
        step(rows)
    return int(seen.peak)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is open, and the most alive at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            if storage._cdata not in given and storage._cdata not in self._alive:
                self._count(storage)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def gone(_: object) -> None:
            self.now -= size
            self._alive.pop(key, None)

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _storages(values: Any) -> list[torch.UntypedStorage]:
    return [each.untyped_storage() for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def budget_of(device: torch.device) -> int | None:
    """Bytes that a step may take on `device`; None where that cannot be told."""
    free = _free(device)
    return None if free is None else int(SHARE * free)


def _free(device: torch.device) -> int | None:
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # the allocator gives it again
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type != "cpu":
        return None
    known = [each for each in (_available(), _allowed()) if each is not None]
    return min(known) if known else None


def _available() -> int | None:
    """Bytes the system would give to a process without swapping."""
    try:
        import psutil  # type: ignore[import-untyped,import-not-found,unused-ignore]

        return int(psutil.virtual_memory().available)
    except ImportError:
        pass
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _allowed() -> int | None:
    """Bytes this container may still take, where it has a limit (cgroup 2); its page cache can be given back."""
    folder = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return int((folder / "memory.max").read_text()) - int(stat["anon"])
    return None
