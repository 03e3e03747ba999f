"""Safer decoding for any local chat model: Adversarial Contrastive Decoding and its relatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acd_core.artifacts.pair import PromptPair as PromptPair
    from acd_core.lm import ContrastiveLM as ContrastiveLM
    from acd_core.params import ContrastParams as ContrastParams
    from acd_core.params import Generation as Generation
    from acd_core.params import GenerationParams as GenerationParams
    from acd_core.reply.policy import Policy as Policy
    from acd_core.spec import LMSpec as LMSpec

_HOMES = {
    "ContrastiveLM": "acd_core.lm",
    "ContrastParams": "acd_core.params",
    "Generation": "acd_core.params",
    "GenerationParams": "acd_core.params",
    "LMSpec": "acd_core.spec",
    "Policy": "acd_core.reply.policy",
    "PromptPair": "acd_core.artifacts.pair",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # Lazy, so that `import acd_core` does not load torch: adapters must be cheap to construct.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'acd_core' has no attribute {name!r}")
