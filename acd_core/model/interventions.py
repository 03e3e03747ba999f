"""What is done to some rows of a forward: a module's output changed or read for them, the model left without a trace.

An intervention names modules and says what becomes of their output. While a forward runs, hooks on those modules act on
the thread that asked only; they are gone afterwards. LoRA adapters (`artifacts/lora.py`) and the reading of hidden
states (`hidden_states.py`) are interventions; a vector added at a layer would be one more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from acd_core.errors import ModelError

if TYPE_CHECKING:
    from acd_core.model.backbone import Backbone

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor | None]
"""(a module's input, the first tensor that it is given, and its output), both [rows, tokens, width] of the rows under
the intervention -> their new output, or None where it stays."""


class Intervention(Protocol):
    """Something that acts on rows of a forward. The same object may act in many forwards at once."""

    @property
    def id(self) -> str:
        """What stands for it in the keys of caches: equal for two that compute the same, and for no others. "" for one
        that changes nothing."""
        ...

    def check(self, backbone: Backbone) -> None:
        """Raise an ACDError unless it can act on this model."""
        ...

    def changes(self, model: Any) -> Mapping[str, Change]:
        """Names of modules of `model`, and what becomes of their output."""
        ...


Acting = tuple[Intervention, Sequence[int] | None]
"""An intervention, and the rows of the forward that it acts on; None: all of them, without copying any."""


def by_rows(rows: Sequence[Sequence[Intervention]]) -> list[Acting]:
    """For the interventions of each row of a forward, in order: every one of them with its rows."""
    found: dict[tuple[int, str, int], tuple[Intervention, list[int]]] = {}
    for index, each in enumerate(rows):
        for place, intervention in enumerate(each):
            key = (place, intervention.id, 0 if intervention.id else id(intervention))
            found.setdefault(key, (intervention, []))[1].append(index)
    ordered = [found[key] for key in sorted(found, key=lambda key: key[0])]
    return [(intervention, None if len(at) == len(rows) else at) for intervention, at in ordered]


@contextmanager
def acting(model: Any, interventions: Sequence[Acting]) -> Iterator[None]:
    """Within, this thread's forwards of `model` run under `interventions`, one after the other at each module. Other
    threads may use the model meanwhile."""
    thread = threading.get_ident()
    handles = []
    try:
        for intervention, rows in interventions:
            for name, change in intervention.changes(model).items():
                hook = _hook(change, None if rows is None else list(rows), thread)
                handles.append(_module(model, name).register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module(model: Any, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ModelError(
            f"An intervention is to act on the module {name!r}, which {type(model).__name__} does not have.",
            hint="It was made for another model.",
        ) from None


def _hook(
    change: Change, rows: list[int] | None, thread: int
) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]:
    def hook(_: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        whole = output[0] if isinstance(output, tuple) else output  # decoder layers of some families give tuples
        given = next(each for each in (*inputs, *named.values()) if isinstance(each, torch.Tensor))
        if rows is None:
            changed = change(given, whole)
        else:
            at = torch.tensor(rows, device=whole.device)
            changed = change(given[at.to(given.device)], whole[at])
            if changed is not None:
                changed = whole.index_copy(0, at, changed.to(whole.device, whole.dtype))
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
