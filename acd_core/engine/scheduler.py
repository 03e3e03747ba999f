"""The engine: one thread owns the model and its cache; any thread or event loop may submit.

Each round of the loop: 1) drop what was cancelled or is too late, 2) admit what fits, 3) one chunk of prefill, 4) one
decode step for every running row, 5) hand out tokens, 6) free the rows of what ended.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import deque

import torch

from acd_core.engine import faults
from acd_core.engine.options import EngineOptions
from acd_core.engine.prefix import PrefixStore
from acd_core.engine.request import Request
from acd_core.engine.rounds import Rounds
from acd_core.errors import (
    ContextLengthError,
    EngineClosedError,
    EngineError,
    QueueFullError,
    one_line,
)
from acd_core.locks import after_fork
from acd_core.model.backbone import Backbone

IDLE_SECONDS = 5.0
"""An engine thread without work ends after this long; the next request starts another."""
KEEP_SECONDS = 60.0
"""So long after that the KV buffers and the captures over them are given back: whoever reads a reply before he asks on
should not wait for new ones, which take some tenths of a second on a GPU."""
HOLD_SECONDS = 0.5
"""For so long it holds on to what it knows of the weights: an agent's next call comes sooner, and a model under LoRA
adapters takes 20 ms to be looked at anew."""
CLOSE_SECONDS = 30.0
"""`close` waits for the engine's thread as long as one round of its loop follows another within this time."""

_log = logging.getLogger("acd_core")


class Engine(Rounds):
    """Serves requests over one backbone. Nothing runs and nothing is allocated before the first `submit`."""

    def __init__(self, backbone: Backbone, options: EngineOptions | None = None) -> None:
        super().__init__(backbone, options)
        self._thread: threading.Thread | None = None
        self._resting: threading.Timer | None = None
        self._rounds = 0
        _engines.add(self)
        after_fork(self._start_anew)

    # -- any thread -------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue `request`; its sink hears the rest.

        Raises EngineClosedError, QueueFullError, ContextLengthError; ModelError or UsageError for ids or vectors that
        the model cannot embed; EngineError where no thread can be started.
        """
        limit = self.backbone.context_length
        if request.longest > limit:
            raise ContextLengthError(
                f"The prompt takes {request.longest - request.max_tokens} positions and {request.max_tokens} new "
                f"tokens were asked for, but the model's context holds {limit}.",
                hint="Shorten the conversation or lower max_tokens.",
            )
        faults.check_request(request, self.backbone, self._stepper.embeddable, self._stepper.logit_width)
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
                thread = threading.Thread(target=_serve, args=(self,), name="acd-engine", daemon=True)
                try:
                    thread.start()
                except Exception as error:  # too many threads, or an interpreter that is ending
                    self._waiting.pop()
                    raise EngineError(
                        f"The engine's thread cannot be started: {error}.",
                        hint="Raise the limit of processes and threads (ulimit -u), or end some; then ask again.",
                    ) from error
                self._thread = thread
                self._stay()
            self._lock.notify_all()

    def cancel(self, request: Request) -> None:
        """Ask for `request` to end; its rows are free within one step. Safe at any time, also twice."""
        with self._lock:
            request.cancelled = True
            self._lock.notify_all()

    def close(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """Stop serving: with `drain` once everything submitted is answered, else failing it with EngineClosedError.

        Returns after `timeout` seconds at the latest; None: once the engine's loop has not come round for CLOSE_SECONDS
        (a forward that hangs, a sink that blocks). What is unanswered then fails with EngineClosedError, a warning is
        logged, and the engine's thread gives its memory back if it ever goes on. A timeout of 0 does not wait at all.
        """
        with self._lock:
            self._closed, self._draining = True, drain
            thread = self._thread
            self._stay()
            self._lock.notify_all()
        if thread is not None and thread is not threading.current_thread() and not self._joined(thread, timeout):
            self._draining = False
            if timeout != 0:
                self._give_up()
        if self._thread is None:
            self._release()

    def _joined(self, thread: threading.Thread, timeout: float | None) -> bool:
        """Wait for `thread`; False if it has not ended in the time that `close` gives it."""
        going_on = True
        while going_on and thread.is_alive():
            rounds = self._rounds
            thread.join(CLOSE_SECONDS if timeout is None else timeout)
            going_on = timeout is None and self._rounds != rounds
        return not thread.is_alive()

    def _give_up(self) -> None:
        """The engine's thread hangs: tell those who wait, but for one whose sink is what it hangs in."""
        with self._lock:
            left = [request for request in self._all() if not request.done]
        _log.warning(
            "The engine of %r was closed, but its thread has not ended: a forward hangs, or a sink blocks. "
            "%d requests were left unanswered.",
            self.backbone.model_id,
            len(left),
        )
        for request in left:
            if not request.speaking:
                request.fail(EngineClosedError("The engine was closed while its thread hung."))

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
        self._rounds += 1
        with self._lock:
            if not self._all():
                for seconds in (HOLD_SECONDS, IDLE_SECONDS):
                    if self._lock.wait_for(lambda: self._closed or self._waiting, seconds):
                        break
                    self._reuse.rest()
                if not self._waiting:
                    self._thread = None
                    self._rest_later()
                    return False
        self._drop_ended()
        self._admit()
        if self._filling:
            self._guarded(self._prefill, self._filling)
        if self._running:
            self._guarded(self._decode, self._running)
        return True

    def _rest_later(self) -> None:
        """Have the memory given back, unless somebody asks until then. Nobody is kept alive for it, and one thread at
        most waits. Where the engine is closed, that gives it back."""
        self._stay()
        if self._closed:
            return
        timer = threading.Timer(KEEP_SECONDS, _rest_now, (weakref.ref(self), self._rounds))
        timer.daemon, timer.name = True, "acd-engine-rest"
        try:
            timer.start()
        except RuntimeError:  # too many threads, or an interpreter that is ending
            self._rest()
        else:
            self._resting = timer

    def _stay(self) -> None:
        """No rest is due any more: whoever waited for it ends."""
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None

    def _abandon(self, error: BaseException) -> None:
        """Fail everything: the loop itself broke, and nobody may wait for ever. The next request starts a new one."""
        told = EngineError(f"The engine's thread ended with {type(error).__name__}: {one_line(error, 160)}")
        told.__cause__ = error
        _log.error("The engine's thread ended; the next request starts a new one.", exc_info=error)
        left = self._all()
        self._running, self._filling = [], []
        try:
            self._release()
        except BaseException:
            _log.exception("What the engine held could not be freed.")
        with self._lock:
            left += [request for request in self._waiting if all(request is not each for each in left)]
            self._waiting.clear()
            self._thread = None
        for request in left:
            try:
                self.counters.failed += not request.done
                request.fail(told)
            except BaseException:
                _log.exception("A request could not be told that the engine's thread ended.")

    def _start_anew(self) -> None:
        """In a forked child: the parent's thread, lock and requests are not ours. Its thread may have been anywhere:
        what it was writing to is dropped, known prefixes too."""
        self._lock = threading.Condition()
        self._thread = self._resting = None
        self._waiting = deque()
        self._running, self._filling = [], []
        self._rows.clear()
        self._cache.drop()
        self._reuse.prefixes.clear()
        self._reuse.rest()
        self._stepper.isolating = False


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


def _rest_now(engine: weakref.ref[Engine], rounds: int) -> None:
    known = engine()
    if known is not None:
        with known._lock, torch.inference_mode():
            if known._thread is None and known._rounds == rounds:
                known._rest()


@atexit.register
def _close_all() -> None:
    """No engine thread may run while the interpreter takes torch apart."""
    for engine in list(_engines):
        engine.close(timeout=10.0)
