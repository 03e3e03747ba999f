"""What can be told of a model before its weights are loaded: from its config, its tokenizer and its chat template."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from acd_core.backbone import context_length_of, read_config_and_tokenizer, text_config
from acd_core.chat import SOFT, Chat
from acd_core.decoding.methods import Method, Slot, Source, method_named
from acd_core.pair import PromptPair
from acd_core.toolcalls import parses_tools, response_template_for

_PROBE = [{"role": "user", "content": "x"}]
_BOTH = [{"role": "system", "content": "x"}, *_PROBE]


@dataclass(frozen=True)
class ModelFacts:
    """context_length: positions of the model. own_tokens: how many of them the method's prompts take (soft vectors, or
    the tokens of a text, with the turn they open). frame_tokens: what the template writes around one system and one
    user text. supports_tools: tools are rendered and calls can be read back."""

    context_length: int
    own_tokens: int
    frame_tokens: int
    supports_system_role: bool
    renders_tools: bool
    supports_tools: bool

    @property
    def max_input_tokens(self) -> int:
        """Tokens of a conversation, as `ContrastiveLM.count_tokens` counts them, that leave room for our prompts."""
        return max(self.context_length - self.own_tokens, 0)


def read_facts(
    model: str,
    pair: str | os.PathLike[str] | PromptPair | None = None,
    method: str | None = None,
    *,
    revision: str | None = None,
) -> ModelFacts:
    """The facts of a model that need not be loaded: a folder, a hub id or "reference". Reads no weights.

    Raises ModelError, TemplateError, PairError and UsageError as `ContrastiveLM.from_pretrained` does, except for a
    pair that belongs to another model: only weights can tell.
    """
    config, tokenizer = read_config_and_tokenizer(model, revision=revision)
    found = pair if isinstance(pair, PromptPair) or pair is None else PromptPair.load(pair)
    name = method if method is not None else ("acd" if found is not None else "none")
    chat = Chat(tokenizer)
    kind = getattr(text_config(config), "model_type", None)
    readable = parses_tools(response_template_for(tokenizer, kind))
    return facts_of(chat, context_length_of(text_config(config), tokenizer), found, method_named(name), readable)


def facts_of(
    chat: Chat, context_length: int, pair: PromptPair | None, method: Method, reads_tool_calls: bool
) -> ModelFacts:
    """The facts of a model whose chat is there already."""
    return ModelFacts(
        context_length=context_length,
        own_tokens=own_tokens(chat, method, pair),
        frame_tokens=len(chat.layout(_BOTH)) - 2 * len(chat.encode_text("x")),
        supports_system_role=chat.supports_system_role,
        renders_tools=chat.renders_tools,
        supports_tools=chat.renders_tools and reads_tool_calls,
    )


def own_tokens(chat: Chat, method: Method, pair: PromptPair | None) -> int:
    """Tokens and vectors that `method` adds to a conversation, in the branch where it adds more."""
    asked: list[dict[str, Any]] = list(_PROBE)
    if method.demonstration is not None:
        shown = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), method.demonstration)]
        asked = [*shown, *asked]

    def taken(source: Source) -> int:
        prompt = _prompt(source, pair)
        if prompt is None or isinstance(prompt, str):
            return len(chat.layout(asked, prompt, wrap_user=method.wrap_user))
        return int(prompt.shape[0]) + len(chat.layout(asked, SOFT, wrap_user=method.wrap_user))

    sources = (method.kept,) if method.other is None else (method.kept, method.other)
    return max(map(taken, sources)) - len(chat.layout(_PROBE))


def _prompt(source: Source, pair: PromptPair | None) -> Any:
    if isinstance(source, str):
        return source
    if source is Slot.NOTHING or pair is None:
        return None
    return pair.safeguarding if source is Slot.PAIR_SAFE else pair.adversarial
