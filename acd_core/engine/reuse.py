"""What the engine computes once and uses again, for as long as the model's weights stay what they were."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext

from acd_core.backbone import Backbone
from acd_core.engine.cache import SlotCache
from acd_core.engine.gates import readings_of, take_readings
from acd_core.engine.prefix import PrefixStore
from acd_core.engine.request import Request
from acd_core.engine.rows import Row
from acd_core.engine.static import StaticDecoder
from acd_core.weight_state import State, WeightState


class Reuse:
    """Known prefixes and captured steps, each under the state of the weights it was computed with.

    The state is read when rows are opened and when they are saved: a row whose weights changed on the way is not kept.
    """

    def __init__(self, backbone: Backbone, cache: SlotCache, static: StaticDecoder | None, max_bytes: int) -> None:
        self.prefixes = PrefixStore(max_bytes)
        self._cache = cache
        self._static = static
        self._weights = WeightState(backbone.model)
        self._state: State | None = None
        self._unwatched = {"prefill": 3, "decode": 2}

    def watching(self, kind: str) -> AbstractContextManager[None]:
        """Around each forward of this kind: the first few tell which of the model's settings count its own forwards."""
        left = self._unwatched.get(kind, 0)
        if not left or self._unlooked:
            return nullcontext()
        self._unwatched[kind] = left - 1
        return self._weights.watching_a_forward()

    def begin(self, rows: Sequence[Row]) -> None:
        """Start new rows from what is known of them."""
        if not rows:
            return
        state = self._now()
        for row in rows:
            row.weights = state
            self._take(row)

    def keep_soft(self, rows: Sequence[Row]) -> None:
        """Save the keys and values up to the end of each new soft prompt: every later request starts with them."""
        if not self.prefixes.max_bytes:
            return
        for row in rows:
            soft = row.branch.soft
            if soft is not None:
                start = row.branch.ids[: row.branch.soft_at + int(soft.shape[0])]
                if not self.prefixes.covers(start) and row.weights == self._now():
                    self.prefixes.add(start, self._cache.save(row.slot, len(start)))

    def keep(self, rows: Sequence[Row], ended: Collection[Request]) -> None:
        """Save those of `rows` whose conversations are finished: an agent's next turn starts with them."""
        if not self.prefixes.max_bytes or not ended:
            return
        finished = {id(request) for request in ended}
        state = self._now()
        for row in rows:
            if id(row.request) not in finished or row.weights != state:
                continue
            ids, readings = row.ids[: row.length], readings_of(row)
            if not self.prefixes.covers(ids, readings):
                self.prefixes.add(ids, self._cache.save(row.slot, row.length), readings)

    def clear(self) -> None:
        """Forget everything."""
        self.prefixes.clear()
        if self._static is not None:
            self._static.forget()

    @property
    def _unlooked(self) -> bool:
        """Whether nothing is used again that could be wrong."""
        return not self.prefixes.max_bytes and self._static is None

    def _now(self) -> State | None:
        """The state of the weights; what belongs to another is out of reach from here on."""
        if self._unlooked:
            return None
        state = self._weights.current()
        if state != self._state:
            self._state = state
            self.prefixes.under(state)
            if self._static is not None:
                self._static.forget()  # a capture holds addresses, and the way through the adapters of its time
        return state

    def _take(self, row: Row) -> None:
        """Copy the longest known prefix into `row`, leaving at least one token to compute."""
        if not self.prefixes.max_bytes or not self._cache.layers:
            return
        known, saved, readings = self.prefixes.longest(ids := row.ids)
        known = take_readings(row, min(known, len(ids) - 1), readings)
        if saved is None or known <= 0:
            return
        self._cache.load(row.slot, saved, known)
        row.length = known
        if row.side == "kept" and not row.request.generated and not row.request.opened:  # what was sent, and no more
            row.request.cached_tokens = sum(1 for token in ids[:known] if token >= 0)
        self.prefixes.reused_tokens += known
