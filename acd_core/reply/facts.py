"""What can be told of a model before its weights are loaded: from its config, its tokenizer and its chat template."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from acd_core.artifacts.learnt_files import method_for
from acd_core.artifacts.pair import PromptPair
from acd_core.chat import SOFT, Chat
from acd_core.methods.table import Method, Slot, Source, method_named
from acd_core.model.backbone import context_length_of, read_config_and_tokenizer, text_config
from acd_core.toolcalls import parses_tools, response_template_for

# A word may be one token together with the space before it, or two: what stands in front of a text changes its tokens.
_WORDS = ("x", "a", "the", "Hello", "1", "~")
_PROBES = [
    [{"role": role, "content": word} for role in roles] for word in _WORDS for roles in (("user",), ("system", "user"))
]


@dataclass(frozen=True)
class ModelFacts:
    """context_length: positions of the model. own_tokens: how many of them the method's prompts take at most, whatever
    the conversation (soft vectors, or the tokens of a text, with the turn they open or the text they stand before).
    frame_tokens: what the template writes at most around one user text, or one system and one user text, beyond
    own_tokens; a system text of the template's own is part of it. supports_tools: tools are rendered and calls can be
    read back."""

    context_length: int
    own_tokens: int
    frame_tokens: int
    supports_system_role: bool
    renders_tools: bool
    supports_tools: bool

    @property
    def max_input_tokens(self) -> int:
        """Tokens of a conversation, as `ContrastiveLM.count_tokens` counts them, and of its reply, together.

        It leaves no room for the reply: with `max_tokens=n` a conversation of `max_input_tokens - n` tokens is served,
        and one of a token more raises ContextLengthError. (With a system text of the application's it may be served:
        that one shares its turn with ours, where a turn of our own would take some tokens more.)
        """
        return max(self.context_length - self.own_tokens, 0)


def read_facts(
    model: str,
    pair: str | os.PathLike[str] | PromptPair | None = None,
    method: str | None = None,
    *,
    expert: object | None = None,
    revision: str | None = None,
) -> ModelFacts:
    """The facts of a model that need not be loaded: a folder, a hub id or "reference". Reads no weights.

    expert: what is given as one; it matters only where no method is named, and of a folder only the kind is read.

    Raises ModelError, TemplateError, PairError and UsageError as `ContrastiveLM.from_pretrained` does, except for a
    pair that belongs to another model: only weights can tell.
    """
    config, tokenizer = read_config_and_tokenizer(model, revision=revision)
    found = pair if isinstance(pair, PromptPair) or pair is None else PromptPair.load(pair)
    chosen = method_named(method if method is not None else method_for(found, expert))
    chat = Chat(tokenizer)
    kind = getattr(text_config(config), "model_type", None)
    readable = parses_tools(response_template_for(tokenizer, kind))
    length = context_length_of(text_config(config), tokenizer)
    gated = found is not None and found.gate is not None
    return facts_of(chat, length, found, chosen, readable, contrasts=_contrasts(chosen, found), gated=gated)


def facts_of(
    chat: Chat,
    context_length: int,
    pair: PromptPair | None,
    method: Method,
    reads_tool_calls: bool,
    *,
    contrasts: bool,
    gated: bool,
) -> ModelFacts:
    """The facts of a model whose chat is there already. contrasts, gated: as in `own_tokens`."""
    most, beside = own_tokens(chat, method, pair, contrasts=contrasts, gated=gated)
    frames = []
    for probe in _PROBES:
        around = len(chat.layout(probe)) - sum(len(chat.encode_text(turn["content"])) for turn in probe)
        frames.append(around + (beside - most if len(probe) > 1 else 0))
    return ModelFacts(
        context_length=context_length,
        own_tokens=most,
        frame_tokens=max(frames),
        supports_system_role=chat.supports_system_role,
        renders_tools=chat.renders_tools,
        supports_tools=chat.renders_tools and reads_tool_calls,
    )


def own_tokens(chat: Chat, method: Method, pair: PromptPair | None, *, contrasts: bool, gated: bool) -> tuple[int, int]:
    """The most that `method` adds to a conversation, in the branch where it adds more; and to one with a system text.

    A system text of the application's shares its turn with ours, so that less is added than with a turn of our own; one
    of the template's own, as in Qwen2.5, disappears when there is another, so that less is added without a system text.
    contrasts: whether the other streams are in force. gated: whether a gate decides, so that the conversation may also
    run without any prompt of ours.
    """
    found = [_added(chat, probe, method, pair, contrasts, gated) for probe in _PROBES]
    return max(found), max(added for added, probe in zip(found, _PROBES) if len(probe) > 1)


def _added(
    chat: Chat, probe: list[dict[str, Any]], method: Method, pair: PromptPair | None, contrasts: bool, gated: bool
) -> int:
    asked = list(probe)
    if method.demonstration is not None:
        shown = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), method.demonstration)]
        asked[-1:-1] = shown  # behind the system text
    plain = len(chat.layout(probe))

    def taken(source: Source) -> int:
        prompt = _prompt(source, pair)
        if prompt is None or isinstance(prompt, str):
            return len(chat.layout(asked, prompt, wrap_user=method.wrap_user))
        return int(prompt.shape[0]) + len(chat.layout(asked, SOFT, wrap_user=method.wrap_user))

    sources = [stream.prompt for stream in (method.streams if contrasts else method.streams[:1])]
    sizes = [taken(source) for source in sources if source is not None]
    return max([*sizes, plain] if gated and method.name != "none" else sizes) - plain


def _contrasts(method: Method, pair: PromptPair | None) -> bool:
    """Whether `method` contrasts where no call says otherwise."""
    own = pair if method.needs_pair else None
    tokens = method.contrast_tokens
    if tokens is None and own is not None:
        tokens = own.contrast_tokens
    return method.contrasts and (own.alpha if own is not None else method.alpha) > 0.0 and tokens != 0


def _prompt(source: Source, pair: PromptPair | None) -> Any:
    if isinstance(source, str):
        return source
    if source is Slot.NOTHING or pair is None:
        return None
    return pair.safeguarding if source is Slot.PAIR_SAFE else pair.adversarial
