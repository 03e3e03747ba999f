"""What everything over one model shares: one engine, one chat, one set of formats, the threads calls are planned in."""

from __future__ import annotations

import copy
import logging
import weakref
from typing import Any

from acd_core.chat import Chat
from acd_core.engine import Engine, EngineOptions
from acd_core.errors import ModelError, UsageError, one_line
from acd_core.locks import ForkSafeLock, Locks
from acd_core.model.backbone import Backbone
from acd_core.model.model_defaults import ModelDefaults
from acd_core.reply.formats import Formats
from acd_core.reply.planning_threads import PlanningThreads

_log = logging.getLogger("acd_core")


class Shared:
    """What all LMs over one backbone share: the engine, the chat, the formats, and a tokenizer to decode with."""

    def __init__(self, backbone: Backbone, options: EngineOptions | None) -> None:
        self.engine = Engine(backbone, options)
        self.chat = Chat(backbone.tokenizer)
        self.formats = Formats(backbone, self.chat)
        self.planning = PlanningThreads()
        # The engine thread decodes on a copy of its own: encoding elsewhere borrows the tokenizer mutably.
        self.decoder = copy.deepcopy(backbone.tokenizer)
        self.holders: weakref.WeakSet[Any] = weakref.WeakSet()


_registry = ForkSafeLock()  # held for a moment only, never while something is built
_building = Locks()  # one a model: what is slow for one holds up nobody who uses another
_wrapped: weakref.WeakValueDictionary[tuple[int, int], Backbone] = weakref.WeakValueDictionary()


def join(backbone: Backbone, options: EngineOptions | None, holder: Any) -> Shared:
    """The one engine of a backbone, which `holder` keeps open from now on. Options given later must agree: one engine
    has one set of limits."""
    with _building.of(id(backbone)):
        known = backbone.attached.get("lm")
        if isinstance(known, Shared) and not known.engine.closed:
            if options is not None and options != known.engine.options:
                raise UsageError(
                    f"An engine for {backbone.model_id!r} runs already with other options: {known.engine.options}.",
                    hint="Close the ContrastiveLMs that use it, or pass the same options.",
                )
        else:
            known = backbone.attached["lm"] = Shared(backbone, options)
        known.holders.add(holder)
        return known


def leave(backbone: Backbone, shared: Shared, holder: Any) -> None:
    """`holder` needs the engine no more. The last one closes it; who comes in that moment gets another."""
    with _building.of(id(backbone)):
        shared.holders.discard(holder)
        last = not shared.holders
        if last and backbone.attached.get("lm") is shared:
            del backbone.attached["lm"]
    if last:
        shared.planning.close()
        shared.engine.close()


def backbone_of(model: Any, tokenizer: Any, model_id: str | None) -> Backbone:
    """One backbone for one model object, so that every LM over it shares one engine."""
    key = (id(model), id(tokenizer))
    with _building.of(key):
        backbone = _wrapped.get(key)
        if backbone is None or backbone.model is not model or backbone.tokenizer is not tokenizer:
            backbone = Backbone.wrap(model, tokenizer, model_id)
            with _registry:
                _wrapped[key] = backbone
        return backbone


def defaults_of(backbone: Backbone) -> ModelDefaults:
    """What the generation_config of a backbone's model asks for. What of it cannot be done is logged, once a backbone.

    Raises ModelError for a value that transformers itself refuses.
    """
    try:
        found = ModelDefaults.of(backbone.model, backbone.eos_ids, backbone.device)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The generation_config of {backbone.model_id!r} cannot be followed: {one_line(error)}",
            hint="Mend generation_config.json, or leave it out of account: generation_defaults=False.",
        ) from error
    with _registry:
        if found.ignored and backbone.attached.get("ignored defaults") != found.ignored:
            backbone.attached["ignored defaults"] = found.ignored
            _log.warning(
                "The generation_config of %r asks for %s, which is not done here: replies may differ from `generate`.",
                backbone.model_id,
                ", ".join(found.ignored),
            )
    return found
