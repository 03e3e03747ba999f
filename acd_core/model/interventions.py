"""What is done to some rows of a forward: a module's output changed or read for them, the model left without a trace.

An intervention names modules and says what becomes of their output. While a forward runs, hooks on those modules act on
the thread that asked only; they are gone afterwards. LoRA adapters (`artifacts/lora.py`), steering vectors
(`artifacts/steering.py`) and the reading of hidden states (`hidden_states.py`) are interventions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

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


@runtime_checkable
class InSpan(Protocol):
    """An intervention that acts on some positions of its rows only; what it would do elsewhere is left undone."""

    @property
    def span(self) -> tuple[int, int | None]:
        """The first position that it acts on, and the one where it ends (None: it does not). Part of its `id`."""
        ...


@dataclass(frozen=True)
class RequestRow:
    """What is known of a request before its first forward, for one of its rows.

    embeds: makes the row's whole prompt, [1, tokens, width], soft vectors included. start: where the instruction ends
    in it (`chat/instruction_end.py`). asked, asked_start: ids of the conversation without any
    prompt of ours, up to where the reply begins, and where its instruction ends. agreeing: ids of a compliant start.
    """

    embeds: Callable[[], torch.Tensor]
    start: int
    asked: tuple[int, ...]
    asked_start: int
    agreeing: tuple[int, ...]


@runtime_checkable
class ForRequest(Protocol):
    """An intervention that depends on the request: planning asks it once a request and row, on its own thread."""

    def for_request(self, backbone: Backbone, row: RequestRow) -> Intervention | None:
        """What acts on that row, or None for nothing. Its `id` says all that it depends on. May run forwards."""
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
def acting(
    model: Any, interventions: Sequence[Acting], positions: Callable[[], torch.Tensor] | None = None
) -> Iterator[None]:
    """Within, this thread's forwards of `model` run under `interventions`, one after the other at each module. Other
    threads may use the model meanwhile. positions: makes those of all tokens, [rows, tokens] or [1, tokens]; asked for
    once where an intervention acts in a span. Raises ModelError where it is missing then."""
    thread = threading.get_ident()
    handles = []
    places: torch.Tensor | None = None
    try:
        for intervention, rows in interventions:
            span = intervention.span if isinstance(intervention, InSpan) else None
            if span is not None and places is None:
                places = _positions(positions)
            for name, change in intervention.changes(model).items():
                hook = _hook(change, None if rows is None else list(rows), thread, span, places)
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


def _positions(made: Callable[[], torch.Tensor] | None) -> torch.Tensor:
    if made is None:
        raise ModelError("An intervention acts on some positions only, and the forward was given none.")
    return made()


def _hook(
    change: Change, rows: list[int] | None, thread: int, span: tuple[int, int | None] | None, places: Any
) -> Callable[..., Any]:
    def within(at: torch.Tensor | None, before: torch.Tensor, after: torch.Tensor | None) -> torch.Tensor | None:
        """`after` at the positions of the span, `before` at the others."""
        if span is None or after is None:
            return after
        here = places if at is None or places.shape[0] == 1 else places[at.to(places.device)]
        inside = here >= span[0] if span[1] is None else (here >= span[0]) & (here < span[1])
        return torch.where(inside[..., None].to(before.device), after.to(before), before)

    def hook(_: Any, inputs: tuple[Any, ...], *rest: Any) -> Any:
        # Another thread may meet this hook while it is being registered or removed, and torch then leaves out the
        # keywords: `rest` is whole on our own thread only.
        if threading.get_ident() != thread:
            return None
        named, output = rest
        whole = output[0] if isinstance(output, tuple) else output  # decoder layers of some families give tuples
        given = next(each for each in (*inputs, *named.values()) if isinstance(each, torch.Tensor))
        if rows is None:
            changed = within(None, whole, change(given, whole))
        else:
            at = torch.tensor(rows, device=whole.device)
            some = whole[at]
            changed = within(at, some, change(given[at.to(given.device)], some))
            if changed is not None:
                changed = whole.index_copy(0, at, changed.to(whole.device, whole.dtype))
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
