"""The KV cache of all running rows: one buffer a layer, rows of different lengths, compacted at the front.

Slots equal positions: token number p of a row is written to slot p. One slot behind the capacity is trash, where
left-padding writes. Masks are ready-made 4D tensors, one per kind of layer.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of one row, per layer: two tensors [heads, tokens, head_dim]."""


class _Step:
    """Where the current forward writes and reads: rows low..high, positions [rows, tokens], window."""

    def __init__(self) -> None:
        self.low = 0
        self.high = 0
        self.window = 0
        self.rows: torch.Tensor | None = None
        self.positions: torch.Tensor | None = None
        self.column: int | None = None  # the one column all rows write, when there is just one


class SlotLayer(CacheLayerMixin):
    """Keys and values [rows, heads, capacity + 1, head_dim] of one attention layer."""

    is_sliding = False

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner

    @property
    def buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The two buffers, [rows, heads, capacity + 1, head_dim] each."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, capacity = self.owner.rows, self.owner.capacity

        def buffer(like: torch.Tensor) -> torch.Tensor:
            # Zeros, not empty: a masked slot must hold finite values, since 0 * NaN is NaN.
            return like.new_zeros((rows, like.shape[1], capacity + 1, like.shape[3]))

        self.keys, self.values = buffer(key_states), buffer(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = self.owner.step
        keys, values = self.buffers
        if step.column is not None:
            keys[step.low : step.high, :, step.column : step.column + 1] = key_states
            values[step.low : step.high, :, step.column : step.column + 1] = value_states
        else:
            assert step.rows is not None
            assert step.positions is not None
            rows, positions = step.rows.to(keys.device), step.positions.to(keys.device)
            keys[rows, :, positions] = key_states.transpose(1, 2)
            values[rows, :, positions] = value_states.transpose(1, 2)
        reach = slice(step.low, step.high), slice(None), slice(0, step.window)
        return keys[reach], values[reach]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.owner.step.window, 0

    def get_seq_length(self) -> int:
        # Read only by code that derives positions itself; the engine always passes position_ids.
        return self.owner.step.window

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """One SlotLayer a model layer, made when the model first writes to it."""

    def __init__(self) -> None:
        self.step = _Step()
        self.rows = 0
        self.capacity = 0
        self.expected_bytes = 0  # of a slot, as long as no forward has shown it
        self.complete = False  # whether a forward went through, so that all layers are there
        super().__init__(layer_class_to_replicate=lambda: SlotLayer(self))  # type: ignore[arg-type]

    @property
    def slots(self) -> list[SlotLayer]:
        """The layers written to so far, without those that share another layer's keys and values."""
        return [layer for layer in cast("list[SlotLayer]", self.layers) if layer.is_initialized]

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one token of one row over all layers; `expected_bytes` before the first forward."""
        total = 0
        for layer in self.slots:
            for tensor in layer.buffers:
                total += int(tensor.shape[1] * tensor.shape[3] * tensor.element_size())
        if self.complete and total:
            self.expected_bytes = total
        return self.expected_bytes

    def resize(self, rows: int, capacity: int, used_rows: int, used_slots: int) -> None:
        """New buffers of `rows` x `capacity`, keeping the first `used_rows` rows and `used_slots` slots."""
        self.rows, self.capacity = rows, capacity
        for layer in self.slots:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                new = old.new_zeros((rows, old.shape[1], capacity + 1, old.shape[3]))
                keep = slice(0, used_rows), slice(None), slice(0, used_slots)
                new[keep] = old[keep]
                setattr(layer, name, new)

    def begin(
        self,
        low: int,
        high: int,
        positions: torch.Tensor,
        window: int,
        column: int | None,
        rows: torch.Tensor | None = None,
    ) -> None:
        """Say where the next forward writes. positions: [high - low, tokens] int64, `capacity` for padding. rows: the
        same rows as int64 [high - low, 1], for a caller that keeps them (a captured graph reads them at one address).
        """
        step = self.step
        step.low, step.high, step.window, step.column = low, high, window, column
        step.positions = positions
        given = torch.arange(low, high, device=positions.device)[:, None] if rows is None else rows
        step.rows = given.expand_as(positions)

    def copy_row(self, source: int, target: int, length: int) -> None:
        for layer in self.slots:
            for buffer in layer.buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def wipe(self, row: int, start: int, stop: int) -> None:
        """Zero the slots start..stop-1 of `row`. What is masked is multiplied by 0 all the same, and 0 * inf is NaN."""
        if start < stop:
            for layer in self.slots:
                for buffer in layer.buffers:
                    buffer[row, :, start:stop] = 0

    def empty(self) -> None:
        """Give back the buffers' memory; the layers stay, so that saved rows can be loaded after the next `resize`."""
        self.resize(0, 0, 0, 0)

    def load(self, row: int, kept: KeyValues, length: int) -> None:
        """Write the first `length` tokens of a saved row into `row`. Layers must exist (a forward has run)."""
        for layer, saved in zip(self.slots, kept):
            for buffer, part in zip(layer.buffers, saved):
                buffer[row, :, :length] = part[:, :length]

    def save(self, row: int, length: int) -> KeyValues:
        """A copy of the first `length` tokens of `row`."""
        return [
            (keys[row, :, :length].clone(), values[row, :, :length].clone())
            for keys, values in (layer.buffers for layer in self.slots)
        ]

    def drop(self) -> None:
        """Free every buffer."""
        self.layers = []
        self.rows = self.capacity = 0
        self.complete = False


def are_finite(kept: KeyValues) -> bool:
    """Whether every number in a saved row is finite: one copy off the device. An infinite key need not show in any
    logit of its own row, and would in those of another that starts with it."""
    sums = [part.sum(dtype=torch.float32) for pair in kept for part in pair]
    return all(map(math.isfinite, torch.stack([each.to(sums[0].device) for each in sums]).tolist())) if sums else True


class MaskBuilder:
    """The additive masks a model's forward takes: one tensor, or a dict by layer type where layers differ."""

    def __init__(self, config: Any) -> None:
        types = [str(kind) for kind in getattr(config, "layer_types", None) or []]
        self.kinds: tuple[str, ...] = tuple(sorted(set(types)))
        self.sliding_window: int | None = getattr(config, "sliding_window", None)
        if getattr(config, "use_sliding_window", True) is False:
            self.sliding_window = None
        self.by_type = "sliding_attention" in self.kinds

    def unsupported(self) -> str | None:
        """Why this engine cannot serve the model's attention, or None."""
        known = {"full_attention", "sliding_attention"}
        odd = [kind for kind in self.kinds if kind not in known]
        return f"layers of type {', '.join(odd)}" if odd else None

    def build(self, positions: torch.Tensor, window: int, dtype: torch.dtype) -> torch.Tensor | dict[str, torch.Tensor]:
        """positions [rows, tokens] int64 (0 for padding) -> additive [rows, 1, tokens, window] in `dtype`.

        Additive, because eager attention (Gemma 2's default) adds the mask: a boolean one would be silently wrong.
        """
        columns = torch.arange(window, device=positions.device)
        query = positions[:, None, :, None]
        full = columns <= query
        if self.by_type:
            sliding = full & (columns > query - int(self.sliding_window or 0))
            return {kind: _additive(sliding if kind == "sliding_attention" else full, dtype) for kind in self.kinds}
        if self.sliding_window is not None and not self.kinds:
            full = full & (columns > query - int(self.sliding_window))
        return _additive(full, dtype)


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, torch.finfo(dtype).min)
