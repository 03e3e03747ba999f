"""Limits of one engine, and what it counted."""

from __future__ import annotations

from dataclasses import dataclass

from acd_core.engine.static import Decode


@dataclass(frozen=True)
class EngineOptions:
    """Limits of one engine.

    max_rows: rows in one forward (a contrasted request holds one a stream); fewer for a while after memory ran out.
    max_cache_bytes: KV buffers; None takes half of what is free at the first request, or the first after a rest, in
    which the buffers are given back. prefill_tokens: prompt tokens computed between two decode steps. prefix_bytes: the
    prefix store's budget, 0 switches it off. max_queue: waiting requests before QueueFullError. decode: how a decode
    step runs (see engine/static.py); "auto" takes CUDA graphs where the device and the model allow them.
    """

    max_rows: int = 64
    max_cache_bytes: int | None = None
    prefill_tokens: int = 1024
    prefix_bytes: int = 256 * 2**20
    max_queue: int = 4096
    decode: Decode = "auto"


@dataclass
class Counters:
    """What the engine did since it was made."""

    prefill_forwards: int = 0
    decode_forwards: int = 0
    decoded_rows: int = 0
    prefilled_tokens: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    most_rows: int = 0
    out_of_memory: int = 0
    gates_opened: int = 0
