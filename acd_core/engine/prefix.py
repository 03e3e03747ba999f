"""Keys and values of known prefixes, found by token ids, kept in an LRU with a byte budget.

A soft vector stands in a row's ids as a negative number that is unique to the vector, so soft prompts, system texts,
documents and earlier turns are all found the same way: by the longest common prefix.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from acd_core.engine.cache import KeyValues

Ids = npt.NDArray[np.int64]


class PrefixStore:
    """Saved rows by their ids. Not thread-safe: the engine thread owns it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.reused_tokens = 0
        self._entries: OrderedDict[int, tuple[Ids, KeyValues, int]] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, ids: Sequence[int]) -> tuple[int, KeyValues | None]:
        """How many leading ids are known, and the saved row that holds them (0, None if none)."""
        wanted = np.asarray(ids, dtype=np.int64)
        best, best_key = 0, -1
        for key, (known, _, _) in self._entries.items():
            length = common_prefix(wanted, known)
            if length > best:
                best, best_key = length, key
        if best_key < 0:
            return 0, None
        self._entries.move_to_end(best_key)
        self.hits += 1
        return best, self._entries[best_key][1]

    def covers(self, ids: Sequence[int]) -> bool:
        """Whether all of `ids` is the start of a saved row already."""
        wanted = np.asarray(ids, dtype=np.int64)
        return any(common_prefix(wanted, known) == len(wanted) for known, _, _ in self._entries.values())

    def add(self, ids: Sequence[int], saved: KeyValues) -> None:
        """Keep a row; saved rows that are a prefix of it go, then the least recently used until the budget holds."""
        known = np.asarray(ids, dtype=np.int64)
        size = sum(keys.nbytes + values.nbytes for keys, values in saved)
        if size > self.max_bytes:
            return
        for key in [k for k, (old, _, _) in self._entries.items() if common_prefix(known, old) == len(old)]:
            self._remove(key)
        self._entries[self._next] = (known, saved, size)
        self._next += 1
        self.used_bytes += size
        while self.used_bytes > self.max_bytes:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        self._entries.clear()
        self.used_bytes = 0

    def _remove(self, key: int) -> None:
        self.used_bytes -= self._entries.pop(key)[2]


def common_prefix(first: Ids, second: Ids) -> int:
    """Length of the longest common prefix of two id arrays."""
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
