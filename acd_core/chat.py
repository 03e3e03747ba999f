"""Messages -> token ids, by the model's own chat template.

A *layout* is what the template makes of a conversation, cut at the system slot: ids before the slot, ids after it. Soft
vectors go between the two; a textual prompt is rendered by the template like any system text, so that its ids are
exactly those of `tokenizer.apply_chat_template`. Text from users, documents and tools can never become control tokens:
it is marked before rendering and encoded as plain text (transformers' `mark_control_tokens` / `encode_marked_chat`).
"""

from __future__ import annotations

import copy
import functools
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from acd_core.errors import TemplateError, UsageError

Message = Mapping[str, Any]
Conversation = Union[str, Sequence[Message]]
ROLES = ("system", "user", "assistant", "tool", "text")

SOFT: Literal["<soft>"] = "<soft>"
"""Stands for "soft vectors go here" as the `prompt` of `Chat.layout`."""

_SLOT = "\U000f0002slot\U000f0002"
_END = "\U000f0002end\U000f0002"
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool_name",
        "description": "probe",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
    },
}


@dataclass(frozen=True)
class Layout:
    """Ids before the system slot and after it. Without soft vectors everything is in `before`."""

    before: tuple[int, ...]
    after: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.before) + len(self.after)

    @property
    def ids(self) -> tuple[int, ...]:
        return self.before + self.after


class Chat:
    """Renders conversations for one tokenizer. Thread-safe; works on a private copy of the tokenizer.

    Messages are OpenAI-style dicts: role in system, user, assistant, tool; content a string (or a list of text blocks);
    tool_calls on assistant turns with `arguments` as a dict; tool_call_id on tool turns.

    A last assistant message with text and no calls is a reply already begun: the model continues it, and only what it
    adds is the reply. `"prefix": False` on it asks for a new turn instead. A last message of the role "text" is
    continued without any chat format, as a base model would: all texts of the conversation as paragraphs, in order.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise TemplateError(
                f"The tokenizer of {getattr(tokenizer, 'name_or_path', 'this model')!r} has no chat template.",
                hint="Use an instruction-tuned model, or set tokenizer.chat_template before ContrastiveLM.from_model.",
            )
        # Encoding plain text flips a switch inside the tokenizer; on a shared one that is a race and a mutation.
        self.tokenizer = copy.deepcopy(tokenizer)
        # It would warn about every long text that is only counted; what does not fit raises ContextLengthError.
        self.tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
        self._lock = threading.Lock()
        self._control = _control_pattern(self.tokenizer)
        self._start = self._sequence_start()
        self.supports_system_role = self._keeps_system_text()
        self.merges_roles = not self._renders([_user("a"), _user("b")])
        self.renders_tools = self._shows_tools()

    def layout(
        self,
        conversation: Conversation,
        prompt: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        wrap_user: str | None = None,
    ) -> Layout:
        """Ids of `conversation` with `prompt` in the system slot, ready for the reply.

        prompt: None (no text of ours), a text, or `SOFT` (cut the layout at the slot). The application's own system
        text follows it. Models without a system role get both at the start of the first user turn.
        wrap_user: a text with one "{}" laid around the last user turn (Self-Reminder).
        Raises UsageError for an empty or malformed conversation, TemplateError where the template cannot render it.
        """
        messages = self._prepare(conversation, tools)
        if wrap_user is not None:
            _wrap_last_user(messages, wrap_user)
        if messages[-1]["role"] == "text":
            return self._plain_layout(messages[-1]["content"], prompt)
        if prompt is not None:
            self._place(messages, _SLOT if prompt == SOFT else self._mark(prompt))
        text = self._render(messages, tools)
        if prompt != SOFT:
            return Layout(self._encode(text))
        head, slot, tail = text.partition(_SLOT)
        if not slot:
            raise TemplateError("The chat template drops the start of the system text, so soft prompts have no place.")
        return Layout(self._encode(head), self._encode_tail(tail))

    def text(self, conversation: Conversation, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The rendered conversation as text, as the response parser's `prefix` wants it."""
        messages = self._prepare(conversation, tools)
        plain = messages[-1]["role"] == "text"
        return _strip_marks(str(messages[-1]["content"]) if plain else self._render(messages, tools))

    def turn_start(self, conversation: Conversation, tools: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> int:
        """Where the text of the last user turn begins in `ids`, the layout of `conversation` without a prompt of ours.

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
        other = self.layout(messages, None, tools).ids
        return next((place for place, (a, b) in enumerate(zip(ids, other)) if a != b), min(len(ids), len(other)))

    @functools.cached_property
    def appended_header(self) -> tuple[int, ...]:
        """Ids that close an assistant turn under way and open a new one; empty where the template cannot do that."""
        mark = "zqxj"
        turns: list[dict[str, Any]] = [_user("a"), {"role": "assistant", "content": mark, "prefix": False}]
        try:
            _, found, tail = self._render(turns, ()).rpartition(mark)
        except TemplateError:
            return ()
        return self._encode_tail(tail) if found else ()

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of plain text: no template, no special tokens added, none recognised in it."""
        return self._encode(self._mark(text))

    # -- messages ---------------------------------------------------------------------------------------------------

    def _prepare(self, conversation: Conversation, tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        messages = check_conversation(conversation)
        if tools and not self.renders_tools:
            raise TemplateError(
                "The model's chat template ignores tools, so the model would never see them.",
                hint="Use a model whose template renders tools (acd doctor --model M says so), or leave tools out.",
            )
        messages = [self._mark(message) for message in messages]
        if messages[-1]["role"] == "text":
            return [{"role": "text", "content": "\n\n".join(each["content"] for each in messages if each["content"])}]
        messages = _join_system(messages)
        if messages[0]["role"] == "system" and not self.supports_system_role:
            system = messages.pop(0)["content"]
            self._place(messages, system)
        if self.merges_roles:
            messages = _merge_roles(messages)
        return messages

    def _place(self, messages: list[dict[str, Any]], text: str) -> None:
        """Put `text` in front of the system text; without a system role, in front of the first user turn."""
        if self.supports_system_role:
            if messages[0]["role"] == "system":
                messages[0] = {**messages[0], "content": _join(text, messages[0]["content"])}
            else:
                messages.insert(0, {"role": "system", "content": text})
            return
        for index, message in enumerate(messages):
            if message["role"] == "user":
                messages[index] = {**message, "content": _join(text, message["content"])}
                return
        raise TemplateError(
            "The model has no system role and the conversation no user turn, so the prompt has no place.",
            hint="Start the conversation with a user message.",
        )

    # -- rendering and encoding -------------------------------------------------------------------------------------

    def _plain_layout(self, text: str, prompt: str | None) -> Layout:
        """No chat format: what starts a sequence for this tokenizer, the prompt, the text."""
        if prompt == SOFT:
            return Layout(self._start, self._encode_tail(text))
        ids = self._start + self._encode(text if prompt is None else _join(self._mark(prompt), text))
        if not ids:  # no model goes on from nothing: what stands before a text stands here too
            known = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
            ids = tuple(each for each in known if each is not None)[:1]
        return Layout(ids)

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        continues = is_continued(messages)
        plain = [{key: value for key, value in message.items() if key != "prefix"} for message in messages]
        if continues:
            # A mark of ours at the end of the text: what the template writes after it closes the turn and is cut off.
            plain[-1]["content"] += _END
        try:
            rendered = self.tokenizer.apply_chat_template(
                plain,
                tools=[self._mark(dict(tool)) for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=not continues,
            )
        except Exception as error:
            raise TemplateError(
                f"The chat template cannot render this conversation: {' '.join(str(error).split())[:200]}",
                hint="Roles in order were: " + ", ".join(str(message["role"]) for message in messages[:12]),
            ) from error
        if continues:
            rendered, end, _ = str(rendered).rpartition(_END)
            if not end:
                raise TemplateError(
                    "The chat template does not show the end of the last assistant message, so it cannot be continued.",
                    hint='Mark that message "prefix": False to ask for a new turn, or leave it out.',
                )
        return str(rendered)

    def _mark(self, value: Any) -> Any:
        """Mark control tokens in every string of `value`, dict keys included (tool schemas carry user-chosen keys)."""
        if isinstance(value, Mapping):
            return {self._mark(key): self._mark(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark(item) for item in value]
        if isinstance(value, str):
            # Our own slot mark cannot come from outside either.
            return mark_control_tokens(value.replace("\U000f0002", ""), self._control)
        return value

    def _encode(self, text: str) -> tuple[int, ...]:
        with self._lock:
            return tuple(encode_marked_chat(self.tokenizer, text))

    def _encode_tail(self, text: str) -> tuple[int, ...]:
        """Encode what follows the slot: not the start of a text, so no SentencePiece prefix space."""
        newline = self._encode("\n")
        ids = self._encode("\n" + text)
        return ids[len(newline) :] if ids[: len(newline)] == newline else self._encode(text)

    # -- what the template can do, asked once ------------------------------------------------------------------------

    def _sequence_start(self) -> tuple[int, ...]:
        """The ids this tokenizer puts before any text (a BOS, mostly)."""
        ids, bos = self.tokenizer("")["input_ids"], self.tokenizer.bos_token_id
        return tuple(ids[:1]) if ids and ids[0] == bos else ()

    def _keeps_system_text(self) -> bool:
        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": "system", "content": _SLOT}, _user("probe")], tokenize=False, add_generation_prompt=True
            )
        except Exception:
            return False
        return _SLOT in text

    def _renders(self, messages: list[dict[str, Any]]) -> bool:
        try:
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception:
            return False
        return True

    def _shows_tools(self) -> bool:
        try:
            text = self.tokenizer.apply_chat_template(
                [_user("probe")], tools=[_PROBE_TOOL], tokenize=False, add_generation_prompt=True
            )
        except Exception:
            return False
        return "probe_tool_name" in text


def is_continued(messages: Sequence[Message]) -> bool:
    """Whether the reply continues the last of these (checked) messages instead of being a new turn."""
    last = messages[-1]
    begun = last["role"] == "assistant" and bool(last.get("prefix", True)) and not last.get("tool_calls")
    return begun or last["role"] == "text"


def check_conversation(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as a list of plain dicts with string contents, or a UsageError naming what is wrong."""
    if isinstance(conversation, str):
        conversation = [{"role": "user", "content": conversation}]
    if not isinstance(conversation, Sequence):
        raise UsageError(
            f"A conversation is a string or a list of messages, not {type(conversation).__name__}.",
            hint='For example [{"role": "user", "content": "Hello"}].',
        )
    if not conversation:
        raise UsageError("The conversation is empty.", hint='Send at least [{"role": "user", "content": "Hello"}].')
    messages = []
    for index, message in enumerate(conversation):
        if not isinstance(message, Mapping) or "role" not in message:
            raise UsageError(f"Message {index} is not a dict with a role.", hint='{"role": "user", "content": "..."}')
        role = message["role"]
        if role not in ROLES:
            raise UsageError(f"Message {index} has the unknown role {role!r}.", hint=f"Roles: {', '.join(ROLES)}.")
        messages.append({**message, "content": _content_text(message.get("content"), index)})
        if not isinstance(message.get("tool_calls") or [], (list, tuple)):
            raise UsageError(f"tool_calls of message {index} is not a list.")
        if role == "text" and index != len(conversation) - 1:
            raise UsageError(f"Message {index} has the role 'text' and is not the last.", hint="Only the last may.")
        if messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"] = [_tool_call(call, index) for call in messages[-1]["tool_calls"]]
    return messages


def _content_text(content: Any, index: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, (list, tuple)):
        parts = []
        for block in content:
            if isinstance(block, str):
                parts.append(block)
            elif isinstance(block, Mapping) and block.get("type", "text") == "text" and "text" in block:
                parts.append(str(block["text"]))
            else:
                kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
                raise UsageError(f"Message {index} holds a block of type {kind!r}; this engine reads text only.")
        return "".join(parts)
    raise UsageError(f"The content of message {index} is a {type(content).__name__}, not text.")


def _tool_call(call: Any, index: int) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or "name" not in function:
        raise UsageError(
            f"A tool call of message {index} has no function name.",
            hint='{"id": "...", "type": "function", "function": {"name": "f", "arguments": {...}}}',
        )
    return {**call, "type": "function", "function": {**function, "arguments": function.get("arguments") or {}}}


def _control_pattern(tokenizer: Any) -> re.Pattern[str]:
    """A regex of everything that must not come from outside: special tokens, and added tokens the template writes
    (like `<tool_call>`). Whitespace tokens, which Gemma and Phi add, are ordinary text."""
    template = str(tokenizer.chat_template)
    found = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or (token.content in template and not token.content.isspace())
    }
    longest_first = sorted((text for text in found if text), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _strip_marks(text: str) -> str:
    return text.replace("\U000f0000", "").replace("\U000f0001", "").replace("\U000f0002", "")


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _join(first: str, second: str) -> str:
    return f"{first}\n\n{second}" if second else first


def _join_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All system messages as one at the front, in order: templates know one, applications send several."""
    system = [message["content"] for message in messages if message["role"] == "system" and message["content"]]
    others = [message for message in messages if message["role"] != "system"]
    if not others:
        raise UsageError("The conversation holds system text only.", hint="Add a user message.")
    return [{"role": "system", "content": "\n\n".join(system)}, *others] if system else others


def _merge_roles(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours of one role as one turn, for templates that demand alternation. Tool turns stay apart."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        last = merged[-1] if merged else None
        joinable = last is not None and last["role"] == message["role"] and message["role"] in ("user", "assistant")
        if last is not None and joinable and not last.get("tool_calls"):
            merged[-1] = {**last, **message, "content": _join(last["content"], message["content"])}
        else:
            merged.append(message)
    return merged


def _wrap_last_user(messages: list[dict[str, Any]], frame: str) -> None:
    before, _, after = frame.partition("{}")
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] in ("user", "text"):
            messages[index] = {**messages[index], "content": f"{before}{messages[index]['content']}{after}"}
            return
