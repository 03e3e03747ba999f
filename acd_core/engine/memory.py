"""How much room there is, and what running out of it looks like."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from acd_core.engine.cache import SlotCache
from acd_core.engine.options import EngineOptions
from acd_core.errors import OutOfMemoryError, one_line
from acd_core.model.backbone import Backbone

PATIENCE, MOST_PATIENCE = 16, 4096
"""Forwards without running out of memory after which more rows are tried again: at first, and at most."""


class Room:
    """How many rows and how many bytes of cache one engine may take now. Lives on the engine thread.

    rows: the limit. It halves when memory runs out and doubles after a number of forwards that went well, which itself
    doubles where memory runs out again before all is as it was: what passes is forgotten soon, what stays is not tried
    at every turn.
    """

    def __init__(self, backbone: Backbone, cache: SlotCache, options: EngineOptions) -> None:
        self._backbone = backbone
        self._cache = cache
        self._options = options
        self.rows = options.max_rows
        self._bytes = options.max_cache_bytes
        self._patience = PATIENCE
        self._quiet = 0
        self._lowered = False  # whether the limit was lowered, and has not been whole again for a while
        if not cache.expected_bytes:  # a trial has seen it
            cache.expected_bytes = bytes_by_config(backbone.config, backbone.dtype)

    @property
    def bytes(self) -> int:
        """The budget of the KV buffers; where the options leave it open, half of what was free when it was asked for
        first, since the engine last held nothing."""
        if self._bytes is None:
            self._bytes = max(free_bytes(self._backbone.device) // 2, 64 * 2**20)
        return self._bytes

    def measure_again(self) -> None:
        """The engine holds nothing now: the next budget is that of the next request."""
        self._bytes = self._options.max_cache_bytes

    def ran_out(self, rows: int, requests: int) -> None:
        """Memory ran out with so many rows, of so many requests. One request that is too large says nothing of rows.
        What does not fit beside another one waits for it: a request alone may always join, however many rows it has."""
        self.measure_again()
        if requests > 1:
            again = self._lowered
            self._quiet, self._lowered = 0, True
            self._patience = min(2 * self._patience, MOST_PATIENCE) if again else PATIENCE
            self.rows = max(1, rows // 2)

    def went_well(self) -> None:
        """A forward was run and did not run out of memory."""
        self._quiet += 1
        if self._quiet < self._patience:
            return
        self._quiet = 0
        if self.rows >= self._options.max_rows:
            self._lowered = False
        else:
            self.rows = min(self._options.max_rows, 2 * self.rows)

    def take(self, rows: int, slots: int, used: int, *, alone: bool) -> bool:
        """Make the cache hold `rows` x `slots`, keeping the first `used` rows. False: not before others have ended.

        Raises OutOfMemoryError where the budget does not even hold it alone, and whatever the device raises.
        """
        cache = self._cache
        if rows <= cache.rows and slots <= cache.capacity:
            return True
        new_rows = max(cache.rows, doubled(rows, self.rows))
        new_slots = max(cache.capacity, doubled(slots, self._backbone.context_length))
        each = cache.bytes_per_slot
        if each and new_rows * (new_slots + 1) * each > self.bytes:
            new_rows, new_slots = rows, slots  # exactly what is needed, nothing to spare
            needed = new_rows * (new_slots + 1) * each
            if needed > self.bytes:
                if not alone:
                    return False
                raise OutOfMemoryError(
                    f"The request needs {needed / 2**20:.2f} MiB of KV cache; the budget is "
                    f"{self.bytes / 2**20:.2f} MiB.",
                    hint="Lower max_tokens or shorten the prompt, or raise max_cache_bytes.",
                )
        cache.resize(new_rows, new_slots, used, min(cache.capacity, new_slots))
        return True


def bytes_by_config(config: Any, dtype: torch.dtype) -> int:
    """Bytes of one token of one row over all layers, as a model's config has it; 0 where it does not say enough."""
    layers, heads = (int(getattr(config, name, 0) or 0) for name in ("num_hidden_layers", "num_attention_heads"))
    width = int(getattr(config, "hidden_size", 0) or 0)
    if not layers or not heads:
        return 0
    size = int(getattr(config, "head_dim", 0) or width // heads)
    kept = int(getattr(config, "num_key_value_heads", 0) or heads)
    return 2 * layers * kept * size * dtype.itemsize


def no_room(error: BaseException) -> OutOfMemoryError:
    """The error of a request that does not even fit alone."""
    return OutOfMemoryError(
        f"The device has no room for this request alone: {one_line(error, 160)}",
        hint="Lower max_tokens, shorten the prompt, or load the model in a smaller dtype.",
    )


def doubled(needed: int, limit: int) -> int:
    """`needed` rounded up to a power of two, but no further than `limit`."""
    size = 16
    while size < needed:
        size *= 2
    return max(needed, min(size, limit))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that host or device memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def give_back(device: torch.device) -> None:
    """Let others have what the allocator keeps of memory that nothing uses any more. Call it where the error that said
    so is gone: while it is handled, its frames still hold what they held."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):  # a device that failed, or one that captures for somebody else
            torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Bytes free on `device` right now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 * 2**30
