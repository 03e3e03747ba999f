"""The threads that calls are planned in when nobody may be kept waiting for them.

Planning renders, encodes and compiles; a hostile schema takes seconds. asyncio's own executor belongs to the
application, which may run its requests there.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from acd_core.errors import DeadlineError
from acd_core.locks import ForkSafeLock

T = TypeVar("T")
THREADS = 32
"""More than schemas can be tried or wait for it (acd_core.decoding.trials), so that short plans pass long ones."""

_starting = ForkSafeLock()
_pool: ThreadPoolExecutor | None = None


def plan_within(make: Callable[[], T], deadline: float | None) -> T:
    """What `make` makes; DeadlineError at `deadline` (time.monotonic's clock), whatever `make` is at then."""
    if deadline is None:
        return make()
    made = _submit(make)
    try:
        return made.result(timeout=max(deadline - time.monotonic(), 0.0))
    except FutureTimeoutError:
        if made.done():  # an error of that kind came from `make` itself
            return made.result()
        made.cancel()
        raise _late() from None


async def aplan_within(make: Callable[[], T], deadline: float | None) -> T:
    """`plan_within` without blocking the event loop."""
    made = asyncio.wrap_future(_submit(make))
    left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
    try:
        done, _ = await asyncio.wait({made}, timeout=left)
    finally:
        made.cancel()  # nobody waits any more; what has its result keeps it
    if not done:
        raise _late()
    return made.result()


def _submit(make: Callable[[], T]) -> Future[T]:
    global _pool
    with _starting:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="acd-planning")
        return _pool.submit(contextvars.copy_context().run, make)


def _late() -> DeadlineError:
    return DeadlineError("The request's deadline passed before it was planned.", hint="Raise deadline_s.")


def _after_fork() -> None:
    """A forked process has none of these threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
