"""The threads that calls are planned in when nobody may be kept waiting for them: a pool of its own for each model.

Planning renders, encodes and compiles; a hostile schema takes seconds, and a template is a program. asyncio's own
executor belongs to the application, which may run its requests there.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from acd_core.errors import DeadlineError
from acd_core.locks import ForkSafeLock, after_fork

T = TypeVar("T")
THREADS = 32
"""More than schemas can be tried or wait for it (acd_core.grammar.trials), so that short plans pass long ones."""


class PlanningThreads:
    """Threads that are started when they are needed. Thread-safe; may be used again after `close`."""

    def __init__(self) -> None:
        self._starting = ForkSafeLock()
        self._pool: ThreadPoolExecutor | None = None
        after_fork(self._forget)

    def within(self, make: Callable[[], T], deadline: float | None) -> T:
        """Return what `make` makes. Raises DeadlineError at `deadline` (time.monotonic's clock), whatever `make` is at
        then."""
        if deadline is None:
            return make()
        made = self._submit(make)
        try:
            return made.result(timeout=max(deadline - time.monotonic(), 0.0))
        except FutureTimeoutError:
            if made.done():  # an error of that kind came from `make` itself
                return made.result()
            made.cancel()
            raise _late() from None

    async def awithin(self, make: Callable[[], T], deadline: float | None) -> T:
        """Do as `within`, without blocking the event loop."""
        made = asyncio.wrap_future(self._submit(make))
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            done, _ = await asyncio.wait({made}, timeout=left)
        finally:
            made.cancel()  # nobody waits any more; what has its result keeps it
        if not done:
            raise _late()
        return made.result()

    def close(self) -> None:
        """End the threads as soon as they are done with what they do now; what waits for one is still done."""
        with self._starting:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _forget(self) -> None:
        """Forget the threads, in a forked process, which has none of them."""
        self._pool = None

    def _submit(self, make: Callable[[], T]) -> Future[T]:
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="acd-planning")
            return self._pool.submit(contextvars.copy_context().run, make)


def _late() -> DeadlineError:
    return DeadlineError("The request's deadline passed before it was planned.", hint="Raise deadline_s.")
