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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from acd_core.errors import EngineClosedError, UsageError
from acd_core.locks import ForkSafeLock, Locks
from acd_core.params import shown

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

AS_LOADED = "as loaded"
"""Where a backbone keeps the digest of the weights it was loaded with."""
_SPARE = 2
"""Models that are kept although no object names them any more, if none was changed away from them."""


@dataclass(frozen=True, eq=False)
class Source:
    """What a ContrastiveLM is made of. rules: the operator's, of the gate (`_gate.operator_rules`). method: its own,
    for calls that name none; one that the caller made keeps the method it has."""

    model: str
    pair: Any = None
    expert: Any = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    rules: tuple[tuple[str, Any], ...] = ()
    method: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for the same weights and settings, whichever objects they stand in."""
        names = (self.model, pair_key(self.pair), expert_key(self.expert), self.revision, self.dtype, self.device)
        return (*names, self.rules, self.method)


class User(Protocol):
    """An adapter object, one of the copies that share a holder."""

    def _source(self) -> Source: ...


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

    def known(self, source: Source) -> ContrastiveLM | None:
        """The model of `source` if it is loaded and was not closed since."""
        if self.given is not None:
            return None if _differences(self.given, source) else self.given
        found = self._known.get(source.key)
        return None if found is None or is_closed(found) else found

    def get(self, source: Source, user: User) -> ContrastiveLM:
        """The ContrastiveLM of `source`, for `user`. Loaded at the first call, and again after somebody closed it.

        Raises UsageError where `source` asks a ContrastiveLM that the caller made to be another, EngineClosedError
        where the caller closed it: what its weights were, only the caller knows.
        """
        self.check(source)
        found = self.known(source)
        if found is None:
            with self._opening.of(source.key):
                found = self.known(source)
                if found is None:
                    found = self._open(source)
                    with self._counting:
                        self._known[source.key] = found
        self.join(source, user)  # only now: what it names may be over the weights of what it named before
        return found

    async def aget(self, source: Source, user: User) -> ContrastiveLM:
        """`get`, off the event loop where something must be loaded."""
        if self.known(source) is not None:
            return self.get(source, user)
        return await asyncio.to_thread(self.get, source, user)

    def join(self, source: Source, user: User) -> None:
        """Count `user`, who names `source`, among the objects whose models are kept.

        Models that no object names any more are forgotten: at once where one was changed to name another, else (those
        of objects that LangChain makes for one call) all but the last few.
        """
        if self.given is not None:
            return
        key = _key_of(source)
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
        wanted = {_key_of(user._source()) for ref, _ in self._users.values() if (user := ref()) is not None}
        unnamed = [key for key in self._known if key not in wanted]
        for key in unnamed:
            if key == left or key in unnamed[:-_SPARE]:
                del self._known[key]

    def check(self, source: Source) -> None:
        """Raise what `get` would raise of a ContrastiveLM that the caller made. Loads nothing."""
        if self.given is None:
            return
        if changed := _differences(self.given, source):
            raise UsageError(
                "This object was made from a ContrastiveLM, so its model, pair, expert, gate_floor, "
                "generation_defaults and where it was loaded cannot be changed: "
                f"{', '.join(changed)} would be another.",
                hint="Make another with from_lm(other_lm), or one by names: (model=..., pair=...).",
            )
        if is_closed(self.given):
            raise EngineClosedError(
                f"The ContrastiveLM over {self.given.model_id!r} that this object was made from is closed.",
                hint="Make a new ContrastiveLM, and a new object with from_lm(new_lm).",
            )

    def _open(self, source: Source) -> ContrastiveLM:
        from acd_core.evaluation.identity import weights_key  # torch and transformers, not before they are needed
        from acd_core.lm import ContrastiveLM

        lm = ContrastiveLM.from_pretrained(
            source.model,
            source.pair,
            source.method,
            expert=source.expert,
            dtype=source.dtype,
            device=source.device,
            revision=source.revision,
            **dict(source.rules),
        )
        lm.backbone.attached.setdefault(AS_LOADED, weights_key(lm.backbone.model))
        return lm

    def __deepcopy__(self, memo: dict[int, Any]) -> Holder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_sent()
        return (Holder, ())

    def check_sent(self) -> None:
        """Raise UsageError where what is held cannot be told by names, so that no other process could load it."""
        if self.given is not None:
            raise UsageError(
                "What was made from a ContrastiveLM (from_lm) cannot be pickled and sent to another process.",
                hint="Make it by names, (model=..., pair=...): the other process loads its own.",
            )


def _key_of(source: Source) -> tuple[Any, ...] | None:
    """The key of `source`; None where it names nothing that could be loaded, as the next call will say."""
    try:
        return source.key
    except (AttributeError, TypeError, UsageError):
        return None


def is_closed(lm: ContrastiveLM) -> bool:
    """Whether `lm` answers no more: it was closed, or the engine that it shares."""
    return lm.closed or lm.engine.closed


def pair_key(pair: Any) -> Any:
    """What stands for `pair` in a key; for one in memory the digest of its vectors, computed once."""
    if pair is None or isinstance(pair, (str, os.PathLike)):
        return str(pair)
    if not isinstance(getattr(pair, "id", None), str):
        raise UsageError(f"pair is {shown(pair)}.", hint="Give a PromptPair, its folder, a hub id, or None.")
    place = id(pair)
    known = _pair_ids.get(place)
    if known is None or known[0]() is not pair:
        known = _pair_ids[place] = (weakref.ref(pair, lambda _: _pair_ids.pop(place, None)), pair.id)
    return known[1], pair.alpha, pair.plausibility, pair.contrast_tokens


def expert_key(expert: Any) -> str | None:
    """What stands for `expert` in a key; for one in memory the digest of its weights, which it computes once."""
    return None if expert is None else str(getattr(expert, "id", expert))


_pair_ids: dict[int, tuple[weakref.ref[Any], str]] = {}  # by identity: `==` on vectors compares elements


def _differences(lm: ContrastiveLM, source: Source) -> list[str]:
    """The settings of `source` that `lm` has not, by name."""
    backbone, rules = lm.backbone, dict(source.rules)
    agree = {
        "model": source.model in (lm.model_id, os.path.expanduser(lm.model_id)),
        "pair": pair_key(source.pair) == pair_key(lm.pair),
        "expert": expert_key(source.expert) == expert_key(lm.expert),
        "gate_floor": rules.get("gate_floor") == lm.gate_rules.floor,
        "generation_defaults": rules.get("generation_defaults", True) == lm.generation_defaults,
        "revision": source.revision in (None, backbone.revision),
        "dtype": source.dtype in ("auto", str(backbone.dtype).removeprefix("torch.")),
        "device": source.device in ("auto", str(backbone.device)),
    }
    return [name for name, same in agree.items() if not same]
