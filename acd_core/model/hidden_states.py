"""What a model's layers give out, read while its forward runs: an intervention that changes nothing.

Layer n (from 1) is the n-th decoder layer; its output is the residual stream behind it, without any final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from acd_core.errors import ModelError
from acd_core.model.interventions import Change, acting

if TYPE_CHECKING:
    from acd_core.model.backbone import Backbone


class _Enough(BaseException):
    """Ends a forward behind the last layer that somebody wants. Not an Exception: no model's own handler takes it."""


def layer_count(model: Any) -> int:
    """Decoder layers, as the config says; 0 where it does not."""
    getter = getattr(model.config, "get_text_config", None)
    config = getter() if callable(getter) else model.config
    return int(getattr(config, "num_hidden_layers", 0) or 0)


def decoder_layers(model: nn.Module) -> nn.ModuleList | None:
    """The decoder layers in order; None where no list of that length is found."""
    found = _layers(model)
    return found[1] if found else None


def layer_names(model: nn.Module, layers: Sequence[int]) -> dict[int, str]:
    """The modules' names of decoder layers, by their numbers from 1. Raises ModelError where they are not found."""
    found = _layers(model)
    if found is None or max(layers) > len(found[1]) or min(layers) < 1:
        raise ModelError(
            f"The layers {sorted(set(layers))} of this model cannot be read: "
            + ("its decoder layers were not found." if found is None else f"it has {len(found[1])}."),
            hint="A gate needs a decoder-only model with one list of layers; switch the gate off with gate=False.",
        )
    return {layer: f"{found[0]}.{layer - 1}" for layer in sorted(set(layers))}


def _layers(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    count = layer_count(model)
    lists = ((name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList))
    return next(((name, each) for name, each in lists if len(each) == count > 0), None)


@dataclass(frozen=True)
class LayerReading:
    """An intervention: `take(layer, output [rows, tokens, width])` in every forward. stop: end it behind the last."""

    layers: tuple[int, ...]
    take: Callable[[int, torch.Tensor], None]
    stop: bool = False
    id: str = ""
    """What changes nothing needs no key of its own."""

    def check(self, backbone: Backbone) -> None:
        """Raise ModelError where the model's layers are not found."""
        layer_names(backbone.model, self.layers)

    def changes(self, model: Any) -> Mapping[str, Change]:
        last = max(self.layers)

        def reading(layer: int) -> Change:
            def read(_: torch.Tensor, output: torch.Tensor) -> None:
                self.take(layer, output)
                if self.stop and layer == last:
                    raise _Enough

            return read

        return {name: reading(layer) for layer, name in layer_names(model, self.layers).items()}


@contextmanager
def reading_layers(
    model: Any, layers: Sequence[int], take: Callable[[int, torch.Tensor], None], *, stop: bool = False
) -> Iterator[None]:
    """Within, `take(layer, output [rows, tokens, width])` is called in every forward of `model` on this thread.

    layers: numbers from 1. stop: end the forward behind the last of them; the block then ends there too, silently, and
    whatever stands after the forward in it is not run. Raises ModelError where the model's layers are not found.
    """
    try:
        with acting(model, [(LayerReading(tuple(layers), take, stop), None)]):
            yield
    except _Enough:
        pass
