"""Tiny random models of every family, with a real tokenizer and a chat template in the family's own format.

Untied weights with a wide initialisation: a tied or narrow random model echoes one token, and every identity holds
trivially. Tests assert that several distinct tokens appear.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from acd_core.model.interventions import acting, by_rows

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# No system role, strict alternation: Mistral 7B Instruct v0.1/0.2.
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
# No system role at all: Gemma 2.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# A system text folded into the first user turn by the template itself: Llama 2, Gemma 3.
LLAMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + "
    "'\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}{% else %}"
    "{% set system = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ (system if loop.first else '') + m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "mistral": MISTRAL, "gemma": GEMMA, "llama2": LLAMA2, "phi": PHI}
SPECIAL = (
    "<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>",
)  # fmt: skip
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi": "<|end|>"}
WORDS = "hello world the quick brown fox jumps over a lazy dog while safe systems answer questions about user data"


def tokenizer(template: str = "chatml") -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 ids with the special tokens of every template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([WORDS] * 3, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=ENDS.get(template, "</s>"), pad_token="<pad>"
    )
    made.chat_template = TEMPLATES[template]
    return made


BASE = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.25, "tie_word_embeddings": False,
}  # fmt: skip
_NO_GQA = {key: value for key, value in BASE.items() if key != "num_key_value_heads"}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", BASE, "llama3"),
    "llama-2-format": ("LlamaConfig", "LlamaForCausalLM", BASE, "llama2"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", BASE, "chatml"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**BASE, "head_dim": 16}, "chatml"),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**BASE, "sliding_window": 24}, "mistral"),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**BASE, "head_dim": 16}, "gemma"),
    "gemma2": (
        "Gemma2Config",
        "Gemma2ForCausalLM",
        {**BASE, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16},
        "gemma",
    ),
    "gemma3": (
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        {**BASE, "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16, "num_hidden_layers": 6},
        "gemma",
    ),
    "phi": ("PhiConfig", "PhiForCausalLM", BASE, "phi"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {**BASE, "pad_token_id": 0, "sliding_window": 24}, "phi"),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _NO_GQA, "chatml"),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        {**BASE, "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.7},
        "chatml",
    ),
    "gpt2": (
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 512, "initializer_range": 0.25,
         "tie_word_embeddings": False},
        "chatml",
    ),
    "opt": (
        "OPTConfig",
        "OPTForCausalLM",
        {"hidden_size": 48, "ffn_dim": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "init_std": 0.25,
         "max_position_embeddings": 512, "word_embed_proj_dim": 32, "tie_word_embeddings": False},
        "chatml",
    ),
    "olmo": ("OlmoConfig", "OlmoForCausalLM", BASE, "chatml"),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", BASE, "chatml"),
    "falcon": (
        "FalconConfig",
        "FalconForCausalLM",
        {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.25,
         "new_decoder_architecture": True, "num_kv_heads": 2, "max_position_embeddings": 512, "alibi": False,
         "tie_word_embeddings": False},
        "chatml",
    ),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        {**BASE, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
        "mistral",
    ),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        {**BASE, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        "chatml",
    ),
}  # fmt: skip


@functools.cache
def family(name: str, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """(model in fp32 eval mode, tokenizer) of a family; made once a session."""
    config_name, model_name, settings, template = FAMILIES[name]
    made = tokenizer(template)
    # The vocabulary is wider than the tokenizer's, as in most published models. The end token is one that greedy
    # decoding of a random model seldom meets; tests of stopping set their own.
    config = getattr(transformers, config_name)(
        **{**settings, "vocab_size": len(made) + 8, "eos_token_id": made.eos_token_id, "bos_token_id": 1}
    )
    torch.manual_seed(seed)
    model = getattr(transformers, model_name)(config).eval()
    _break_ties(model)
    model.generation_config.pad_token_id = 0
    return model, made


def _break_ties(model: Any) -> None:
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(torch.randn_like(head.weight) * 0.25)


def stock_greedy(model: Any, ids: list[int], tokens: int, **options: Any) -> list[int]:
    """What transformers' own `generate` gives greedily, without the prompt and the end token."""
    prompt = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            do_sample=False,
            use_cache=True,
            **options,
        )
    reply = out[0, len(ids) :].tolist()
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    return reply[: next((at for at, token in enumerate(reply) if token in ends), len(reply))]


def two_passes(
    model: Any, kept: torch.Tensor, other: torch.Tensor, alpha: float, tokens: int, ends: frozenset[int]
) -> list[int]:
    """The reference: no cache, two separate passes a token. kept, other: prompt embeddings [tokens, width]."""
    embed: Callable[[torch.Tensor], torch.Tensor] = model.get_input_embeddings()
    reply: list[int] = []
    with torch.no_grad():
        while len(reply) < tokens:
            said = embed(torch.tensor(reply, dtype=torch.long))
            safe = model(inputs_embeds=torch.cat([kept, said])[None], use_cache=False).logits[0, -1].float()
            opposite = model(inputs_embeds=torch.cat([other, said])[None], use_cache=False).logits[0, -1].float()
            token = int(((safe - alpha * opposite) / (1 - alpha)).argmax())
            if token in ends:
                break
            reply.append(token)
    return reply


@contextmanager
def applied(model: Any, experts: Sequence[Any]) -> Iterator[bool]:
    """Within, row i of a forward of `model` runs under experts[i], None is the model alone. Gives whether any does."""
    with acting(model, by_rows([[each] if each is not None else [] for each in experts])):
        yield any(each is not None for each in experts)
