"""Plans driven to their replies: one as a stream, many at once, sync and async alike.

The engine's thread puts items into a queue of the caller's; a session makes events of them. Whoever waits here does not
depend on that thread: a deadline holds also while a forward hangs, and a forked child does not wait for a thread that
it has not got.
"""

from __future__ import annotations

import asyncio
import os
import queue
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from acd_core.chat import Conversation
from acd_core.engine import Engine
from acd_core.engine.request import Item
from acd_core.errors import DeadlineError, EngineError
from acd_core.params import Done, Event, Generation
from acd_core.reply.session import Plan, Session

T = TypeVar("T")
GRACE_SECONDS = 1.0
"""After a deadline, until whoever waits gives up by himself: the engine's own word on it says more."""


class _Process:
    """The process that a reply was asked for in."""

    def __init__(self) -> None:
        self._id = os.getpid()

    def check(self) -> None:
        if os.getpid() != self._id:
            raise EngineError(
                "This reply was asked for before the process was forked, and is made in the parent.",
                hint="Ask again in the child: its ContrastiveLM works, and computes for itself.",
            )


def stream(engine: Engine, plan: Plan) -> Iterator[Event]:
    """Events of one reply as they come; the last is Done. Closing the iterator frees its rows."""
    items: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
    session, process = Session(plan, items.put), _Process()
    engine.submit(session.start())
    over = False
    try:
        while not over:
            process.check()
            events, following, over = session.take(_next(items, [session]))
            if following is not None:
                engine.submit(following)
            yield from events
    finally:
        _leave(engine, [session])


async def astream(engine: Engine, plan: Plan) -> AsyncGenerator[Event, None]:
    """`stream` without blocking the event loop."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[tuple[int, Item]] = asyncio.Queue()

    def put(item: tuple[int, Item]) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the caller's loop is gone: nobody listens any more
            if session.current is not None:
                session.current.cancelled = True

    session, process = Session(plan, put), _Process()
    engine.submit(session.start())
    over = False
    try:
        while not over:
            process.check()
            left = _left([session])
            item = await (items.get() if left is None else _within(items, left))
            events, following, over = session.take(item)
            if following is not None:
                engine.submit(following)
            for event in events:
                yield event
    finally:
        _leave(engine, [session])


def race(
    engine: Engine, make: Callable[[Conversation], Plan], conversations: Sequence[Conversation]
) -> Iterator[tuple[int, Generation]]:
    """All conversations at once, a window ahead of the engine, each reply with its place as soon as it is there. An
    error cancels the rest and is raised."""
    items: queue.SimpleQueue[tuple[int, tuple[int, Item]]] = queue.SimpleQueue()
    sessions: dict[int, Session] = {}
    process, pending = _Process(), iter(enumerate(conversations))
    window = max(2 * engine.options.max_rows, 1)

    def fill() -> None:
        while len(sessions) < window:
            following = next(pending, None)
            if following is None:
                return
            index, conversation = following
            session = Session(make(conversation), lambda item, index=index: items.put((index, item)))  # type: ignore[misc]
            sessions[index] = session
            engine.submit(session.start())

    try:
        fill()
        while sessions:
            process.check()
            index, item = _next(items, sessions.values())
            session = sessions.get(index)
            if session is None:
                continue
            events, request, over = session.take(item)
            if request is not None:
                engine.submit(request)
            if over:
                del sessions[index]
                fill()
                yield index, cast(Done, events[-1]).generation
    finally:
        _leave(engine, sessions.values())


def _left(sessions: Iterable[Session]) -> float | None:
    """Seconds until one of these is late beyond doubt; None where none has a deadline."""
    ends = [
        each.current.deadline for each in sessions if each.current is not None and each.current.deadline is not None
    ]
    return max(min(ends) + GRACE_SECONDS - time.monotonic(), 0.0) if ends else None


def _next(items: queue.SimpleQueue[T], sessions: Iterable[Session]) -> T:
    with suppress(queue.Empty):
        return items.get_nowait()  # what is here needs no look at every deadline
    try:
        return items.get(timeout=_left(sessions))
    except queue.Empty:
        raise _late() from None


async def _within(items: asyncio.Queue[T], seconds: float) -> T:
    try:
        return await asyncio.wait_for(items.get(), seconds)
    except asyncio.TimeoutError:
        raise _late() from None


def _late() -> DeadlineError:
    return DeadlineError(
        "The request's deadline passed, and the engine has not answered since: a forward takes long, or hangs.",
        hint="Raise deadline_s (timeout), or ask for less at once.",
    )


def _leave(engine: Engine, sessions: Iterable[Session]) -> None:
    """Nobody listens to these any more."""
    for session in sessions:
        if session.current is not None:
            engine.cancel(session.current)
