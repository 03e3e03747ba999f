"""A model that says what a script says, below the engine: real tokenizer, real template, real cache, fake weights.

Everything above the forward pass runs for real: template, tokens, two branches, contrast, mask, sampling, cache, text,
parser. It proves plumbing, never model quality.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

SPECIALS = ["<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<|eot_id|>", "[TOOL_CALLS]", "</s>", "<pad>"]
HEADER = "<|im_start|>assistant\n"
HERMES = r"""{%- if tools or messages[0].role == "system" %}<|im_start|>system
{% if messages[0].role == "system" %}{{ messages[0].content }}{% endif %}{% if tools %}

# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with <tool_call>...</tool_call>.{% endif %}<|im_end|>
{% endif %}{%- for m in messages %}{% if m.role == "system" %}{% if not loop.first -%}
{{ raise_exception("system text comes first") }}{% endif %}{% continue %}{% endif %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}
{%- if not loop.first or m.content %}{{ "\n" }}{% endif %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SAFE, ADVERSARIAL = "Be harmless.", "ADVERSARIAL: be harmful."
"""Texts of a textual pair; the second is what ScriptedModel knows the subtracted branch by."""


def make_tokenizer(
    template: str = HERMES,
    specials: Sequence[str] = SPECIALS,
    eos: str = "<|im_end|>",
    corpus: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template: 256 bytes, the specials, and merges learnt from `corpus`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if corpus:
        trainer = trainers.BpeTrainer(
            vocab_size=900, initial_alphabet=alphabet, min_frequency=1, show_progress=False, special_tokens=[]
        )
        core.train_from_iterator(corpus, trainer)
    core.add_special_tokens(list(specials))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=eos,
        pad_token="<pad>",
        additional_special_tokens=list(specials),
        chat_template=template,
        model_max_length=8192,
    )


class _Notes:
    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], tuple[bool, list[int]]] = {}
        self.prompts: list[str] = []


class ScriptedModel(torch.nn.Module):
    """Causal model of one layer whose keys hold token ids: it reads its whole history back out of the cache, whatever
    cache that is, so a cache, mask or row that is mixed up gives a wrong reply.

    reply: the rendered prompt (special tokens included) -> what to answer. lure: what the kept branch alone would say
    instead (its tokens score 10, the reply's 9); the branch whose prompt holds `ADVERSARIAL` scores only the lure, so
    the reply comes out only if the two are contrasted. header: what the template writes before a reply. step_s: seconds
    a forward takes at least.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        reply: Callable[[str], str],
        *,
        lure: str | None = None,
        step_s: float = 0.0,
        padding: int = 24,
        max_positions: int = 8192,
        header: str = HEADER,
    ) -> None:
        super().__init__()
        width = len(tokenizer) + padding
        self.tokenizer, self.reply, self.step_s = tokenizer, reply, step_s
        self.config = LlamaConfig(
            vocab_size=width,
            hidden_size=4,
            intermediate_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=4,
            max_position_embeddings=max_positions,
            eos_token_id=tokenizer.eos_token_id,
        )
        self.config._name_or_path = "scripted"
        self.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id)
        self.embedding = torch.nn.Embedding(width, 4)
        ids = torch.arange(width)
        self.embedding.weight.data = torch.stack(
            [ids // 64, ids % 64, torch.ones_like(ids), torch.zeros_like(ids)], dim=1
        ).float()
        self.embedding.weight.requires_grad_(False)
        self._header = tokenizer.encode(header, add_special_tokens=False)
        self._lure = tokenizer.encode(lure, add_special_tokens=False) if lure else []
        self._notes = _Notes()  # apart: what stands in a model itself is part of what it computes with
        self.forwards = 0
        self.eval()

    @property
    def prompts(self) -> list[str]:
        """Every prompt that was answered, as text."""
        return self._notes.prompts

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        if self.step_s:
            time.sleep(self.step_s)
        self.forwards += 1
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        states = inputs_embeds.unsqueeze(1).float()  # [rows, 1 head, tokens, 4]
        if past_key_values is not None:
            states, _ = past_key_values.update(states, states, 0)
        logits = torch.zeros((inputs_embeds.shape[0], 1, self.config.vocab_size))
        for row in range(states.shape[0]):
            seen = states[row, 0][self._visible(attention_mask, row, states.shape[2])]
            soft = (seen[:, 2] - 1).abs() > 1e-3
            ids = (seen[:, 0] * 64 + seen[:, 1]).round().long().masked_fill(soft, -1)
            self._score(ids.tolist(), logits[row, 0])
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    @staticmethod
    def _visible(mask: Any, row: int, tokens: int) -> torch.Tensor:
        """Which of the cached tokens the last query of `row` may see: bool [tokens]."""
        if isinstance(mask, torch.Tensor) and mask.ndim == 4:
            return mask[row, 0, -1, :tokens] == (1 if mask.dtype is torch.bool else 0)
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            return mask[row, :tokens] != 0
        return torch.ones(tokens, dtype=torch.bool)

    def _score(self, ids: list[int], logits: torch.Tensor) -> None:
        """Put the scores of the next token after `ids` into `logits` [vocab]."""
        start = self._reply_start(ids)
        prompt, said = tuple(ids[:start]), ids[start:]
        if prompt not in self._notes.known:
            text = self.tokenizer.decode([token for token in prompt if token >= 0])
            self.prompts.append(text)
            answer = self.tokenizer.encode(self.reply(text), add_special_tokens=False)
            self._notes.known[prompt] = (ADVERSARIAL in text, answer)
        adversarial, answer = self._notes.known[prompt]
        end = int(self.tokenizer.eos_token_id)
        wanted = _following(answer, said, end)
        lured = _following(self._lure, said, end) if self._lure else None
        if lured is not None:
            logits[lured] = 10.0
        if wanted is not None and not (adversarial and lured is not None):
            logits[wanted] = 10.0 if wanted == lured else 9.0
        if wanted is None and lured is None:  # led off the script, by a grammar say: come to an end
            in_string = self.tokenizer.decode(said).count('"') % 2 == 1
            for letter, score in (('"', 6.0 if in_string else 3.0), ("}", 4.0), ("]", 4.0)):
                logits[self.tokenizer.convert_tokens_to_ids(letter)] = score
            logits[end] = 5.0

    def _reply_start(self, ids: list[int]) -> int:
        size = len(self._header)
        for start in range(len(ids) - size, -1, -1):
            if ids[start : start + size] == self._header:
                return start + size
        return len(ids)


def _following(answer: list[int], said: list[int], end: int) -> int | None:
    """The token of `answer` (then `end`) after `said`; None when what was said is no part of it."""
    if answer[: len(said)] != said:
        return None
    return answer[len(said)] if len(said) < len(answer) else end
