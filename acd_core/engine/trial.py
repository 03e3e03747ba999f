"""Does this model do what the engine asks of it? A trial of a few tokens for architectures that no test of ours covers.

The engine gives a model ready-made masks, positions and a cache of its own. A model that ignores one of them (recurrent
states, positions taken from a 2D mask) would answer wrongly without an error; here it is found out before it serves.
"""

from __future__ import annotations

from typing import Protocol

import torch

from acd_core.engine.faults import embedding_rows
from acd_core.errors import ModelError, one_line
from acd_core.model.backbone import Backbone

PROVEN = frozenset(
    "falcon gemma gemma2 gemma3_text gpt2 gpt_neox granite llama mistral mixtral olmo olmo2 opt phi phi3 qwen2 qwen3 "
    "qwen3_moe".split()
)
"""Model types whose identities the test suite holds (tests/core/tiny.py)."""
LENGTHS = (11, 6)
NEW = 3
TOLERANCE = 0.2
"""Largest accepted root-mean-square difference of the logits, in their standard deviations. A wrong mask or a forgotten
state gives about one; bf16 rounding about 0.02."""


class Trial(Protocol):
    """What is tried: the engine's own forward over two rows of different lengths, on buffers of its own."""

    def ragged(self, prompts: list[torch.Tensor], replies: list[torch.Tensor]) -> torch.Tensor: ...


def needs_trial(backbone: Backbone) -> bool:
    """Whether the model's type, or a setting of it, is one that the test suite does not cover."""
    config = backbone.config
    return backbone.model_type not in PROVEN or bool(getattr(config, "alibi", False))


@torch.inference_mode()
def check(backbone: Backbone, trial: Trial) -> None:
    """Raise ModelError unless the engine's cached, ragged forward agrees with the model's plain one."""
    generator = torch.Generator().manual_seed(0)
    top = max(2, min(backbone.vocab_size, len(backbone.tokenizer), embedding_rows(backbone)))
    ids = [torch.randint(0, top, (length + NEW,), generator=generator) for length in LENGTHS]
    prompts = [backbone.embed(row[:length]) for row, length in zip(ids, LENGTHS)]
    replies = [backbone.embed(row[length:]) for row, length in zip(ids, LENGTHS)]
    try:
        found = trial.ragged(prompts, replies).float()
        whole = [torch.cat([prompt, reply])[None] for prompt, reply in zip(prompts, replies)]
        expected = torch.stack([backbone.forward(row).logits[0, -1].float() for row in whole])
        by_ids = torch.stack([backbone.forward(row[None]).logits[0, -1].float() for row in ids])
    except Exception as error:
        raise _refused(backbone, f"its forward raised {one_line(error, 160)!r}") from error
    for logits, kind in ((expected, "its plain forward"), (found, "the engine's cached forward")):
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise _refused(backbone, f"the logits of {kind} are not finite (NaN or infinity)")
    if distance(found, expected) > TOLERANCE:
        raise _refused(backbone, "with the engine's cache and masks its logits are not those of its plain forward")
    if distance(expected, by_ids) > TOLERANCE:
        raise _refused(
            backbone, "embeddings alone do not determine its logits, so soft prompts cannot stand for tokens"
        )


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root-mean-square difference of two logit tensors, in standard deviations of the second; inf where not finite."""
    value = float((found - expected.to(found.device)).square().mean().sqrt() / expected.std().clamp_min(1e-6))
    return value if value == value else float("inf")


def _refused(backbone: Backbone, why: str) -> ModelError:
    return ModelError(
        f"The model {backbone.model_id!r} (type {backbone.model_type}) cannot be served: {why}.",
        hint="Supported: decoder-only models with full or sliding-window attention; acd doctor --model tries one.",
    )
