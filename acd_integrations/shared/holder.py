"""The loaded models behind an adapter object and all its copies, so that none of them loads weights again or others.

An object is copied, changed and sent away by its host in many ways (LangChain makes a new one per call wherever
`configurable_fields` are used). Copies share one holder. A pickle holds names only and loads anew, by the same names.
An object over a ContrastiveLM that the caller made has weights that no name stands for, so it stays in its process and
keeps its model.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from acd_core.errors import EngineClosedError, UsageError
from acd_core.locks import ForkSafeLock, Locks
from acd_core.spec import LMSpec, expert_key, option_fields, pair_key

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_SPARE = 2
"""Models that are kept although no object names them any more, if none was changed away from them."""


class User(Protocol):
    """An adapter object, one of the copies that share a holder."""

    def _spec(self) -> LMSpec: ...


class Holder:
    """Keeps the ContrastiveLMs of adapter objects alive, as long as one of them names it. given: the one the caller
    made, if any."""

    def __init__(self, lm: ContrastiveLM | None = None) -> None:
        self.given = lm
        self.namespace = uuid4().hex  # of an object and its copies
        self._known: OrderedDict[tuple[Any, ...], ContrastiveLM] = OrderedDict()
        self._users: dict[int, tuple[weakref.ref[User], tuple[Any, ...]]] = {}  # by identity, with what they last named
        self._opening = Locks()  # one for each that is being loaded
        self._counting = ForkSafeLock()  # held for a moment only, never while something is loaded

    def known(self, spec: LMSpec) -> ContrastiveLM | None:
        """Return the model of `spec` if it is loaded and was not closed since."""
        if self.given is not None:
            return None if _differences(self.given, spec) else self.given
        found = self._known.get(spec.key)
        return None if found is None or is_closed(found) else found

    def get(self, spec: LMSpec, user: User) -> ContrastiveLM:
        """Return the ContrastiveLM of `spec`, for `user`; loaded at the first call, and again once somebody closed it.

        Raises UsageError where `spec` asks a ContrastiveLM that the caller made to be another, EngineClosedError
        where the caller closed it: what its weights were, only the caller knows.
        """
        self.check(spec)
        found = self.known(spec)
        if found is None:
            with self._opening.of(spec.key):
                found = self.known(spec)
                if found is None:
                    found = spec.load()
                    with self._counting:
                        self._known[spec.key] = found
        self.join(spec, user)  # only now: what it names may be over the weights of what it named before
        return found

    async def aget(self, spec: LMSpec, user: User) -> ContrastiveLM:
        """Do what `get` does, off the event loop where something must be loaded."""
        if self.known(spec) is not None:
            return self.get(spec, user)
        return await asyncio.to_thread(self.get, spec, user)

    def join(self, spec: LMSpec, user: User) -> None:
        """Count `user`, who names `spec`, among the objects whose models are kept.

        Models that no object names any more are forgotten: at once where one was changed to name another, else (those
        of objects that LangChain makes for one call) all but the last few.
        """
        if self.given is not None:
            return
        key = _key_of(spec)
        with self._counting:
            before = self._users.get(id(user))
            left = before[1] if before is not None and before[0]() is user else None
            if key is None or key == left:
                return
            self._users[id(user)] = (weakref.ref(user), key)
            if key in self._known:
                self._known.move_to_end(key)
            if self._known.keys() - {key}:
                self._forget(left)

    def _forget(self, left: tuple[Any, ...] | None) -> None:
        self._users = {place: found for place, found in self._users.items() if found[0]() is not None}
        wanted = {_key_of(user._spec()) for ref, _ in self._users.values() if (user := ref()) is not None}
        unnamed = [key for key in self._known if key not in wanted]
        for key in unnamed:
            if key == left or key in unnamed[:-_SPARE]:
                del self._known[key]

    def check(self, spec: LMSpec) -> None:
        """Raise what `get` would raise of a ContrastiveLM that the caller made. Loads nothing."""
        if self.given is None:
            return
        if changed := _differences(self.given, spec):
            raise UsageError(
                "This object was made from a ContrastiveLM, so its model, pair, expert, gate_floor, "
                "generation_defaults, deterministic, options and where it was loaded cannot be changed: "
                f"{', '.join(changed)} would be another.",
                hint="Make another with from_lm(other_lm), or one by names: (model=..., pair=...).",
            )
        if is_closed(self.given):
            raise EngineClosedError(
                f"The ContrastiveLM over {self.given.model_id!r} that this object was made from is closed.",
                hint="Make a new ContrastiveLM, and a new object with from_lm(new_lm).",
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Holder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_sent()
        return (Holder, ())

    def check_sent(self) -> None:
        """Raise UsageError where what is held has no name, so that no other process could load it."""
        if self.given is not None:
            raise UsageError(
                "What was made from a ContrastiveLM (from_lm) cannot be pickled and sent to another process.",
                hint="Make it by names, (model=..., pair=...): the other process loads its own.",
            )


def spec_of(owner: Any, method: str | None = None) -> LMSpec:
    """Describe the ContrastiveLM below the adapter object `owner`; its other settings go with each call.

    recheck is among them only under a floor, which holds calls to it: without one, objects that differ in it share one
    ContrastiveLM. method: the ContrastiveLM's own, where it is one of an adapter's settings.
    """
    return LMSpec(
        owner.model,
        owner.pair,
        method,
        expert=owner.expert,
        gate_floor=owner.gate_floor,
        recheck=None if owner.gate_floor is None else owner.recheck,
        dtype=owner.dtype,
        device=owner.device,
        revision=owner.revision,
        options=owner.options,
        deterministic=owner.deterministic,
        generation_defaults=owner.generation_defaults,
    )


def _key_of(spec: LMSpec) -> tuple[Any, ...] | None:
    """Return the key of `spec`; None where it names nothing that could be loaded, as the next call will say."""
    try:
        return spec.key
    except (AttributeError, TypeError, UsageError):
        return None


def is_closed(lm: ContrastiveLM) -> bool:
    """Whether `lm` answers no more: it was closed, or the engine that it shares."""
    return lm.closed or lm.engine.closed


def _differences(lm: ContrastiveLM, spec: LMSpec) -> list[str]:
    """Name the settings of `spec` that `lm` has not."""
    backbone = lm.backbone
    agree = {
        "model": spec.model in (lm.model_id, os.path.expanduser(lm.model_id)),
        "pair": pair_key(spec.pair) == pair_key(lm.pair),
        "expert": expert_key(spec.expert) == expert_key(lm.expert),
        "gate_floor": spec.gate_floor == lm.gate_rules.floor,
        "generation_defaults": spec.generation_defaults == lm.generation_defaults,
        "deterministic": spec.deterministic == lm.deterministic,
        "options": spec.options is None or _hold(option_fields(lm.engine.options), spec.options),
        "revision": spec.revision in (None, backbone.revision),
        "dtype": spec.dtype in ("auto", str(backbone.dtype).removeprefix("torch.")),
        "device": spec.device in ("auto", str(backbone.device)),
    }
    return [name for name, same in agree.items() if not same]


def _hold(options: Any, asked: Any) -> bool:
    """Whether engine options have all the values that are asked for; those not named may be any."""
    return all(name in options and options[name] == value for name, value in asked.items())
