"""What a model computes with right now, as a value to compare: keys and values of one state are wrong under another.

Between two requests a caller may switch, load, scale, disable or merge adapters, or change weights in place. Looked at
are: which modules and tensors there are and where they lie, the version counter of each tensor and a few of its values
(writes through `.data` leave the counter as it is), plain settings of modules that are neither torch's nor
transformers' (PEFT keeps the active adapters, their scaling and the merged ones there), hooks and replaced forwards.
Not seen: single weights changed through `.data`, and switches that stand in no module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch

Settings = dict[int, tuple[tuple[str, Any], ...]]
"""Names and values of plain settings, by the module that has them."""
_SAMPLE = 8
_PLAIN = frozenset((bool, int, float, str, type(None)))
_CONTAINERS = frozenset((list, tuple, set, frozenset, dict))
_MODULES_OWN = frozenset(torch.nn.Module().__dict__)
_OTHER = object()
_LIBRARIES = ("torch.", "transformers.")
_OURS = "acd_core."


class State:
    """What a model computed with at one time. changes: how often its weights had been seen to change."""

    def __init__(self, changes: int, settings: Settings, counters: Set[tuple[int, str]]) -> None:
        self.changes = changes
        self.settings = settings
        self._counters = counters

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, State) or self.changes != other.changes:
            return False
        return all(key in self._counters for key in different(self.settings, other.settings))

    __hash__ = None  # type: ignore[assignment]


class WeightState:
    """Follows one model. Not thread-safe: one thread owns it."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._changes = 0
        self._places: list[tuple[int, int, int]] = []
        self._views: list[list[torch.Tensor]] = []
        self._sampled: list[bytes] = []
        self._last: State | None = None
        self._suspects: set[tuple[int, str]] = set()
        self._counters: set[tuple[int, str]] = set()

    def current(self) -> State:
        """Equal to an earlier state only if the model computes what it did then."""
        tensors: list[torch.Tensor] = []
        settings: Settings = {}
        try:
            _walk(self._model, tensors, settings)
        except RuntimeError:  # somebody is adding a module this very moment
            self._places = []
            self._changes += 1
            return State(self._changes, {}, self._counters)
        places = [_place(each) for each in tensors]
        if places != self._places:
            self._places, self._views = places, _views(tensors)
            self._changes += 1
            self._sampled = self._sample()
        elif (sampled := self._sample()) != self._sampled:
            self._changes += 1
            self._sampled = sampled
        found = State(self._changes, settings, self._counters)
        if self._last is None or self._last != found:
            self._last = found
        return self._last

    @contextmanager
    def watching_a_forward(self) -> Iterator[None]:
        """Around a forward of ours: what changes in two of them is the model's own bookkeeping, and says nothing."""
        before: Settings = {}
        after: Settings = {}
        _walk(self._model, [], before)
        yield
        _walk(self._model, [], after)
        changed = different(before, after)
        self._counters |= changed & self._suspects
        self._suspects |= changed

    def _sample(self) -> list[bytes]:
        return [torch.cat(views).cpu().view(torch.uint8).numpy().tobytes() for views in self._views]


def different(one: Settings, other: Settings) -> set[tuple[int, str]]:
    """The modules and names whose values are not the same in both."""
    if one == other:
        return set()
    found: set[tuple[int, str]] = set()
    for place in one.keys() | other.keys():
        first, second = dict(one.get(place, ())), dict(other.get(place, ()))
        names = first.keys() | second.keys()
        found |= {(place, name) for name in names if first.get(name, _OTHER) != second.get(name, _OTHER)}
    return found


def adapter_settings(model: Any) -> tuple[Any, ...]:
    """The settings of a model's PEFT adapters: the same in every process, empty where it has none."""
    found = []
    for module in model.modules():
        if "_active_adapter" in module.__dict__:
            found.append(tuple(_settings(module.__dict__)))
    return tuple(found)


def _walk(model: Any, tensors: list[torch.Tensor], settings: Settings) -> None:
    """Collect what is looked at, in the order of the modules."""
    stack, seen = [model], set()
    while stack:
        module = stack.pop()
        place = id(module)
        if place in seen:
            continue
        seen.add(place)
        inside = module.__dict__
        for name in ("_parameters", "_buffers"):
            for tensor in inside[name].values():
                if tensor is not None:
                    tensors.append(tensor)
        hooks = [_hooks(inside[name]) for name in ("_forward_hooks", "_forward_pre_hooks") if inside[name]]
        patched = "forward" in inside or any(hooks)
        if patched or not type(module).__module__.startswith(_LIBRARIES):
            forward = [("forward", (id(inside.get("forward")), *hooks))] if patched else []
            settings[place] = (*forward, *_settings(inside))
        stack.extend(child for child in reversed(inside["_modules"].values()) if child is not None)


def _hooks(found: Mapping[int, Any]) -> tuple[int, ...]:
    """The numbers of hooks that are not ours: those act on the thread that set them only, and come and go."""
    return tuple(number for number, hook in found.items() if not str(getattr(hook, "__module__", "")).startswith(_OURS))


def _settings(inside: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Plain attributes of a module, and containers of them."""
    found: list[tuple[str, Any]] = []
    for name, value in inside.items():
        kind = type(value)
        if kind in _PLAIN:
            found.append((name, value))
        elif kind in _CONTAINERS and value and name not in _MODULES_OWN:
            plain = _plain(value)
            if plain is not _OTHER:
                found.append((name, plain))
    return found


def _plain(value: Any) -> Any:
    """A container as a value to compare, `_OTHER` where it holds something else than plain values."""
    keys: Any
    if isinstance(value, dict):
        keys = _plain(list(value))
        value = list(value.values())
    else:
        keys = ()
        value = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
    parts = [each if type(each) in _PLAIN else _plain(each) if type(each) in _CONTAINERS else _OTHER for each in value]
    return _OTHER if keys is _OTHER or any(each is _OTHER for each in parts) else (keys, *parts)


def _place(tensor: torch.Tensor) -> tuple[int, int, int]:
    version = 0 if tensor.is_inference() else tensor._version
    try:
        return id(tensor), tensor.data_ptr(), version
    except RuntimeError:  # a quantised tensor of several parts has no address of its own
        return id(tensor), 0, version


def _views(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """A few values of each tensor, as views by device and type: one small copy a group reads them all."""
    groups: dict[tuple[Any, ...], list[torch.Tensor]] = {}
    for tensor in tensors:
        count = tensor.numel()
        plainly_stored = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not count or not plainly_stored or tensor.device.type == "meta":
            continue
        plain = tensor.detach()
        size = min(count, _SAMPLE) if plain.is_contiguous() else 1
        view = plain.as_strided((size,), (max(count // size, 1),), plain.storage_offset())
        groups.setdefault((tensor.device, tensor.dtype), []).append(view)
    return list(groups.values())
