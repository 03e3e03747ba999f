"""What a model's layers give out, read by hooks while its forward runs; the model is left as it was.

Layer n (from 1) is the n-th decoder layer; its output is the residual stream behind it, without any final norm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from acd_core.errors import ModelError


class _Enough(BaseException):
    """Ends a forward behind the last layer that somebody wants. Not an Exception: no model's own handler takes it."""


def layer_count(model: Any) -> int:
    """Decoder layers, as the config says; 0 where it does not."""
    getter = getattr(model.config, "get_text_config", None)
    config = getter() if callable(getter) else model.config
    return int(getattr(config, "num_hidden_layers", 0) or 0)


def decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """The decoder layers in order; None where no list of that length is found."""
    count = layer_count(model)
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count > 0)
    return next(lists, None)


@contextmanager
def reading_layers(
    model: Any, layers: Sequence[int], take: Callable[[int, torch.Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Within, `take(layer, output [rows, tokens, width])` is called in every forward of `model` on this thread.

    layers: numbers from 1. stop: end the forward behind the last of them; the block then ends there too, silently, and
    whatever stands after the forward in it is not run. Raises ModelError where the model's layers are not found.
    """
    found = decoder_layers(model)
    if found is None or max(layers) > len(found) or min(layers) < 1:
        raise ModelError(
            f"The layers {sorted(set(layers))} of this model cannot be read: "
            + ("its decoder layers were not found." if found is None else f"it has {len(found)}."),
            hint="A gate needs a decoder-only model with one list of layers; switch the gate off with gate=False.",
        )
    thread, last = threading.get_ident(), max(layers)

    def hook_for(layer: int) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            take(layer, output[0] if isinstance(output, tuple) else output)
            if stop and layer == last:
                raise _Enough

        return hook

    handles = [found[layer - 1].register_forward_hook(hook_for(layer)) for layer in sorted(set(layers))]
    try:
        yield
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
