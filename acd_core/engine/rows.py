"""Which row of the cache belongs to whom: decoding rows compacted at the front, a group being prefilled behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from acd_core.engine.branch import Branch
from acd_core.engine.cache import SlotCache
from acd_core.engine.request import Request


@dataclass
class Row:
    """One row of the cache: which request, which of its branches, its slot, how many tokens the cache holds.

    reach: slots that a forward was ever to write, also one that failed, or that read a gate at an appended header.
    """

    request: Request
    side: int
    slot: int
    length: int = 0
    reach: int = 0
    logits: torch.Tensor | None = None
    tokens: npt.NDArray[np.float32] | None = None  # the gate's readings of the prompt's tokens
    reading: float | None = None  # of the gate, once it was computed
    weights: int | None = None  # how often the model's had been seen to change or switch when the row was opened

    @property
    def branch(self) -> Branch:
        return self.request.branches[self.side]

    @property
    def is_kept(self) -> bool:
        """Whether it is the row of the stream that is kept."""
        return self.side == 0

    @property
    def ids(self) -> list[int]:
        """Prompt and reply so far, as the cache must come to hold them."""
        return [*self.branch.ids, *self.request.generated[self.request.moved_tokens or 0 :]]


class RowTable:
    """decoding: rows whose slot is their index. filling: rows of the group being prefilled, in slots behind those.

    A slot that nobody owns is zero, and so is an owned one behind its row's reach: whoever comes next reads what is
    masked too, and must not find an infinity or NaN there.
    """

    def __init__(self, cache: SlotCache) -> None:
        self.cache = cache
        self.decoding: list[Row] = []
        self.filling: list[Row] = []

    def __len__(self) -> int:
        return len(self.decoding) + len(self.filling)

    def open(self, request: Request) -> list[Row]:
        """New rows for `request` at the end of the group."""
        rows = [Row(request, side, len(self) + side) for side in range(request.rows_needed)]
        self.filling.extend(rows)
        return rows

    def settle(self) -> list[Row]:
        """Move the filled group behind the decoding rows, where it joins them; returns its rows."""
        group, self.filling = self.filling, []
        for row in group:  # ascending slots, targets never above them: nothing is overwritten before it was moved
            self._move(row, len(self.decoding))
            self.decoding.append(row)
        return group

    def release(self, requests: Sequence[Request]) -> None:
        """Free every row of `requests`."""
        gone = {id(request) for request in requests}
        if not gone:
            return
        if any(id(row.request) in gone for row in self.filling):
            first = self.filling[0].slot
            for row in self.filling:
                if id(row.request) in gone:
                    self.wipe(row)
            self.filling = [row for row in self.filling if id(row.request) not in gone]
            for index, row in enumerate(self.filling):
                self._move(row, first + index)
        self._free([row for row in self.decoding if id(row.request) in gone])

    def release_uncontrasted(self) -> None:
        """Free the rows that are not kept of requests whose contrast is over."""
        self._free([row for row in self.decoding if not row.is_kept and not row.request.contrasting])

    def clear(self) -> None:
        self.decoding, self.filling = [], []

    def _free(self, rows: Sequence[Row]) -> None:
        """Fill each hole with the last row."""
        for row in sorted(rows, key=lambda freed: -freed.slot):
            self.wipe(row)
            last = self.decoding.pop()
            if last is not row:
                self._move(last, row.slot)
                self.decoding[row.slot] = last

    def wipe(self, row: Row, start: int = 0) -> None:
        """Zero what the row's slots hold from `start` on. A decode step writes one slot behind the row's length."""
        self.cache.wipe(row.slot, start, min(max(row.reach, row.length + 1), self.cache.capacity))
        row.reach = start

    def _move(self, row: Row, slot: int) -> None:
        if row.slot != slot:
            self.cache.copy_row(row.slot, slot, row.length)
            self.wipe(row)
            row.slot = slot
