"""What happens in a round of the engine's loop: who leaves, who joins, the two kinds of forward, short memory."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

import torch

from acd_core.engine import faults
from acd_core.engine.cache import SlotCache
from acd_core.engine.choosing import choose
from acd_core.engine.memory import Room, give_back, is_out_of_memory, no_room
from acd_core.engine.options import Counters, EngineOptions
from acd_core.engine.request import Request
from acd_core.engine.reuse import Reuse
from acd_core.engine.rows import Row, RowTable
from acd_core.engine.step import Stepper
from acd_core.errors import DeadlineError, EngineClosedError, ModelError, OutOfMemoryError
from acd_core.model.backbone import Backbone

_log = logging.getLogger("acd_core")


class Rounds:
    """The state of an engine and the parts of a round. All but `__init__` runs on the engine's thread."""

    def __init__(self, backbone: Backbone, options: EngineOptions | None = None) -> None:
        self.backbone = backbone
        self.options = options or EngineOptions()
        self.counters = Counters()
        self._cache = SlotCache()
        self._stepper = Stepper(backbone, self._cache, self.options.decode)
        self._reuse = Reuse(backbone, self._cache, self._stepper.static, self.options.prefix_bytes)
        self._rows = RowTable(self._cache)
        self._room = Room(backbone, self._cache, self.options)
        self._running: list[Request] = []
        self._filling: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._lock = threading.Condition()
        self._closed = False
        self._draining = False

    def _all(self) -> list[Request]:
        return [*self._waiting, *self._filling, *self._running]

    def _guarded(self, work: Callable[[], None], involved: Sequence[Request]) -> None:
        """Run one forward's work; its failure fails the requests in it and no others."""
        involved = list(involved)
        ran_out: OutOfMemoryError | None = None
        try:
            work()
        except Exception as error:
            if is_out_of_memory(error):
                ran_out = no_room(error)
            else:
                self._fail(involved, error)
        if ran_out is not None:  # here the frames that held memory are gone
            self._shrink(ran_out)

    def _fail_each(self, guilty: Sequence[tuple[Request, Exception]]) -> None:
        for request, error in guilty:
            self._fail([request], error)

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
            closed = self._closed and not self._draining
            ended = [each for each in self._all() if closed or each.cancelled or each.done or each.expired()]
            if not ended:
                return
            gone = {id(request) for request in ended}
            self._waiting = deque(request for request in self._waiting if id(request) not in gone)
        for request in ended:
            if closed or request.cancelled or request.done:
                self.counters.cancelled += 1
                request.fail(EngineClosedError("The engine was closed." if closed else "The request was cancelled."))
            else:
                self._fail([request], _too_late())
        self._forget(ended)

    # -- admission --------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Move waiting requests into a new prefill group, in order, while rows, cache bytes and tokens allow."""
        if self._filling:
            return
        tokens = 0
        while True:
            with self._lock:
                request = self._waiting[0] if self._waiting else None
            if request is None or not self._may_join(request):
                break
            tokens += len(request.kept.ids)
            if self._filling and tokens > self.options.prefill_tokens:
                break
            try:
                if not self._reserve(request):
                    break
                self._rows.open(request)
                with self._lock:  # at no moment is it nowhere, where nobody would answer it
                    self._waiting.popleft()
                    self._filling.append(request)
            except Exception as error:
                with self._lock:
                    self._waiting = deque(each for each in self._waiting if each is not request)
                self._fail([request], error)
        self.counters.most_rows = max(self.counters.most_rows, len(self._rows))
        if self._filling:
            self._guarded(self._begin, self._filling)

    def _begin(self) -> None:
        """Start the new group from what is known of its prompts."""
        self._fail_each(
            faults.isolate_failures(
                self._filling, lambda part: self._reuse.begin(self._rows_of(part, self._rows.filling))
            )
        )

    @staticmethod
    def _rows_of(requests: Sequence[Request], rows: Sequence[Row]) -> list[Row]:
        wanted = {id(request) for request in requests}
        return [row for row in rows if id(row.request) in wanted]

    def _may_join(self, request: Request) -> bool:
        others = [*self._running, *self._filling]
        if not others:
            return True
        if request.asked.alone or any(other.asked.alone for other in others):
            return False
        return len(self._rows) + request.rows_needed <= self._room.rows

    def _reserve(self, request: Request) -> bool:
        """Make room for `request`; False: not until others end. Raises what the request must fail with."""
        others = [*self._running, *self._filling]
        rows = len(self._rows) + request.rows_needed
        slots = max([request.slots, *(other.slots for other in others)])
        ran_out: OutOfMemoryError | None = None
        try:
            return self._room.take(rows, slots, len(self._rows), alone=not others)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            ran_out = no_room(error)
        if others:
            self._shrink(ran_out, joining=True)
            return False
        self._cache.drop()
        raise ran_out

    # -- the two kinds of forward -----------------------------------------------------------------------------------

    def _prefill(self) -> None:
        # With nobody streaming there is nobody to keep waiting: larger chunks, fewer forwards.
        budget = self.options.prefill_tokens * (1 if self._running else 4)

        def fill(part: Sequence[Request]) -> None:
            rows = self._rows_of(part, self._rows.filling)
            before = sum(row.length for row in rows)
            try:
                with self._reuse.watching("prefill"):
                    self._stepper.prefill(rows, budget)
            except Exception:
                for row in rows:  # some layers were written to, behind what the rows hold
                    self._rows.wipe(row, row.length)
                raise
            self._room.went_well()
            self.counters.prefill_forwards += 1
            self.counters.prefilled_tokens += sum(row.length for row in rows) - before

        self._fail_each(faults.isolate_failures(self._filling, fill))
        if not self._filling or any(row.length < len(row.ids) for row in self._rows.filling):
            return
        self._reuse.keep_soft(self._rows.filling)
        group, requests = self._rows.settle(), self._filling
        self._filling = []
        self._running.extend(requests)
        logits = [row.logits for row in group]
        for row in group:
            row.logits = None
        self._read_gates(group)
        self._advance([request for request in requests if not request.opening], group, logits)

    def _decode(self) -> None:
        rows = list(self._rows.decoding)
        logits: dict[int, torch.Tensor] = {}

        def step(part: Sequence[Row]) -> None:
            self._stepper.isolating = len(part) < len(rows)
            with self._reuse.watching("decode"):
                found = self._stepper.decode(part, [row.request.generated[-1] for row in part])
            logits.update(zip(map(id, part), found))
            self._room.went_well()
            self.counters.decode_forwards += 1
            self.counters.decoded_rows += len(part)

        try:
            guilty = faults.isolate_failures(rows, step)
        finally:
            self._stepper.isolating = False
        self._fail_each([(row.request, error) for row, error in guilty])
        done = [row for row in rows if not row.request.done]
        self._advance(list(self._running), done, [logits[id(row)] for row in done])

    def _read_gates(self, rows: Sequence[Row]) -> None:
        self._fail_each([(row.request, error) for row, error in self._stepper.read_gates(rows)])

    def _advance(self, requests: Sequence[Request], rows: Sequence[Row], logits: Sequence[torch.Tensor | None]) -> None:
        """Choose and hand out one token for each of `requests`, then free what ended."""
        self._fail_each([(request, _too_late()) for request in requests if request.expired()])
        requests = [request for request in requests if not request.done]
        found: dict[int, list[tuple[torch.Tensor, int]]] = {id(request): [] for request in requests}
        for row, scores in sorted(zip(rows, logits), key=lambda pair: pair[0].side):
            if scores is not None and id(row.request) in found and (row.is_kept or row.request.contrasting):
                found[id(row.request)].append((scores, row.slot))
        kept = [found[id(request)][0][0] for request in requests]
        others = [[scores for scores, _ in found[id(request)][1:]] for request in requests]
        places = [[slot for _, slot in found[id(request)]] for request in requests]
        ended: list[Request] = []
        for request, token in zip(requests, choose(requests, torch.stack(kept), others, places) if requests else ()):
            try:
                if isinstance(token, Exception):
                    raise token
                if request.accept(token):
                    self.counters.finished += 1
                    ended.append(request)
                elif token >= self._stepper.embeddable:
                    raise _unembeddable(token, self._stepper.embeddable)
            except Exception as error:
                if request.done:
                    _log.warning("A reply was lost: its sink raised %r.", error)
                self._fail([request], error)
        self._reuse.keep(self._rows.decoding, ended)
        self._forget(ended)
        self._rows.release_uncontrasted()
        self._read_gates(self._rows.decoding)
        self._open_gates()

    def _open_gates(self) -> None:
        """Requests whose gates have just opened start again under their method, with the reply so far, first."""
        opening = [request for request in self._running if request.opening]
        if not opening:
            return
        self._reuse.keep(self._rows.decoding, opening)
        self._rows.release(opening)
        for request in opening:
            try:
                request.open_gate()
                self.counters.gates_opened += 1
            except Exception as error:  # its sink's
                self._fail([request], error)
        with self._lock:  # in one go: nobody who closes the engine may find them nowhere
            self._forget(opening)
            self._waiting.extendleft(request for request in reversed(opening) if not request.done)

    # -- memory -----------------------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Forget every row, prefix and capture, and give their memory back: to others once the engine is closed, or to
        fewer rows where it ran out."""
        self._rows.clear()
        self._cache.drop()
        self._reuse.clear()
        give_back(self.backbone.device)

    def _rest(self) -> None:
        """Nothing was asked for in a while: hold no KV buffers and no captures over them, only known prefixes."""
        self._cache.empty()
        self._reuse.forget_captures()
        self._room.measure_again()
        give_back(self.backbone.device)

    def _shrink(self, error: OutOfMemoryError, *, joining: bool = False) -> None:
        """Out of memory: forget prefixes, free the buffers, halve the row limit, and start what was running again.

        Nothing is lost: a request goes back to the queue with its reply so far, which is prefilled with its prompt.
        Only one that was alone fails with `error`. joining: whether it was another one that found no room beside them.
        """
        self.counters.out_of_memory += 1
        back = [request for request in [*self._running, *self._filling] if not request.done]
        alone = len(back) == 1 and not joining
        self._room.ran_out(len(self._rows), len(back) + joining)
        with self._lock:
            self._running, self._filling = [], []
            self._waiting.extendleft(reversed([] if alone else back))
        if alone:
            self._fail(back, error)
        self._release()


def _too_late() -> DeadlineError:
    return DeadlineError("The request's deadline passed.", hint="Raise deadline_s.")


def _unembeddable(token: int, rows: int) -> ModelError:
    return ModelError(
        f"The model chose the token {token}, but embeds only the ids below {rows}: the reply cannot go on.",
        hint="Its output layer is wider than its embedding: see acd doctor --model M.",
    )
