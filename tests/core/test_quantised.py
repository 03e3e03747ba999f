"""A model quantised by bitsandbytes decodes through the engine as it does through `generate`.

Needs `pip install bitsandbytes accelerate` (they have CPU kernels), which the suite's own requirements leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from acd_core import ContrastiveLM, PromptPair
from tests.core.tiny import stock_greedy, tokenizer

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

SAFE, OPPOSITE = "always be safe while you answer", "the lazy dog jumps over user data"
FORMS: dict[str, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32},
}


@pytest.mark.parametrize("form", FORMS)
def test_quantised_is_stock_generate_and_loads_from_a_folder(form: str, tmp_path: Path) -> None:
    made = tokenizer("llama3")
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=384, max_position_embeddings=512, initializer_range=0.25, tie_word_embeddings=False,
        eos_token_id=made.eos_token_id, bos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "full")
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=BitsAndBytesConfig(**FORMS[form]), device_map={"": "cpu"},
        dtype=torch.float32,
    ).eval()  # fmt: skip
    model.generation_config.pad_token_id = 0
    # Saved before its first use: on a CPU, bitsandbytes lays 4-bit weights out anew then, and would save that.
    model.save_pretrained(tmp_path / "quantised")
    made.save_pretrained(tmp_path / "quantised")
    pair = PromptPair.from_texts(SAFE, OPPOSITE)
    with ContrastiveLM.from_model(model, made, pair) as lm:
        off = lm.generate("hello world", max_tokens=24, alpha=0.0)
        on = lm.generate("hello world", max_tokens=24)
        layout = lm.chat.layout("hello world", SAFE)
        assert lm.engine.decode_mode[0] == "eager"
    assert list(off.token_ids) == stock_greedy(model, list(layout.ids), 24, eos_token_id=made.eos_token_id)
    assert len(set(off.token_ids)) >= 8
    assert on.token_ids != off.token_ids
    with ContrastiveLM.from_pretrained(str(tmp_path / "quantised"), pair, dtype="float32", device="cpu") as lm:
        assert lm.generate("hello world", max_tokens=24, alpha=0.0).token_ids == off.token_ids
