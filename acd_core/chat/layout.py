"""Messages -> token ids, by the model's own chat template.

A *layout* is what the template makes of a conversation, cut at the system slot: ids before the slot, ids after it. Soft
vectors go between the two; a textual prompt is rendered by the template like any system text, so that its ids are
exactly those of `tokenizer.apply_chat_template`. Text from users, documents and tools can never become control tokens:
it is marked before rendering and encoded as plain text, and the ids are checked (`acd_core.chat.template`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from acd_core.chat.control_tokens import strip_marks
from acd_core.chat.conversation import (
    Conversation,
    Turns,
    canonical,
    check_conversation,
    check_tools,
    join_texts,
    merge_roles,
    wrap_last_user,
)
from acd_core.chat.encoding import SLOT, private_copy
from acd_core.chat.template import ChatTemplate
from acd_core.errors import ContextLengthError, TemplateError
from acd_core.locks import lazy

SOFT: Literal["<soft>"] = "<soft>"
"""Stands for "soft vectors go here" as the `prompt` of `Chat.layout`."""
_NO_VARIABLES: Mapping[str, Any] = {}
_SURELY_SHORT = 1 << 17  # characters that are rendered in no time, so that nothing is gained by refusing early


@dataclass(frozen=True)
class Layout:
    """Ids before the system slot and after it. Without soft vectors everything is in `before`.

    rendering: what the template wrote, with the marks that keep texts from outside apart.
    """

    before: tuple[int, ...]
    after: tuple[int, ...] = ()
    rendering: str = field(default="", compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    @property
    def ids(self) -> tuple[int, ...]:
        return self.before + self.after

    @lazy
    def text(self) -> str:
        """The rendered conversation, as the response parser's `prefix` wants it."""
        return strip_marks(self.rendering)


class Chat:
    """Renders conversations for one tokenizer. Thread-safe without a lock: works on a private copy of the tokenizer,
    which nothing changes, so that a short conversation never waits for a long one.

    Messages are OpenAI-style dicts: role in system, user, assistant, tool; content a string (or a list of text blocks);
    tool_calls on assistant turns with `arguments` as a dict (or JSON text); tool_call_id on tool turns.

    A last assistant message with text and no calls is a reply already begun: the model continues it, and only what it
    adds is the reply. `"prefix": False` on it, or a system text behind it, asks for a new turn instead. A last message
    of the role "text" is continued without any chat format, as a base model would: all texts of the conversation as
    paragraphs, in order.

    variables, in all methods: variables of the template (`GenerationParams.chat_template_kwargs`).
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError(
                f"The tokenizer of {getattr(tokenizer, 'name_or_path', 'this model')!r} has no chat template.",
                hint="Use an instruction-tuned model, or set tokenizer.chat_template before ContrastiveLM.from_model.",
            )
        self.tokenizer = private_copy(tokenizer)
        self.template = ChatTemplate(self.tokenizer)
        self._encoder = self.template.encoder
        self._start = self._sequence_start()

    @property
    def supports_system_role(self) -> bool:
        return self.template.supports_system_role

    @property
    def merges_roles(self) -> bool:
        """Whether the template wants turns to alternate."""
        return self.template.merges_roles

    @property
    def renders_tools(self) -> bool:
        """Whether the template shows tools to the model."""
        return self.template.renders_tools

    def layout(
        self,
        conversation: Conversation,
        prompt: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        wrap_user: str | None = None,
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> Layout:
        """Return ids of `conversation` with `prompt` in the system slot, ready for the reply.

        prompt: None (no text of ours), a text, or `SOFT` (cut the layout at the slot). The application's own system
        text follows it. Models without a system role get both at the start of the first user turn.
        wrap_user: a text with one "{}" laid around the last user turn (Self-Reminder).
        Raises UsageError for an empty or malformed conversation, TemplateError where the template cannot render it, or
        leaves a part of it out.
        """
        messages = self._prepare(conversation, tools)
        if wrap_user is not None:
            wrap_last_user(messages, wrap_user)
        if messages[-1]["role"] == "text":
            return self._plain_layout(messages[-1]["content"], prompt)
        made = self.template.rendering(messages, tools, SLOT if prompt == SOFT else prompt, variables)
        if prompt == SOFT and SLOT not in made.text:
            raise TemplateError("The chat template drops the start of the system text, so soft prompts have no place.")
        return Layout(made.encoded.before, made.encoded.after, made.text)

    def text(
        self,
        conversation: Conversation,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> str:
        """Return the rendered conversation as text, without a prompt of ours."""
        return self.layout(conversation, None, tools, variables=variables).text

    def repairs(self, conversation: Conversation, tools: Sequence[Mapping[str, Any]] = ()) -> tuple[str, ...]:
        """Return names of what is done to `conversation` before the template renders it whole. Raises as `layout`."""
        return self.template.repairs(self._prepare(conversation, tools), tools)

    def turn_start(
        self,
        conversation: Conversation,
        tools: Sequence[Mapping[str, Any]],
        ids: Sequence[int],
        variables: Mapping[str, Any] = _NO_VARIABLES,
    ) -> int:
        """Return where the text of the last user turn begins in `ids`, the layout of `conversation` without a prompt of
        ours.

        Neighbouring user messages are one turn. Where there is none, it is what follows the start of the sequence: the
        first token's states are like no other's.
        """
        messages = check_conversation(conversation)
        at = max((index for index, each in enumerate(messages) if each["role"] == "user"), default=None)
        if at is None or messages[-1]["role"] == "text":
            return min(max(1, len(self._start)), len(ids) - 1)
        while at > 0 and messages[at - 1]["role"] == "user":
            at -= 1
        probe = next(text for text in ("\u00a7", "\u00b6") if not messages[at]["content"].startswith(text))
        messages[at] = {**messages[at], "content": probe}
        other = self.layout(messages, None, tools, variables=variables).ids
        return next((place for place, (a, b) in enumerate(zip(ids, other)) if a != b), min(len(ids), len(other)))

    @lazy
    def appended_header(self) -> tuple[int, ...]:
        """Ids that close an assistant turn under way and open a new one; empty where the template cannot do that."""
        mark = "zqxj"
        turns: Turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark, "prefix": False}]
        try:
            _, found, tail = self.template.render(turns).rpartition(mark)
        except TemplateError:
            found, tail = "", ""
        return self._encoder.encode_tail(tail) if found else ()

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Return ids of plain text: no template, no special tokens added, none recognised in it."""
        return self._encoder.encode_outside(text)

    def check_length(self, conversation: Conversation, context_length: int) -> None:
        """Raise ContextLengthError for a conversation that cannot fit by far, before it is rendered several times.

        Says nothing of one that might fit: only what every template shows whole is counted, which is the texts of
        system, users and tools (it may leave out thoughts, calls and what stands beside them), and what is refused
        takes more than twice `context_length` tokens. Encodes no more of it than that takes.
        """
        messages = check_conversation(conversation)
        texts = [each["content"] for each in messages if each["role"] in ("system", "user", "tool", "text")]
        size = sum(map(len, texts))
        if size > max(_SURELY_SHORT, context_length) and self._encoder.exceeds(texts, context_length):
            raise ContextLengthError(
                f"The conversation holds {size} characters, which take more than twice the {context_length} tokens of "
                "the model's context.",
                hint="Shorten it, or send the parts of it that matter (retrieve, or summarise in steps).",
            )

    def check_shows_tools(self) -> None:
        """Raise TemplateError where the template shows no tools."""
        if not self.renders_tools:
            raise TemplateError(
                "The model's chat template ignores tools, so the model would never see them.",
                hint="Use a model whose template renders tools (acd doctor --model M says so), or leave tools out.",
            )

    # -- messages ---------------------------------------------------------------------------------------------------

    def _prepare(self, conversation: Conversation, tools: Sequence[Mapping[str, Any]]) -> Turns:
        messages = check_conversation(conversation)
        check_tools(tools)
        if tools:
            self.check_shows_tools()
        if messages[-1]["role"] == "text":
            return [{"role": "text", "content": "\n\n".join(each["content"] for each in messages if each["content"])}]
        messages = canonical(messages)
        if messages[0]["role"] == "system" and not self.supports_system_role:
            system = messages.pop(0)["content"]
            messages = self.template.place_system(messages, system)
        return merge_roles(messages) if self.merges_roles else messages

    # -- encoding ---------------------------------------------------------------------------------------------------

    def _plain_layout(self, text: str, prompt: str | None) -> Layout:
        """Return no chat format: what starts a sequence for this tokenizer, the prompt, the text."""
        if prompt == SOFT:
            return Layout(self._start, self._encoder.encode_outside(text, start=False), text)
        ids = self._start + self.encode_text(text if prompt is None else join_texts(prompt, text))
        if not ids:  # no model goes on from nothing: what stands before a text stands here too
            known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            ids = tuple(each for each in known if each is not None)[:1]
        return Layout(ids, rendering=text)

    def _sequence_start(self) -> tuple[int, ...]:
        """Return the ids this tokenizer puts before any text (a BOS, mostly)."""
        ids, bos = self.tokenizer("")["input_ids"], self.tokenizer.bos_token_id
        return tuple(ids[:1]) if ids and ids[0] == bos else ()
