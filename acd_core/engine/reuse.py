"""What the engine computes once and uses again, for as long as the model's weights stay what they were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Union

from acd_core.engine.cache import SlotCache, are_finite
from acd_core.engine.gates import readings_of, take_readings
from acd_core.engine.prefix import PrefixStore, Readings
from acd_core.engine.request import Request
from acd_core.engine.rows import Row
from acd_core.engine.static import StaticDecoder
from acd_core.model.backbone import Backbone
from acd_core.model.weight_state import State, WeightState

_Found = tuple[Row, Sequence[int], Union[Readings, None], Union[str, None]]
"""A row, its leading tokens, readings of them, and the space in which they may be found."""


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
        self._switches = 0

    def watching(self, kind: str) -> AbstractContextManager[None]:
        """Around each forward of this kind: the first few tell which of the model's settings count its own forwards."""
        return nullcontext() if self._unlooked else self._weights.watching_a_forward(kind)

    def begin(self, rows: Sequence[Row]) -> None:
        """Start new rows from what is known of them."""
        if not rows:
            return
        switches = self._look()
        for row in rows:
            row.weights = switches
            self._take(row)

    def keep_soft(self, rows: Sequence[Row]) -> None:
        """Save the keys and values up to the end of each new soft prompt: every later request starts with them.
        Everybody's, where nothing that a caller wrote stands in front of it."""
        soft = [(row, row.branch.soft_at + len(row.branch.soft)) for row in rows if row.branch.soft is not None]
        self._save(
            (row, row.branch.ids[:end], None, None if row.request.asked.bare_head else row.request.asked.space)
            for row, end in soft
        )

    def keep(self, rows: Sequence[Row], ended: Collection[Request]) -> None:
        """Save those of `rows` whose conversations are finished: an agent's next turn starts with them."""
        if ended:
            finished = {id(request) for request in ended}
            kept = [row for row in rows if id(row.request) in finished]
            self._save((row, row.ids[: row.length], readings_of(row), row.request.asked.space) for row in kept)

    def rest(self) -> None:
        """Hold no weights while nothing is asked for: their owner may free or move them."""
        self._weights.forget()

    def forget_captures(self) -> None:
        """Drop what was captured for buffers that go."""
        if self._static is not None:
            self._static.forget()

    def clear(self) -> None:
        """Forget everything."""
        self.prefixes.clear()
        self._weights.forget()
        self.forget_captures()

    @property
    def _unlooked(self) -> bool:
        """Whether nothing is used again that could be wrong."""
        return not self.prefixes.max_bytes and self._static is None

    def _look(self) -> int | None:
        """How often the weights were seen to change or switch; what belongs to others is out of reach from here on."""
        if self._unlooked:
            return None
        state = self._weights.current()
        if state != self._state:
            self._state = state
            self._switches += 1
            self.prefixes.under(state)
            if self._static is not None:
                self._static.forget()  # a capture holds addresses, and the way through the adapters of its time
        return self._switches

    def _save(self, found: Iterable[_Found]) -> None:
        """Keep what the cache holds of leading tokens of rows, with readings of them, if the weights are still those
        that the rows were opened under. Looking at the weights takes time: only where something is new."""
        room = self.prefixes.max_bytes
        if not room:
            return
        each = self._cache.bytes_per_slot
        new = [item for item in found if len(item[1]) * each <= room and not self._kept(*item)]
        if not new:
            return
        switches = self._look()
        for row, ids, readings, space in new:
            if row.weights != switches:
                continue
            entry = self.prefixes.holding(ids, space, row.branch.under)
            if entry is None:
                saved = self._cache.save(row.slot, len(ids))
                if are_finite(saved):  # else it would spoil every request that starts with it
                    self.prefixes.add(ids, saved, readings, space, row.branch.under)
            elif entry.readings is None:
                entry.readings = readings

    def _kept(self, row: Row, ids: Sequence[int], readings: Readings | None, space: str | None) -> bool:
        entry = self.prefixes.holding(ids, space, row.branch.under)
        return entry is not None and (readings is None or entry.readings is not None)

    def _take(self, row: Row) -> None:
        """Copy the longest known prefix into `row`, leaving at least one token to compute."""
        if not self.prefixes.max_bytes or not self._cache.slots:
            return
        known, saved, readings = self.prefixes.longest(ids := row.ids, row.request.asked.space, row.branch.under)
        known = take_readings(row, min(known, len(ids) - 1), readings)
        if saved is None or known <= 0:
            return
        row.reach = known
        self._cache.load(row.slot, saved, known)
        row.length = known
        if row.is_kept and not row.request.generated and not row.request.opened:  # what was sent, and no more
            row.request.cached_tokens = sum(1 for token in ids[:known] if token >= 0)
        self.prefixes.reused_tokens += known
