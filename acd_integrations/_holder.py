"""The loaded models behind an adapter object and all its copies, so that none of them loads weights again or others.

An object is copied, changed and sent away by its host in many ways (LangChain makes a new one per call wherever
`configurable_fields` are used). Copies share one holder. A pickle holds names only and loads anew, by the same names.
An object over a ContrastiveLM that the caller made has weights that no name stands for, so it stays in its process and
keeps its model.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acd_core.errors import EngineClosedError, UsageError

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM


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


class Holder:
    """Keeps the ContrastiveLMs of an adapter object alive. given: the one the caller made, if any."""

    def __init__(self, lm: ContrastiveLM | None = None) -> None:
        self.given = lm
        self._known: dict[tuple[Any, ...], ContrastiveLM] = {}
        self._last: ContrastiveLM | None = lm
        self._lock = threading.Lock()

    @property
    def loaded(self) -> ContrastiveLM | None:
        """The model of the last call, None before the first."""
        return self._last

    def known(self, source: Source) -> ContrastiveLM | None:
        """The model of `source` if it is loaded and was not closed since."""
        if self.given is not None:
            return None if _differences(self.given, source) else self.given
        found = self._known.get(source.key)
        return None if found is None or is_closed(found) else found

    def get(self, source: Source) -> ContrastiveLM:
        """The ContrastiveLM of `source`. Loaded at the first call, and again after somebody closed it.

        Raises UsageError where `source` asks a ContrastiveLM that the caller made to be another, EngineClosedError
        where the caller closed it: what its weights were, only the caller knows.
        """
        self.check(source)
        found = self.known(source)  # without the lock: somebody else may be loading another model behind it
        if found is None:
            with self._lock:
                found = self.known(source)
                if found is None:
                    found = self._known[source.key] = self._open(source)
        self._last = found
        return found

    async def aget(self, source: Source) -> ContrastiveLM:
        """`get`, off the event loop where something must be loaded."""
        if self.known(source) is not None:
            return self.get(source)
        return await asyncio.to_thread(self.get, source)

    def check(self, source: Source) -> None:
        """Raise what `get` would raise of a ContrastiveLM that the caller made. Loads nothing."""
        if self.given is None:
            return
        if changed := _differences(self.given, source):
            raise UsageError(
                "This object was made from a ContrastiveLM, so its model, pair, expert, gate_floor and where it was "
                f"loaded cannot be changed: {', '.join(changed)} would be another.",
                hint="Make another with from_lm(other_lm), or one by names: (model=..., pair=...).",
            )
        if is_closed(self.given):
            raise EngineClosedError(
                f"The ContrastiveLM over {self.given.model_id!r} that this object was made from is closed.",
                hint="Make a new ContrastiveLM, and a new object with from_lm(new_lm).",
            )

    def _open(self, source: Source) -> ContrastiveLM:
        from acd_core.lm import ContrastiveLM  # torch and transformers, not before they are needed

        return ContrastiveLM.from_pretrained(
            source.model,
            source.pair,
            source.method,
            expert=source.expert,
            dtype=source.dtype,
            device=source.device,
            revision=source.revision,
            **dict(source.rules),
        )

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


def is_closed(lm: ContrastiveLM) -> bool:
    """Whether `lm` answers no more: it was closed, or the engine that it shares."""
    return lm.closed or lm.engine.closed


def pair_key(pair: Any) -> Any:
    """What stands for `pair` in a key; for one in memory the digest of its vectors, computed once."""
    if pair is None or isinstance(pair, (str, os.PathLike)):
        return str(pair)
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
    backbone = lm.backbone
    agree = {
        "model": source.model in (lm.model_id, os.path.expanduser(lm.model_id)),
        "pair": pair_key(source.pair) == pair_key(lm.pair),
        "expert": expert_key(source.expert) == expert_key(lm.expert),
        "gate_floor": dict(source.rules).get("gate_floor") == lm.gate_rules.floor,
        "revision": source.revision in (None, backbone.revision),
        "dtype": source.dtype in ("auto", str(backbone.dtype).removeprefix("torch.")),
        "device": source.device in ("auto", str(backbone.device)),
    }
    return [name for name, same in agree.items() if not same]
