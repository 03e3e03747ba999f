"""Tiny random models with untied weights, and a byte-level tokenizer, made on the spot: no file, no network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from acd_core.model.backbone import Backbone
from acd_core.tuning import AnchorPair, Instruction, TuneResult, bundled_instructions, tune

TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 4096, "head_dim": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    # Its LayerNorm keeps float64; the RMSNorm of the others computes in float32, too coarse for finite differences.
    "gpt_neox": {},
}


def make_tokenizer() -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([row.text for row in bundled_instructions("safe")], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


def make_tiny(tokenizer: Any, kind: str = "llama", dtype: torch.dtype = torch.float32) -> Backbone:
    """Random untied weights of a size that gives varied replies."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SHAPES[kind],
    )
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return Backbone.wrap(model, tokenizer, f"tiny-{kind}")


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny(tokenizer: Any) -> Callable[..., Backbone]:
    """tiny(kind, dtype) -> Backbone with random untied weights."""
    return functools.partial(make_tiny, tokenizer)


@pytest.fixture(scope="session")
def pairs() -> list[AnchorPair]:
    """12 pairs of every class, of made-up requests."""
    made: list[AnchorPair] = []
    for index in range(12):
        made.append(AnchorPair(f"u{index}", f"bad aim {index}", True, "safe", f"I cannot, {index}.", "refused"))
        made.append(AnchorPair(f"u{index}", f"bad aim {index}", True, "null", f"Sure, step {index}.", "accepted"))
        made.append(AnchorPair(f"s{index}", f"good aim {index}", False, "null", f"Of course {index}", "accepted"))
    return made


@pytest.fixture(scope="session")
def validation() -> tuple[list[Instruction], list[Instruction]]:
    return (
        [Instruction(f"vs{index}", f"a kind wish {index}") for index in range(3)],
        [Instruction(f"vu{index}", f"an ill wish {index}") for index in range(3)],
    )


class OddJudge:
    """Says refused for replies of odd length."""

    name = "odd"

    def judge(self, prompt: str, completion: str) -> Any:
        return SimpleNamespace(refused=len(completion) % 2 == 1)


@pytest.fixture
def run(tiny: Callable[..., Backbone], pairs: list[AnchorPair], validation: Any) -> Callable[..., TuneResult]:
    """run(backbone, **changes): a short tuning run of a tiny model."""

    def go(backbone: Backbone | None = None, **changes: Any) -> TuneResult:
        settings: dict[str, Any] = {
            "steps": 6,
            "batch": 6,
            "warmup": 2,
            "reply_tokens": 6,
            "validate_every": 3,
            "validation_tokens": 4,
            "progress": False,
            "judge": OddJudge(),
            "validation": validation,
            **changes,
        }
        return tune(backbone or tiny(), settings.pop("anchors", pairs), **settings)

    return go
