"""Gradient checkpointing for models that are tuned behind a cached prefix: less memory for a third more arithmetic.

transformers' own checkpointing drops the cache, and the cache is where the soft prompt is; and it is a flag of the
caller's model. So the layers of a copied module tree (every tensor shared) are wrapped instead: a layer keeps its input
only and runs again in the backward pass, from the state its part of the cache had when it first ran.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache

from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import decoder_layers


def twin_of(backbone: Backbone) -> Backbone | None:
    """The same weights behind another set of modules, which may be changed; None where modules cannot be copied.

    Every tensor is shared, and the twin's parameters ask for no gradient: behind trainable ones a forward would keep
    what the weights' own gradients need, which nobody asks for. Offloaded weights are kept in hooks, not in the
    modules: a copy of those would hold them twice. 8-bit weights that never ran move at their first forward, which
    would take them from the other modules. So neither gets a twin.
    """
    if any(weight.is_meta or getattr(weight, "CB", None) is not None for weight in backbone.model.parameters()):
        return None
    shared: dict[int, Any] = {id(buffer): buffer for buffer in backbone.model.buffers()}
    for weight in backbone.model.parameters():
        shared[id(weight)] = nn.Parameter(weight.detach(), requires_grad=False) if weight.requires_grad else weight
    for module in backbone.model.modules():  # where bitsandbytes keeps what belongs to 8-bit and 4-bit weights
        state = getattr(module, "state", None)
        kept = (getattr(state, "CB", None), getattr(state, "SCB", None), getattr(module, "quant_state", None))
        shared.update((id(held), held) for held in kept if held is not None)
    twin = copy.copy(backbone)
    try:
        twin.model = copy.deepcopy(backbone.model, shared)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return twin


def recomputing_view(backbone: Backbone) -> Backbone | None:
    """`backbone` with layers that are computed twice and kept once; gradients are the same. The caller's model is not
    touched. None where the layers are not found or the modules cannot be copied."""
    twin = twin_of(backbone)
    layers = decoder_layers(twin.model) if twin is not None else None
    if twin is None or layers is None:
        return None
    for index, layer in enumerate(layers):
        layer.forward = _twice(layer.forward, index)  # of the twin
    return twin


def _twice(forward: Callable[..., Any], index: int) -> Callable[..., Any]:
    """`forward` of the layer at `index`, checkpointed where it runs behind a prefix and gradients are wanted."""

    def call(*args: Any, **named: Any) -> Any:
        cache = next((each for each in (*args, *named.values()) if isinstance(each, Cache)), None)
        part: Any = cache.layers[index] if cache is not None and index < len(cache.layers) else None
        if not torch.is_grad_enabled() or part is None or not part.get_seq_length():
            return forward(*args, **named)
        before = dict(vars(part))

        def run(*inner: Any, **settings: Any) -> Any:
            # Both times from the prefix alone, and leaving it alone: nobody reads the grown cache after a step, and
            # keeping it would keep every layer's keys and values.
            _put_back(part, before)
            try:
                return forward(*inner, **settings)
            finally:
                _put_back(part, before)

        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **named)

    return call


def _put_back(part: Any, state: dict[str, Any]) -> None:
    vars(part).clear()
    vars(part).update(state)
