"""The engine: one thread owns the model and its cache; any thread or event loop may submit.

Each round of the loop: 1) drop what was cancelled or is too late, 2) admit what fits, 3) one chunk of prefill, 4) one
decode step for every running row, 5) hand out tokens, 6) free the rows of what ended.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import torch

from acd_core.backbone import Backbone
from acd_core.engine.cache import SlotCache
from acd_core.engine.memory import doubled, free_bytes, give_back, is_out_of_memory, no_room
from acd_core.engine.options import Counters, EngineOptions
from acd_core.engine.prefix import PrefixStore
from acd_core.engine.request import Request
from acd_core.engine.reuse import Reuse
from acd_core.engine.rows import Row, RowTable
from acd_core.engine.step import Stepper, choose
from acd_core.errors import (
    ContextLengthError,
    DeadlineError,
    EngineClosedError,
    OutOfMemoryError,
    QueueFullError,
)

IDLE_SECONDS = 5.0
"""An engine thread without work ends after this long; the next request starts a new one."""


class Engine:
    """Serves requests over one backbone. Nothing runs and nothing is allocated before the first `submit`."""

    def __init__(self, backbone: Backbone, options: EngineOptions | None = None) -> None:
        self.backbone = backbone
        self.options = options or EngineOptions()
        self.counters = Counters()
        self._cache = SlotCache()
        self._stepper = Stepper(backbone, self._cache, self.options.decode)
        self._reuse = Reuse(backbone, self._cache, self._stepper.static, self.options.prefix_bytes)
        self._rows = RowTable(self._cache)
        self._row_limit = self.options.max_rows
        self._byte_limit = self.options.max_cache_bytes
        self._running: list[Request] = []
        self._filling: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        _engines.add(self)

    # -- any thread -------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue `request`; its sink hears the rest. Raises EngineClosedError, QueueFullError or ContextLengthError."""
        limit = self.backbone.context_length
        if request.longest > limit:
            raise ContextLengthError(
                f"The prompt takes {request.longest - request.max_tokens} positions and {request.max_tokens} new "
                f"tokens were asked for, but the model's context holds {limit}.",
                hint="Shorten the conversation or lower max_tokens.",
            )
        with self._lock:
            if self._closed:
                raise EngineClosedError("The engine is closed.", hint="Make a new ContrastiveLM.")
            if len(self._waiting) >= self.options.max_queue:
                raise QueueFullError(
                    f"{len(self._waiting)} requests are waiting already (max_queue).",
                    hint="Retry later, or raise max_queue in EngineOptions.",
                )
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=_serve, args=(self,), name="acd-engine", daemon=True)
                self._thread.start()
            self._lock.notify_all()

    def cancel(self, request: Request) -> None:
        """Ask for `request` to end; its rows are free within one step. Safe at any time, also twice."""
        with self._lock:
            request.cancelled = True
            self._lock.notify_all()

    def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """Stop serving: with `drain` once everything submitted is answered, else failing it with EngineClosedError."""
        with self._lock:
            self._closed = True
            if not drain:
                for request in self._all():
                    request.cancelled = True
            thread = self._thread
            self._lock.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        if self._thread is None:
            self._release()

    @property
    def decode_mode(self) -> tuple[str, str]:
        """How decode steps run, and why: see engine/static.py."""
        static = self._stepper.static
        if static is None:
            return "eager", self._stepper.decode_reason
        return static.mode, static.failure or self._stepper.decode_reason

    @property
    def prefixes(self) -> PrefixStore:
        """The keys and values that are known."""
        return self._reuse.prefixes

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def active_rows(self) -> int:
        """Rows that hold cache right now."""
        return len(self._rows)

    @property
    def queued(self) -> int:
        """Requests that wait for rows."""
        return len(self._waiting)

    # -- the engine thread ------------------------------------------------------------------------------------------

    def _round(self) -> bool:
        """One round of the loop; False when the thread should end."""
        with self._lock:
            if not self._all():
                if not self._closed:
                    self._lock.wait(IDLE_SECONDS)
                if not self._waiting:
                    self._reuse.rest()
                    self._thread = None
                    return False
        self._drop_ended()
        self._admit()
        if self._filling:
            self._guarded(self._prefill, self._filling)
        if self._running:
            self._guarded(self._decode, self._running)
        return True

    def _all(self) -> list[Request]:
        return [*self._waiting, *self._filling, *self._running]

    def _guarded(self, work: Callable[[], None], involved: Sequence[Request]) -> None:
        """Run one forward's work; its failure fails the requests in it and no others."""
        involved = list(involved)
        try:
            work()
        except Exception as error:
            if is_out_of_memory(error):
                self._shrink(error)
                return
            self._fail(involved, error)

    def _fail(self, requests: Sequence[Request], error: BaseException) -> None:
        for request in requests:
            if not request.done:
                request.fail(error)
                self.counters.failed += 1
        self._forget(requests)

    def _forget(self, requests: Sequence[Request]) -> None:
        """Free the rows of requests that ended, wherever they are."""
        gone = {id(request) for request in requests}
        self._running = [request for request in self._running if id(request) not in gone]
        self._filling = [request for request in self._filling if id(request) not in gone]
        self._rows.release(requests)

    def _drop_ended(self) -> None:
        with self._lock:
            ended = [request for request in self._all() if request.cancelled or request.expired()]
            if not ended:
                return
            gone = {id(request) for request in ended}
            self._waiting = deque(request for request in self._waiting if id(request) not in gone)
            closed = self._closed
        for request in ended:
            if request.cancelled:
                self.counters.cancelled += 1
                request.fail(EngineClosedError("The engine was closed." if closed else "The request was cancelled."))
            else:
                self.counters.failed += 1
                request.fail(DeadlineError("The request's deadline passed.", hint="Raise deadline_s."))
        self._forget(ended)

    # -- admission --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Move waiting requests into a new prefill group, in order, while rows, cache bytes and tokens allow."""
        if self._filling:
            return
        tokens = 0
        opened: list[Row] = []
        while True:
            with self._lock:
                request = self._waiting[0] if self._waiting else None
            if request is None or not self._may_join(request):
                break
            tokens += len(request.kept.ids)
            if self._filling and tokens > self.options.prefill_tokens:
                break
            error = self._reserve(request)
            if error is _WAIT:
                break
            with self._lock:
                if self._waiting and self._waiting[0] is request:
                    self._waiting.popleft()
            if isinstance(error, BaseException):
                self._fail([request], error)
                continue
            opened.extend(self._rows.open(request))
            self._filling.append(request)
        self._reuse.begin(opened)
        self.counters.most_rows = max(self.counters.most_rows, len(self._rows))

    def _may_join(self, request: Request) -> bool:
        others = [*self._running, *self._filling]
        if not others:
            return True
        if request.alone or any(other.alone for other in others):
            return False
        return len(self._rows) + request.rows_needed <= self._row_limit

    def _reserve(self, request: Request) -> object:
        """Make room for `request`: None when there is, _WAIT until others end, or the error it must fail with."""
        cache, others = self._cache, [*self._running, *self._filling]
        rows = len(self._rows) + request.rows_needed
        slots = max([request.slots, *(other.slots for other in others)])
        if rows <= cache.rows and slots <= cache.capacity:
            return None
        new_rows = max(cache.rows, doubled(rows, self._row_limit))
        new_slots = max(cache.capacity, doubled(slots, self.backbone.context_length))
        each = cache.bytes_per_slot
        if each and new_rows * (new_slots + 1) * each > self._budget():
            new_rows, new_slots = rows, slots  # exactly what is needed, nothing to spare
            needed = new_rows * (new_slots + 1) * each
            if needed > self._budget():
                if others:
                    return _WAIT
                return OutOfMemoryError(
                    f"The request needs {needed / 2**20:.0f} MiB of KV cache; the budget is "
                    f"{self._budget() / 2**20:.0f} MiB.",
                    hint="Lower max_tokens or shorten the prompt, or raise max_cache_bytes.",
                )
        try:
            cache.resize(new_rows, new_slots, len(self._rows), min(cache.capacity, new_slots))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if others:
                self._shrink(error)
                return _WAIT
            cache.drop()
            return no_room(error)
        return None

    def _budget(self) -> int:
        if self._byte_limit is None:
            self._byte_limit = max(free_bytes(self.backbone.device) // 2, 64 * 2**20)
        return self._byte_limit

    # -- the two kinds of forward -----------------------------------------------------------------------------------

    def _prefill(self) -> None:
        rows = self._rows.filling
        before = sum(row.length for row in rows)
        # With nobody streaming there is nobody to keep waiting: larger chunks, fewer forwards.
        budget = self.options.prefill_tokens * (1 if self._running else 4)
        with self._reuse.watching("prefill"):
            filled = self._stepper.prefill(rows, budget)
        self.counters.prefill_forwards += 1
        self.counters.prefilled_tokens += sum(row.length for row in rows) - before
        if not filled:
            return
        self._reuse.keep_soft(rows)
        group, requests = self._rows.settle(), self._filling
        self._filling = []
        self._running.extend(requests)
        logits = [row.logits for row in group]
        for row in group:
            row.logits = None
        self._stepper.read_gates(group)
        self._advance([request for request in requests if not request.opening], group, logits)

    def _decode(self) -> None:
        rows = list(self._rows.decoding)
        with self._reuse.watching("decode"):
            logits = self._stepper.decode(rows, [row.request.generated[-1] for row in rows])
        self.counters.decode_forwards += 1
        self.counters.decoded_rows += len(rows)
        self._advance(list(self._running), rows, list(logits))

    def _advance(self, requests: Sequence[Request], rows: Sequence[Row], logits: Sequence[torch.Tensor | None]) -> None:
        """Choose and hand out one token for each of `requests`, then free what ended."""
        found = {(id(row.request), row.side): scores for row, scores in zip(rows, logits) if scores is not None}
        kept = torch.stack([found[id(request), "kept"] for request in requests]) if requests else torch.empty(0)
        other = [found.get((id(request), "other")) if request.contrasting else None for request in requests]
        ended: list[Request] = []
        for request, token in zip(requests, choose(requests, kept, other) if requests else ()):
            try:
                if isinstance(token, Exception):
                    raise token
                if request.accept(token):
                    self.counters.finished += 1
                    ended.append(request)
            except Exception as error:
                self._fail([request], error)
        self._reuse.keep(self._rows.decoding, ended)
        self._forget(ended)
        self._rows.release_uncontrasted()
        self._stepper.read_gates(self._rows.decoding)
        self._open_gates()

    def _open_gates(self) -> None:
        """Requests whose gates have just opened start again under their method, with the reply so far, first."""
        opening = [request for request in self._running if request.opening]
        if not opening:
            return
        self._reuse.keep(self._rows.decoding, opening)
        with self._lock:  # in one go: nobody who closes the engine may find them nowhere
            self._forget(opening)
            for request in opening:
                request.open_gate()
                self.counters.gates_opened += 1
            self._waiting.extendleft(reversed(opening))

    # -- memory -----------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Forget every row, prefix and capture, and give their memory back: to others once the engine is closed, or to
        fewer rows where it ran out."""
        self._rows.clear()
        self._cache.drop()
        self._reuse.clear()
        give_back(self.backbone.device)

    def _shrink(self, error: BaseException) -> None:
        """Out of memory: forget prefixes, free the buffers, halve the row limit, and start what was running again.

        Nothing is lost: a request goes back to the queue with its reply so far, which is prefilled with its prompt.
        """
        self.counters.out_of_memory += 1
        back = [request for request in [*self._running, *self._filling] if not request.done]
        self._row_limit = max(2, len(self._rows) // 2)
        self._running, self._filling = [], []
        self._byte_limit = self.options.max_cache_bytes
        self._release()
        if len(back) == 1:
            self._fail(back, no_room(error))
            return
        with self._lock:
            self._waiting.extendleft(reversed(back))

    def _abandon(self, error: BaseException) -> None:
        """Fail everything: the loop itself broke, and nobody may wait for ever."""
        with self._lock:
            left = self._all()
            self._waiting.clear()
            self._thread = None
        self._running, self._filling = [], []
        self._rows.clear()
        self._cache.drop()
        for request in left:
            request.fail(error)

    def _start_anew(self) -> None:
        """In a forked child: the parent's thread, lock and requests are not ours."""
        self._lock = threading.Condition()
        self._thread = None
        self._waiting = deque()
        self._running, self._filling = [], []
        self._rows.clear()
        self._cache.drop()


_WAIT = object()
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _serve(engine: Engine) -> None:
    # inference_mode is thread-local: it is entered here, once, and never around a yield.
    with torch.inference_mode():
        try:
            while engine._round():
                pass
            if engine._closed:
                engine._release()  # nobody may have waited for this thread
        except BaseException as error:
            engine._abandon(error)
            raise


@atexit.register
def _close_all() -> None:
    """No engine thread may run while the interpreter takes torch apart."""
    for engine in list(_engines):
        engine.close(timeout=10.0)


def _after_fork() -> None:
    for engine in list(_engines):
        engine._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
