"""Which models are served, which are refused and why, and when a reply ends: beside the families of tiny.py, whose
identities stand in test_identities.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

from acd_core import ContrastiveLM
from acd_core.engine.trial import PROVEN
from acd_core.errors import ModelError
from tests.core.tiny import FAMILIES, family, stock_greedy, tokenizer

SMALL: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": 328, "pad_token_id": 0,
}  # fmt: skip
GPT = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 328, "n_positions": 512}
STATE = {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 328, "state_size": 8}
MAMBA_LAYERS = {"mamba_n_heads": 4, "mamba_d_head": 24, "mamba_d_state": 8}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
ALIBI = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 328, "alibi": True}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "Mamba2": ("ForCausalLM", {**STATE, "head_dim": 16, "num_heads": 6, "n_groups": 1}, "layers of type linear"),
    "Qwen3Next": (
        "ForCausalLM",
        {**SMALL, **LINEAR, **EXPERTS, "head_dim": 16, "shared_expert_intermediate_size": 16, "num_hidden_layers": 4},
        "layers of type linear",
    ),
    "Lfm2": ("ForCausalLM", {**SMALL, "layer_types": ["conv", "full_attention"]}, "layers of type conv"),
    "Bamba": ("ForCausalLM", {**SMALL, **MAMBA_LAYERS, "attn_layer_indices": [1]}, "layers of type linear"),
    "Rwkv": ("ForCausalLM", {"hidden_size": 48, "num_hidden_layers": 2, "vocab_size": 328}, "not those of its plain"),
    "Bloom": ("ForCausalLM", {"hidden_size": 48, "n_layer": 2, "n_head": 4, "vocab_size": 328}, "forward raised"),
    "Falcon": ("ForCausalLM", ALIBI, "forward raised"),
    "T5": ("ForConditionalGeneration", {"d_model": 48, "d_ff": 96, "num_layers": 2, "num_heads": 4}, "an encoder"),
    "Bart": (
        "ForCausalLM",
        {"d_model": 48, "decoder_layers": 2, "decoder_ffn_dim": 64, "decoder_attention_heads": 4, "vocab_size": 328},
        "not those of its plain",
    ),
}
# No test of ours but this one knows these types: the trial lets them in, and they give what `generate` gives.
TRIED: dict[str, tuple[str, dict[str, Any]]] = {
    "GptOss": (
        "GptOssForCausalLM",
        {**SMALL, "head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 24},
    ),
    "DeepseekV3": (
        "DeepseekV3ForCausalLM",
        {**SMALL, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
         "num_experts_per_tok": 2, "moe_intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16,
         "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "first_k_dense_replace": 1},
    ),
    "GPTJ": ("GPTJForCausalLM", {**GPT, "rotary_dim": 8}),
    "Mpt": ("MptForCausalLM", {"d_model": 48, "n_layers": 2, "n_heads": 4, "vocab_size": 328, "max_seq_len": 512}),
    "Cohere2": ("Cohere2ForCausalLM", {**SMALL, "sliding_window": 24}),
}  # fmt: skip


def made(config: str, model: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    asked = getattr(transformers, config)(**settings)
    asked.tie_word_embeddings = False
    asked.eos_token_id = 2
    if hasattr(asked, "initializer_range"):
        asked.initializer_range = 0.25
    return getattr(transformers, model)(asked).eval()


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_cannot_serve_is_refused_with_the_reason(name: str) -> None:
    suffix, settings, reason = REFUSED[name]
    model = made(f"{name}Config", f"{name}{suffix}", settings)
    with pytest.raises(ModelError, match=f"cannot be served: .*{reason}") as caught:
        ContrastiveLM.from_model(model, tokenizer())
    assert "Supported: decoder-only" in str(caught.value)


@pytest.mark.parametrize("name", TRIED)
def test_an_unknown_type_that_passes_the_trial_is_served(name: str) -> None:
    model = made(f"{name}Config", TRIED[name][0], TRIED[name][1])
    model.generation_config.pad_token_id = 0
    assert model.config.model_type not in PROVEN
    prompts = ["hello world", "the quick brown fox jumps over " * 4]
    with ContrastiveLM.from_model(model, tokenizer()) as lm:
        replies = lm.generate(prompts, max_tokens=16)
        ids = [list(lm.chat.layout(prompt).ids) for prompt in prompts]
    for reply, prompt in zip(replies, ids):
        assert list(reply.token_ids) == stock_greedy(model, prompt, 16, eos_token_id=2)
    assert len({token for reply in replies for token in reply.token_ids}) >= 6


def test_the_proven_types_are_those_of_the_families() -> None:
    assert {family(name)[0].config.model_type for name in FAMILIES} == PROVEN


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3", "phi3"])
def test_each_of_several_end_tokens_ends_a_reply(name: str) -> None:
    """Llama 3 ends with <|eot_id|> or <|eom_id|>, Gemma with <end_of_turn> or <eos>."""
    model, made_tokenizer = family(name)
    with ContrastiveLM.from_model(model, made_tokenizer) as lm:
        free = lm.generate("hello world", max_tokens=24)
    places = {token: at for at, token in reversed(list(enumerate(free.token_ids)))}
    ends = sorted(places, key=lambda token: places[token])[3:9:2]
    for end in ends:
        other = copy.deepcopy(model)
        other.generation_config.eos_token_id = [made_tokenizer.eos_token_id, end]
        with ContrastiveLM.from_model(other, made_tokenizer) as lm:
            reply = lm.generate("hello world", max_tokens=24)
            streamed = "".join(getattr(event, "text", "") for event in lm.stream("hello world", max_tokens=24))
        assert reply.token_ids == free.token_ids[: places[end]]
        assert reply.finish_reason == "stop"
        assert streamed == reply.text
