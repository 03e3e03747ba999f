"""A command line to call, and a model small enough to load in a blink."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

Run = Callable[..., Any]

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def acd() -> Run:
    """`acd("doctor", "--model", "x")`, in this process; stdout and stderr apart."""
    from acd_core.cli import app

    def run(*arguments: str, lines: str = "") -> Any:
        return CliRunner().invoke(app, list(arguments), input=lines)

    return run


def save_tiny_model(folder: Path, width: int = 32, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """A random Llama of one layer with a byte-level tokenizer, saved as plain transformers files."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = template
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Path]:
    return save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_pair(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soft pair made for `tiny`."""
    import torch

    from acd_core.artifacts.pair import PromptPair
    from acd_core.model.backbone import Backbone

    backbone = Backbone.load(str(tiny))
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(3, backbone.embedding_width, generator=generator) for _ in range(2)]
    pair = PromptPair.from_tensors(*vectors, backbone=backbone, alpha=0.4, metrics={"harmless_rate": 0.97})
    return pair.save(tmp_path_factory.mktemp("pairs") / "tiny-pair")
