"""The decode step at fixed shapes: the same buffers, addresses and sizes at every step, so that a GPU can replay it.

A small model's decode step on a GPU waits for the CPU to launch some hundred kernels, twice the work of the kernels
themselves; a CUDA graph launches them all at once. What is captured must not change shape: rows are rounded up to a
power of two (rows that nobody owns write to the trash slot and are cut off), the attention window as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from acd_core.engine.cache import MaskBuilder, SlotCache
from acd_core.errors import one_line
from acd_core.model.backbone import Backbone, devices_of

Decode = Literal["auto", "eager", "static", "graphs"]
"""How the decode step runs. eager: shapes as they come. static: fixed shapes, launched one kernel after the other.
graphs: fixed shapes, captured as CUDA graphs. auto: see `chosen`."""

LEAST_WINDOW = 256
WARM_UP = 3


def chosen(asked: Decode, backbone: Backbone) -> tuple[Decode, str]:
    """The mode that `asked` comes to on this backbone, with the reason; `acd doctor` shows both."""
    if asked != "auto":
        if asked == "graphs" and backbone.device.type != "cuda":
            return "static", f"graphs were asked for, but CUDA graphs need a CUDA device, not {backbone.device.type}"
        return asked, "asked for"
    if backbone.device.type != "cuda":
        return "eager", f"on {backbone.device.type} a step is bound by its arithmetic, not by launches"
    devices = devices_of(backbone.model)
    if len(devices) > 1:
        return "eager", f"the model is spread over {len(devices)} devices, and a CUDA graph holds one"
    if getattr(backbone.model, "is_quantized", False) or getattr(backbone.model, "quantization_method", None):
        return "eager", "the model is quantised, and its kernels may allocate while they run"
    if any(getattr(backbone.config, name, None) for name in ("num_experts", "num_local_experts")):
        return "eager", "experts are picked by data-dependent shapes, which no CUDA graph holds"
    return "graphs", "a decode step on a GPU is bound by kernel launches; CUDA graphs launch it at once"


@dataclass
class _Shape:
    """One captured shape: what goes in, what runs, where the logits come out."""

    slots: torch.Tensor
    tokens: torch.Tensor
    positions: torch.Tensor
    write: torch.Tensor
    run: Callable[[], torch.Tensor]


class StaticDecoder:
    """Runs decode steps at fixed shapes. A capture that fails is told in `failure`, and `mode` becomes "static".

    Lives on the engine thread, under inference mode. The cache's buffers are part of a capture: it goes when they move.
    """

    def __init__(
        self,
        backbone: Backbone,
        cache: SlotCache,
        masks: MaskBuilder,
        mode: Decode,
    ) -> None:
        self.backbone = backbone
        self.cache = cache
        self.masks = masks
        self.mode = mode
        self.steps = 0
        self.failure: str | None = None
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._made_for: tuple[int, ...] = ()
        # Memory that all captures share, and the stream it belongs to: no two of them ever run at once.
        self._pool: Any = None
        self._stream: Any = None

    def forget(self) -> None:
        """Drop every capture."""
        self._shapes.clear()
        self._pool = self._stream = None

    def decode(self, lengths: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token for each of the rows 0..n-1, which hold `lengths` tokens: logits [n, vocab] in the model's dtype.

        The result is a view of a buffer that the next call overwrites.
        """
        addresses = tuple(buffer.data_ptr() for layer in self.cache.slots[:1] for buffer in layer.buffers)
        place = (*addresses, self.cache.rows, self.cache.capacity)
        if place != self._made_for:
            self.forget()
            self._made_for = place
        count = len(lengths)
        rows = min(_power_of_two(count, 1), self.cache.rows)
        window = min(_power_of_two(max(lengths) + 1, LEAST_WINDOW), self.cache.capacity)
        shape = self._shapes.get((rows, window))
        if shape is None:
            shape = self._shapes[rows, window] = self._make(rows, window)
        spare = rows - count
        device = self.backbone.device
        shape.tokens.copy_(torch.tensor([*tokens, *[0] * spare], device=device)[:, None])
        shape.positions.copy_(torch.tensor([*lengths, *[0] * spare], device=device)[:, None])
        shape.write.copy_(torch.tensor([*lengths, *[self.cache.capacity] * spare], device=device)[:, None])
        self.cache.begin(0, rows, shape.write, window, None, shape.slots)
        logits = shape.run()
        self.steps += 1
        return logits[:count]

    def _make(self, rows: int, window: int) -> _Shape:
        device = self.backbone.device
        tokens, positions = (torch.zeros((rows, 1), dtype=torch.long, device=device) for _ in range(2))
        write = torch.full((rows, 1), self.cache.capacity, dtype=torch.long, device=device)
        slots = torch.arange(rows, device=device)[:, None]

        def forward() -> torch.Tensor:
            embeds = self.backbone.embed(tokens).to(self.backbone.dtype)
            mask = self.masks.build(positions, window, self.backbone.dtype)
            found = self.backbone.forward(embeds, positions=positions, mask=mask, cache=self.cache, last=1)
            logits: torch.Tensor = found.logits[:, -1]
            return logits

        shape = _Shape(slots, tokens, positions, write, forward)
        if self.mode == "graphs":
            # Warming up and capturing write to the trash slot and look at slot 0: no row is harmed.
            self.cache.begin(0, rows, write, window, None, slots)
            try:
                if self._pool is None:
                    self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)
                shape.run = _captured(forward, device, self._pool, self._stream)
            except Exception as error:
                self.mode = "static"
                self.failure = f"the capture failed: {one_line(error, 160)}"
                torch.cuda.synchronize(device)
        return shape


def _captured(
    forward: Callable[[], torch.Tensor], device: torch.device, pool: Any, stream: Any
) -> Callable[[], torch.Tensor]:
    """`forward` as a CUDA graph: warmed up and captured on `stream`, then replayed at every call."""
    # torch captures on a stream of the *current* device: on another one than the model's the graph would be empty.
    with torch.cuda.device(device):
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                forward()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads (the application's own models) may go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            logits = forward()

    def replay() -> torch.Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return logits

    return replay


def _power_of_two(needed: int, least: int) -> int:
    size = least
    while size < needed:
        size *= 2
    return size
