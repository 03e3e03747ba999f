"""In-flight batching of the rows that requests decode over: one thread owns the model and its KV cache."""

from acd_core.engine.branch import Branch, soft_branch
from acd_core.engine.options import Counters, EngineOptions
from acd_core.engine.request import Asked, Matcher, Reply, Request
from acd_core.engine.scheduler import Engine
from acd_core.engine.text import TextPiece, TextStream

__all__ = [
    "Asked",
    "Branch",
    "Counters",
    "Engine",
    "EngineOptions",
    "Matcher",
    "Reply",
    "Request",
    "TextPiece",
    "TextStream",
    "soft_branch",
]
