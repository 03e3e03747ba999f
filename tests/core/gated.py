"""Random gates on tiny models, and what their tests ask."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.artifacts.gate import Gate, Levels
from acd_core.params import GenerationParams
from tests.core.tiny import family

NEW = 20
PROMPTS = [f"the quick brown fox {'jumps over a lazy dog ' * (n % 4)}while data {n}" for n in range(16)]
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "answer about data"},
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "safe systems"},
    {"role": "user", "content": "questions about the fox"},
]
BEGUN: list[dict[str, Any]] = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the lazy"}]
ALWAYS, NEVER = -math.inf, 1e9


def gate(
    prompt: float, reply: float | None = NEVER, *, seed: int = 3, layers: tuple[int, ...] = (2, 3), width: int = 48
) -> Gate:
    """A random reading of the tiny models (of `width`) that opens above `prompt`, and above `reply` in a reply."""
    weights = torch.randn((3, len(layers), width), generator=torch.Generator().manual_seed(seed))

    def levels(threshold: float) -> Levels:
        return Levels((-1.0, 0.0, 1.0), (2.0, 3.0, 4.0), max(-1e9, threshold))

    return Gate(layers, weights, (0.1, 0.2, 0.3), levels(prompt), None if reply is None else levels(reply))


def open_lm(name: str = "llama", found: Gate | None = None, **settings: Any) -> ContrastiveLM:
    model, tokenizer = family(name)
    generator = torch.Generator().manual_seed(1)
    width = model.get_input_embeddings().weight.shape[1]
    vectors = [torch.randn(count, width, generator=generator) * 0.25 for count in (9, 13)]
    return ContrastiveLM.from_model(model, tokenizer, PromptPair(*vectors, alpha=0.4, gate=found), **settings)


@functools.cache
def reading_of(prompt: str, name: str = "llama") -> float:
    with open_lm(name, gate(NEVER)) as lm:
        found = lm.generate(prompt, max_tokens=1).report.gate
    assert found is not None
    assert found.reading is not None
    return found.reading


def lm_params(**settings: Any) -> Any:
    return GenerationParams.of(**settings)


def pause() -> None:
    time.sleep(0.005)
