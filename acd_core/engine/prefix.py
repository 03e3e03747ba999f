"""Keys and values of known prefixes, found by token ids, kept in an LRU with a byte budget.

A soft vector stands in a row's ids as a negative number that is unique to the vector, so soft prompts, system texts,
documents and earlier turns are all found the same way: by the longest common prefix. Rows of another state of the
weights (another adapter, say) are never found, nor are those of another namespace: how many tokens of a prompt were
known would tell one tenant what another one asked. Nor are rows that were computed under other interventions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acd_core.engine.cache import KeyValues
from acd_core.model.weight_state import State

Ids = npt.NDArray[np.int64]
Readings = tuple[str, npt.NDArray[np.float32]]
"""The id of a gate, and its readings of a row's first tokens."""


@dataclass
class Entry:
    """One saved row. state: that of the weights it was computed with. space: who may find it, None for everybody.
    under: the interventions it was computed under (`Branch.under`)."""

    ids: Ids
    saved: KeyValues
    size: int
    readings: Readings | None
    state: State | None
    space: str | None
    under: tuple[str, ...]


class PrefixStore:
    """Saved rows by their ids. Not thread-safe: the engine thread owns it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.reused_tokens = 0
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._next = 0
        self._state: State | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def under(self, state: State) -> None:
        """From now on find and add rows of this state of the weights. Those from before weights changed go; those
        under other settings of the adapters stay, for their return."""
        self._state = state
        for key in [
            k for k, entry in self._entries.items() if entry.state is None or entry.state.changes != state.changes
        ]:
            self._remove(key)

    def longest(
        self, ids: Sequence[int], space: str | None, under: tuple[str, ...] = ()
    ) -> tuple[int, KeyValues | None, Readings | None]:
        """How many leading ids are known in `space`, and the saved row that holds them, with its readings."""
        wanted = np.asarray(ids, dtype=np.int64)
        best, best_key = 0, -1
        for key, entry in self._here(space, under):
            length = common_prefix(wanted, entry.ids)
            if length > best:
                best, best_key = length, key
        if best_key < 0:
            return 0, None, None
        self._entries.move_to_end(best_key)
        self.hits += 1
        found = self._entries[best_key]
        return best, found.saved, found.readings

    def holding(self, ids: Sequence[int], space: str | None, under: tuple[str, ...] = ()) -> Entry | None:
        """The saved row that starts with all of `ids` and can be found in `space`."""
        wanted = np.asarray(ids, dtype=np.int64)
        here = self._here(space, under)
        return next((entry for _, entry in here if common_prefix(wanted, entry.ids) == len(wanted)), None)

    def add(
        self,
        ids: Sequence[int],
        saved: KeyValues,
        readings: Readings | None = None,
        space: str | None = None,
        under: tuple[str, ...] = (),
    ) -> None:
        """Keep a row, with what a gate read of its tokens. Saved rows of its space that are a prefix of it go, then the
        least recently used until the budget holds."""
        known = np.asarray(ids, dtype=np.int64)
        size = sum(keys.nbytes + values.nbytes for keys, values in saved)
        if size > self.max_bytes:
            return
        own = [(key, entry) for key, entry in self._here(space, under) if entry.space == space]
        for key in [key for key, entry in own if common_prefix(known, entry.ids) == len(entry.ids)]:
            readings = readings or self._entries[key].readings
            self._remove(key)
        self._entries[self._next] = Entry(known, saved, size, readings, self._state, space, under)
        self._next += 1
        self.used_bytes += size
        while self.used_bytes > self.max_bytes:
            self._remove(next(iter(self._entries)))

    def _here(self, space: str | None, under: tuple[str, ...]) -> Iterator[tuple[int, Entry]]:
        """The rows of the present state and these interventions that can be found in `space`."""
        return (
            (key, entry)
            for key, entry in self._entries.items()
            if entry.state == self._state and entry.under == under and entry.space in (None, space)
        )

    def clear(self) -> None:
        self._entries.clear()
        self.used_bytes = 0

    def _remove(self, key: int) -> None:
        self.used_bytes -= self._entries.pop(key).size


def common_prefix(first: Ids, second: Ids) -> int:
    """Length of the longest common prefix of two id arrays."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
