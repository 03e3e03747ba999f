"""What a model computes with right now, as a value to compare: keys and values of one state are wrong under another.

Between two requests a caller may switch, load, scale, disable or merge adapters, or change weights in place. Looked at
are: which modules and tensors there are and where they lie, the version counter of each tensor and a few of its values
(writes through `.data` leave the counter as it is), plain settings of modules that are neither torch's nor
transformers' (PEFT keeps the active adapters, their scaling and the merged ones there), hooks and replaced forwards.
Not seen: single weights changed through `.data`, weights changed on disk behind an offload, and switches that stand in
no module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from operator import itemgetter
from typing import Any

import torch

from acd_core.errors import ModelError

Setting = tuple[int, str]
"""A module, by its id, and the name of a plain setting of it."""
_SAMPLE = 8
_WATCHED = 3  # forwards of a kind
_MOST_STATES = 64
_TRIES = 8
_PLAIN = frozenset((bool, int, float, str, type(None)))
_CONTAINERS = frozenset((list, tuple, set, frozenset, dict))
_MODULES_OWN = frozenset(torch.nn.Module().__dict__)
_ADAPTERS_OWN = frozenset(("_active_adapter", "_disable_adapters", "merged_adapters", "scaling"))
_OTHER = object()
_PARTS = itemgetter("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = ("torch.", "transformers.")
_OURS = "acd_core."


class State:
    """What a model computed with at one time; states of one WeightState are equal where it computed the same.

    changes: how often the weights had been seen to change. numbers: whole numbers among the settings. rest: a digest
    of all other settings.
    """

    def __init__(self, number: int, changes: int, rest: bytes, numbers: Mapping[Setting, int]) -> None:
        self.id = number
        self.changes = changes
        self.rest = rest
        self.numbers = numbers

    def __eq__(self, other: object) -> bool:
        return isinstance(other, State) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]  # ids of equal states are joined when a counter is learnt


class WeightState:
    """Follows one model. Not thread-safe: one thread owns it; others may change the model at any time."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._changes = 0
        self._made = 0
        self._places: list[Any] = []
        self._sampled: list[bytes] = []
        self._views: list[list[torch.Tensor]] | None = None
        self._modules: list[Any] = []
        self._settings: dict[int, _Settings] = {}
        self._last: State | None = None
        self._states: dict[Any, State] = {}
        self._counters: set[Setting] = set()
        self._grown: dict[str, list[set[Setting]]] = {}

    def current(self) -> State:
        """Return the state now, equal to an earlier state only if the model computes what it did then."""
        try:
            tensors = self._read_model()
        except RuntimeError:  # somebody is adding a module this very moment
            self._note_change()
            self._places = []
            return self._new_state(b"", {})
        places: list[Any] = [id(module) for module in self._modules]
        places += [_tensor_identity(name, tensor) for name, tensor in tensors]
        moved = places != self._places
        if moved or self._views is None:
            self._places, self._views = places, _views([tensor for _, tensor in tensors])
        sampled = [torch.cat(views).cpu().view(torch.uint8).numpy().tobytes() for views in self._views]
        if moved or sampled != self._sampled:
            self._sampled = sampled
            self._note_change()
        if self._last is None:
            rest = hashlib.sha256(b"".join(each.rest for each in self._settings.values())).digest()
            self._last = self._equal_known_state(self._new_state(rest, self._numbers()))
        return self._last

    def watching_a_forward(self, kind: str) -> AbstractContextManager[None]:
        """Around a forward of ours of this kind. The first few tell the model's own bookkeeping, which says nothing:
        whole numbers that grow in every one of them. Nothing else does: a switch thrown meanwhile is no counter."""
        return nullcontext() if len(self._grown.setdefault(kind, [])) == _WATCHED else self._watching(kind)

    def forget(self) -> None:
        """Let go of the weights; the next look tells all the same whether they changed."""
        self._views, self._modules, self._settings, self._last = None, [], {}, None

    @contextmanager
    def _watching(self, kind: str) -> Iterator[None]:
        before: dict[Setting, int] = {}
        after: dict[Setting, int] = {}
        with suppress(RuntimeError):  # as in `current`; nothing is learnt then
            self._read_model()
            before = self._numbers()
        yield
        with suppress(RuntimeError):
            self._read_model()
            after = self._numbers()
        grown = self._grown[kind]
        grown.append({key for key, value in after.items() if value > before.get(key, value)})
        if len(grown) == _WATCHED and (learnt := set.intersection(*grown) - self._counters):
            self._counters |= learnt
            earlier, self._states, self._last = list(self._states.values()), {}, None
            for state in earlier:
                state.id = self._equal_known_state(state).id

    def _numbers(self) -> dict[Setting, int]:
        return {key: value for each in self._settings.values() for key, value in each.numbers.items()}

    def _read_model(self) -> list[tuple[str, torch.Tensor]]:
        """Return the tensors now, and note the modules and their settings; only those that changed are read anew."""
        modules, watched, tensors = _modules_and_tensors(self._model)
        before, self._settings = self._settings, {}
        for module, way in watched:
            place = id(module)
            known = before.get(place)
            if known is None or not known.still_hold(module, way):
                known, self._last = _Settings(module, way), None
            self._settings[place] = known
        if modules != self._modules or before.keys() != self._settings.keys():
            self._modules, self._last = modules, None
        return tensors

    def _note_change(self) -> None:
        self._changes += 1
        self._states.clear()
        self._last = None

    def _new_state(self, rest: bytes, numbers: Mapping[Setting, int]) -> State:
        self._made += 1
        return State(self._made, self._changes, rest, numbers)

    def _equal_known_state(self, state: State) -> State:
        """Return the equal state that is known already, else `state`.

        The least recently met go where there are too many.
        """
        key = state.rest, frozenset(item for item in state.numbers.items() if item[0] not in self._counters)
        found = self._states[key] = self._states.pop(key, state)
        if len(self._states) > _MOST_STATES:
            del self._states[next(iter(self._states))]
        return found


class _Settings:
    """One module's plain settings as they were read: whole numbers, and a digest of the rest."""

    def __init__(self, module: Any, way: Any) -> None:
        self._inside, self._way = module.__dict__, way
        copied = {
            name: value if name in _MODULES_OWN else _copy_containers(value) for name, value in [*self._inside.items()]
        }
        self._names, self._values = [*copied], [*copied.values()]
        plain = _settings(copied)
        numbers = {name: value for name, value in plain if type(value) is int and name not in _ADAPTERS_OWN}
        rest = [each for each in plain if each[0] not in numbers]
        self.numbers = {(id(module), name): value for name, value in numbers.items()}
        self.rest = hashlib.sha256(repr((id(module), type(module), way, rest)).encode()).digest()

    def still_hold(self, module: Any, way: Any) -> bool:
        """Return whether they still are what they were."""
        inside = self._inside
        try:
            same = inside is module.__dict__ and [*inside] == self._names and [*inside.values()] == self._values
        except Exception:  # tensors, among others, do not compare to one bool
            return False
        return same and bool(way == self._way)


def adapter_settings(model: Any) -> tuple[Any, ...]:
    """Return the settings of a model's PEFT adapters: the same in every process, empty where it has none."""
    for _ in range(_TRIES):
        with suppress(RuntimeError):  # somebody is adding a module this very moment
            insides = [module.__dict__ for module in _modules_and_tensors(model)[0]]
            return tuple(tuple(_settings(inside)) for inside in insides if "_active_adapter" in inside)
    raise ModelError(
        f"The adapters of {type(model).__name__} cannot be read: its modules change all the time.",
        hint="Load and remove adapters while nobody asks for a reply.",
    )


def _modules_and_tensors(model: Any) -> tuple[list[Any], list[tuple[Any, Any]], list[tuple[str, torch.Tensor]]]:
    """Return all modules, in an order that is always the same; those whose settings count, with what stands in the way
    of their own forward; all tensors with their names.

    Lean, because a request meets thousands of modules twice.
    """
    stack, seen = [model], {None}
    modules: list[Any] = []
    watched: list[tuple[Any, Any]] = []
    tensors: list[tuple[str, Any]] = []
    offloaded: dict[int, Mapping[str, Any]] = {}
    libraries: dict[type, bool] = {}
    while stack:
        module = stack.pop()
        if module in seen:
            continue
        seen.add(module)
        modules.append(module)
        inside, kind = module.__dict__, type(module)
        children, parameters, buffers, hooks, pre_hooks = _PARTS(inside)
        if children:
            stack += children.values()
        if parameters:
            tensors += parameters.items()
        if buffers:
            tensors += buffers.items()
        way = None
        if hooks or pre_hooks or "forward" in inside:
            way = _way(inside.get("forward"), hooks, pre_hooks)
            if "_hf_hook" in inside:
                offloaded.update((id(weights), weights) for weights in _kept_elsewhere(inside["_hf_hook"]))
        if kind not in libraries:
            libraries[kind] = kind.__module__.startswith(_LIBRARIES)
        if way or not libraries[kind]:
            watched.append((module, way))
    for weights in offloaded.values():
        tensors += [(name, value) for name, value in [*weights.items()] if isinstance(value, torch.Tensor)]
    return modules, watched, [each for each in tensors if each[1] is not None]


def _way(forward: Any, *hooks: Mapping[int, Any]) -> tuple[Any, ...] | None:
    """Return a replaced forward, and the numbers of hooks but for ours: those act on the thread that set them only, and
    come and go.
    """
    numbers = [
        number
        for each in hooks
        for number, hook in [*each.items()]
        if not str(getattr(hook, "__module__", "")).startswith(_OURS)
    ]
    return (forward and id(forward), *numbers) if forward or numbers else None


def kept_elsewhere(module: Any, name: str) -> torch.Tensor | None:
    """Return the values of `module`'s parameter `name` where accelerate keeps them in memory while no forward runs."""
    hook = module.__dict__.get("_hf_hook")
    prefixes = {
        str(getattr(getattr(each, "weights_map", None), "prefix", "")) for each in getattr(hook, "hooks", (hook,))
    }
    for weights in _kept_elsewhere(hook):
        for prefix in prefixes:
            found = weights.get(prefix + name)
            if isinstance(found, torch.Tensor) and not found.is_meta:
                return found
    return None


def _kept_elsewhere(hook: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the weights in memory that accelerate's hook puts into a module for the time of its forward."""
    for each in getattr(hook, "hooks", (hook,)):
        weights = getattr(each, "weights_map", None)
        weights = getattr(weights, "dataset", weights)
        weights = getattr(weights, "state_dict", weights)
        if isinstance(weights, dict):
            yield weights


def _settings(inside: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return plain attributes of a module, and containers of them."""
    found: list[tuple[str, Any]] = []
    for name, value in [*inside.items()]:
        kind = type(value)
        if kind in _PLAIN:
            found.append((name, value))
        elif kind in _CONTAINERS and name not in _MODULES_OWN:
            plain = _plain_value(value)
            if plain is not _OTHER:
                found.append((name, plain))
    return found


def _plain_value(value: Any) -> Any:
    """Return a container as a value to compare, `_OTHER` where it holds something else than plain values."""
    if isinstance(value, dict):
        items = [*value.items()]
        keys, parts = _plain_value([key for key, _ in items]), [part for _, part in items]
    else:
        keys, parts = (), [*value]
        if isinstance(value, (set, frozenset)):
            parts.sort(key=repr)
    parts = [
        each if type(each) in _PLAIN else _plain_value(each) if type(each) in _CONTAINERS else _OTHER for each in parts
    ]
    return _OTHER if keys is _OTHER or any(each is _OTHER for each in parts) else (keys, *parts)


def _copy_containers(value: Any) -> Any:
    """Return a copy of a container and of the containers in it: what others change in place stays as it was here."""
    if type(value) is dict:
        return {key: _copy_containers(part) for key, part in [*value.items()]}
    return type(value)(map(_copy_containers, [*value])) if type(value) in _CONTAINERS else value


def _tensor_identity(name: str, tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.is_meta:  # an offload puts new ones after each forward; what they stand for is met elsewhere
        return name, tensor.shape, tensor.dtype
    version = 0 if tensor.is_inference() else tensor._version
    try:
        return id(tensor), tensor.data_ptr(), version
    except RuntimeError:  # a quantised tensor of several parts has no address of its own
        return id(tensor), 0, version


def _views(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Return a few values of each tensor, as views by device and type: one small copy a group reads them all."""
    groups: dict[tuple[Any, ...], list[torch.Tensor]] = {}
    for tensor in tensors:
        count = tensor.numel()
        plainly_stored = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not count or not plainly_stored or tensor.is_meta:
            continue
        plain = tensor.detach()
        size = min(count, _SAMPLE) if plain.is_contiguous() else 1
        view = plain.as_strided((size,), (max(count // size, 1),), plain.storage_offset())
        groups.setdefault((tensor.device, tensor.dtype), []).append(view)
    return list(groups.values())
