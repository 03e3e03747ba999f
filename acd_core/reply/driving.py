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
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

from acd_core.chat import Conversation
from acd_core.engine import Engine
from acd_core.errors import DeadlineError, EngineError
from acd_core.params import Done, Event, Generation
from acd_core.reply.pieces import SessionItem
from acd_core.reply.plan import Plan
from acd_core.reply.session import Session

GRACE_SECONDS = 1.0
"""After a deadline, until whoever waits gives up by himself: the engine's own word on it says more."""
Heard = tuple[int, tuple[int, SessionItem]]
"""A reply's place among those that were asked for together, and what its session is to take."""


class _Running:
    """Replies under way by their places, and the engine they come from. The course of all four functions below: what
    differs between sync and async is only how one waits."""

    def __init__(self, engine: Engine) -> None:
        self.sessions: dict[int, Session] = {}
        self._engine = engine
        self._window = max(2 * engine.options.max_rows, 1)
        self._process_id = os.getpid()

    @property
    def has_room(self) -> bool:
        """Whether another reply may start: what waits in the engine is to be enough for its next forward, not more."""
        return len(self.sessions) < self._window

    def start(self, place: int, plan: Plan, put: Callable[[Heard], None]) -> None:
        """Submit the first request of the reply at `place`. put: takes what the engine says to it, in any thread."""
        session = self.sessions[place] = Session(plan, lambda item: put((place, item)))
        self._engine.submit(session.start())

    def hear(self, heard: Heard) -> Sequence[Event]:
        """The events that follow from what the engine said; `Done` is the last of a reply, which is then forgotten.
        Raises the error that the reply ended with."""
        place, item = heard
        session = self.sessions.get(place)
        if session is None:
            return ()
        events, following, over = session.take(item)
        if following is not None:
            self._engine.submit(following)
        if over:
            del self.sessions[place]
        return events

    def seconds_left(self) -> float | None:
        """Seconds until one of the replies is late beyond doubt; None where none has a deadline."""
        asked = [session.current.asked for session in self.sessions.values() if session.current is not None]
        ends = [each.deadline for each in asked if each.deadline is not None]
        return max(min(ends) + GRACE_SECONDS - time.monotonic(), 0.0) if ends else None

    def check_process(self) -> None:
        """Raise EngineError in a forked child of the process that asked: the engine's thread is not in it."""
        if os.getpid() != self._process_id:
            raise EngineError(
                "This reply was asked for before the process was forked, and is made in the parent.",
                hint="Ask again in the child: its ContrastiveLM works, and computes for itself.",
            )

    def stop_listening(self, place: int) -> None:
        """Let the engine drop the reply at `place`. For any thread."""
        session = self.sessions.get(place)
        if session is not None and session.current is not None:
            session.current.cancelled = True

    def cancel(self) -> None:
        """Take what is still under way out of the engine."""
        for session in self.sessions.values():
            if session.current is not None:
                self._engine.cancel(session.current)


def stream(engine: Engine, plan: Plan) -> Iterator[Event]:
    """Events of one reply as they come; the last is Done. Closing the iterator frees its rows."""
    items: queue.SimpleQueue[Heard] = queue.SimpleQueue()
    running = _Running(engine)
    try:
        running.start(0, plan, items.put)
        while running.sessions:
            yield from running.hear(_next(items, running))
    finally:
        running.cancel()


async def astream(engine: Engine, plan: Plan) -> AsyncGenerator[Event, None]:
    """`stream` without blocking the event loop."""
    items: asyncio.Queue[Heard] = asyncio.Queue()
    running = _Running(engine)
    try:
        running.start(0, plan, _into_loop(items, running))
        while running.sessions:
            for event in running.hear(await _anext(items, running)):
                yield event
    finally:
        running.cancel()


def race(
    engine: Engine, make: Callable[[Conversation], Plan], conversations: Sequence[Conversation]
) -> Iterator[tuple[int, Generation]]:
    """All conversations at once, a window ahead of the engine, each reply with its place as soon as it is there. An
    error cancels the rest and is raised."""
    items: queue.SimpleQueue[Heard] = queue.SimpleQueue()
    running, waiting = _Running(engine), deque(enumerate(conversations))
    try:
        while waiting or running.sessions:
            while waiting and running.has_room:
                place, conversation = waiting.popleft()
                running.start(place, make(conversation), items.put)
            heard = _next(items, running)
            if finished := _finished(running.hear(heard)):
                yield heard[0], finished
    finally:
        running.cancel()


async def arace(
    engine: Engine, make: Callable[[Conversation], Awaitable[Plan]], conversations: Sequence[Conversation]
) -> AsyncGenerator[tuple[int, Generation], None]:
    """`race` without blocking the event loop."""
    items: asyncio.Queue[Heard] = asyncio.Queue()
    running, waiting = _Running(engine), deque(enumerate(conversations))
    put = _into_loop(items, running)
    try:
        while waiting or running.sessions:
            while waiting and running.has_room:
                place, conversation = waiting.popleft()
                running.start(place, await make(conversation), put)
            heard = await _anext(items, running)
            if finished := _finished(running.hear(heard)):
                yield heard[0], finished
    finally:
        running.cancel()


def _finished(events: Sequence[Event]) -> Generation | None:
    """The reply that ends with these events, if one does."""
    last = events[-1] if events else None
    return last.generation if isinstance(last, Done) else None


def _into_loop(items: asyncio.Queue[Heard], running: _Running) -> Callable[[Heard], None]:
    """What puts into `items` from the engine's thread; a reply is dropped where the caller's event loop is gone."""
    loop = asyncio.get_running_loop()

    def put(heard: Heard) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, heard)
        except RuntimeError:
            running.stop_listening(heard[0])

    return put


def _next(items: queue.SimpleQueue[Heard], running: _Running) -> Heard:
    """What the engine says next. Raises DeadlineError where it says nothing until a deadline is past."""
    running.check_process()
    with suppress(queue.Empty):
        return items.get_nowait()  # what is here needs no look at every deadline
    try:
        return items.get(timeout=running.seconds_left())
    except queue.Empty:
        raise _late() from None


async def _anext(items: asyncio.Queue[Heard], running: _Running) -> Heard:
    """`_next` without blocking the event loop."""
    running.check_process()
    with suppress(asyncio.QueueEmpty):
        return items.get_nowait()
    try:
        return await asyncio.wait_for(items.get(), running.seconds_left())
    except asyncio.TimeoutError:
        raise _late() from None


def _late() -> DeadlineError:
    return DeadlineError(
        "The request's deadline passed, and the engine has not answered since: a forward takes long, or hangs.",
        hint="Raise deadline_s (timeout), or ask for less at once.",
    )
