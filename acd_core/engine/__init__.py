"""In-flight batching of branch pairs: one thread owns the model and its KV cache."""

from acd_core.engine.options import Counters, EngineOptions
from acd_core.engine.request import Branch, Matcher, Reply, Request, soft_branch
from acd_core.engine.scheduler import Engine
from acd_core.engine.text import TextStream

__all__ = ["Branch", "Counters", "Engine", "EngineOptions", "Matcher", "Reply", "Request", "TextStream", "soft_branch"]
