"""Things that are made once per key, however many ask at the same time, and kept while there is room."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future
from typing import Generic, TypeVar

from acd_core.errors import ModelError, UsageError
from acd_core.locks import ForkSafeLock, after_fork

T = TypeVar("T")


class OncePerKey(Generic[T]):
    """A cache whose misses are made by one caller while the others of the same key wait, and nobody else does.

    What is wrong with a key (UsageError, ModelError) is kept as well, so that it costs once. Other errors are not: they
    tell of the moment. most: entries. room: what their sizes may come to. The least used ones go first. Thread-safe.
    """

    def __init__(self, size: Callable[[T], int], most: int, room: int) -> None:
        self._size, self._most, self._room = size, most, room
        self._lock = ForkSafeLock()
        self._known: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        after_fork(self._forget_unfinished)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what is known of `key`, or what `make` makes of it. Raises what `make` raises."""
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            else:
                mine = self._known[key] = Future()
        if known is not None:
            try:
                error = known.exception()
            except CancelledError:  # whoever made it was stopped by what was for his thread alone
                return self.get(key, make)
            if error is not None:
                raise copy.copy(error).with_traceback(None)
            return known.result()
        try:
            made = make()
        except Exception as problem:
            self._settle(key, 0 if isinstance(problem, (UsageError, ModelError)) else None)
            # Without the frames that it came through, or what is kept would hold the whole request that met it first.
            mine.set_exception(copy.copy(problem).with_traceback(None))
            raise
        except BaseException:
            self._settle(key, None)
            mine.cancel()
            raise
        self._settle(key, self._size(made))
        mine.set_result(made)
        return made

    def _forget_unfinished(self) -> None:
        """Forget, in a forked child, what its parent's threads were making."""
        self._known = OrderedDict((key, made) for key, made in self._known.items() if made.done())

    def _settle(self, key: Hashable, size: int | None) -> None:
        """Keep `key` with this size, or (None) forget it; and make room."""
        with self._lock:
            if size is None:
                self._known.pop(key, None)
                return
            self._sizes[key] = size
            while len(self._sizes) > self._most or (len(self._sizes) > 1 and sum(self._sizes.values()) > self._room):
                oldest = next(each for each in self._known if each in self._sizes)
                del self._known[oldest], self._sizes[oldest]
