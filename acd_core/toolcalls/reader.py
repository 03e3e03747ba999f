"""Tool calls and reasoning read out of a model's text, by transformers' response parser.

The parser is driven by a *response template*: the tokenizer's own, or a row of `response_templates`, or none
(then everything is text). It wants its delimiters in the text, and in many models those are special tokens: feed the
reader text decoded with the tokens of `ToolCallReader.kept_special_ids` kept and every other special token dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from acd_core.errors import TemplateError
from acd_core.params import Event, InvalidToolCall, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta
from acd_core.toolcalls.arguments import call_shapes, cast_arguments, why_not_json
from acd_core.toolcalls.call_formats import special_tokens
from acd_core.toolcalls.reply_parser import make_parser

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_REASONING = ("reasoning", "thinking")


@dataclass(frozen=True)
class ParsedReply:
    """A reply taken apart. `text` is the sum of the TextDeltas, `reasoning` that of the ReasoningDeltas or None."""

    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()


def parses_tools(template: Mapping[str, Any] | None) -> bool:
    """Whether tool calls can be read by `template`."""
    return template is not None and any(name.startswith("tool_calls") for name in template.get("fields", {}))


def parses_thoughts(template: Mapping[str, Any] | None) -> bool:
    """Whether thoughts can be told from the reply by `template`."""
    return template is not None and any(name.startswith(_REASONING) for name in template.get("fields", {}))


def kept_special_ids(tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any] | None) -> frozenset[int]:
    """Ids of the special tokens whose text is part of a delimiter of `template`; the reader needs to see them."""
    if template is None:
        return frozenset()
    # Patterns are regular expressions: taking the backslashes away gives back the literal text of a token in them.
    delimiters = [re.sub(r"\\(.)", r"\1", text) for text in _strings(template.get("fields", {}))]
    special = special_tokens(tokenizer)
    return frozenset(i for i, text in special.items() if any(text in delimiter for delimiter in delimiters))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


class ToolCallReader:
    """Reads one reply, in pieces. Never raises on what a model writes.

    tokenizer: only asked for its special tokens. prefix: the rendered prompt as text, special tokens included (some
    templates begin the reply themselves, with `<think>` for instance). tools: OpenAI-style tools; their schemas cast
    arguments ("3" to 3). Without tools nothing is taken for a call: JSON that only looks like one stays text.
    template: from `response_template_for`, or None to pass text through. Raises TemplateError for a bad template.

    begun: the prompt ends within the reply's text, whatever marks the template put before it; no letter of what follows
    is left out.

    parallel: False keeps the first call of a reply and drops what other calls follow it.

    Whatever the pieces, the same text gives the same reply. Whitespace around reasoning and calls is dropped; a reply
    without them is passed through to the letter. Ids of calls are 9 letters and digits (Mistral's templates insist),
    made from prefix, position and text, so that equal requests give equal ids.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prefix: str,
        tools: Sequence[Mapping[str, Any]] = (),
        template: Mapping[str, Any] | None = None,
        *,
        parallel: bool = True,
        begun: bool = False,
    ) -> None:
        self._parallel = parallel
        used = _usable(template, with_calls=bool(tools))
        self._tokenizer, self._template = tokenizer, used
        self._id_seed = blake2b(prefix.encode("utf-8", "surrogatepass")).digest()
        self._text = _Channel(TextDelta)
        self._reasoning = _Channel(ReasoningDelta)
        self._reasoning.broken = True  # models write a newline after the opening mark
        self._calls: list[ToolCall] = []
        self._invalid: list[InvalidToolCall] = []
        self._parameters = {str(f.get("name")): f.get("parameters") for f in map(_function, tools)}
        self._parser = make_parser(used, "" if begun else prefix) if used is not None else None
        self._count = 0
        self.marked = False  # whether a mark that is no call was seen: of a thought, of a channel
        if self._parser is not None:
            for event in self._parser.initial_events:
                # What the template itself wrote is no part of the reply, but decides where the reply starts.
                if event["type"] == "region_open" and event["field"] != self._parser.implicit_field:
                    self._text.broken = self.marked = True

    @property
    def kept_special_ids(self) -> frozenset[int]:
        """Ids of the special tokens that the reader needs to see."""
        return kept_special_ids(self._tokenizer, self._template)

    @property
    def needs_special_tokens(self) -> bool:
        """Whether there are any of them."""
        return bool(self.kept_special_ids)

    @property
    def region(self) -> str:
        """Say where the reply stands: in its "text", in "reasoning", or in a "call"."""
        field = self._parser._current if self._parser is not None else None
        if field is None or field == getattr(self._parser, "implicit_field", None):
            return "text"
        return "call" if field.startswith("tool_calls") else "reasoning" if field.startswith(_REASONING) else "text"

    @property
    def pending(self) -> str:
        """Return what is held back, because it may become a mark."""
        return "" if self._parser is None else str(self._parser._buffer[self._parser._pos :])

    def feed(self, text_delta: str) -> list[Event]:
        """Take new text of the reply. Returns the events it completes."""
        if self._parser is None:
            return self._text.add(text_delta)
        return self._translate(self._parser.feed(text_delta))

    def finish(self) -> tuple[list[Event], ParsedReply]:
        """End the reply. Returns the last events, and the whole."""
        events: list[Event] = []
        if self._parser is not None:
            events += self._translate(self._parser.close())
        events += self._reasoning.end()
        events += self._text.end()
        reply = ParsedReply(
            text=self._text.so_far,
            reasoning=self._reasoning.so_far or None,
            tool_calls=tuple(self._calls),
            invalid_tool_calls=tuple(self._invalid),
        )
        return events, reply

    def _translate(self, raw: list[dict[str, Any]]) -> list[Event]:
        assert self._parser is not None
        events: list[Event] = []
        for event in raw:
            field, kind = event["field"], event["type"]
            is_call = field.startswith("tool_calls")
            if kind == "region_open" and not is_call and field != self._parser.implicit_field:
                self.marked = True
            if kind == "region_chunk" and not is_call:
                events += (self._reasoning if field.startswith(_REASONING) else self._text).add(event["text"])
            elif kind == "region_open" and field != self._parser.implicit_field:
                if not event.get("bare"):
                    self._text.break_off()
            elif kind == "region_close" and field.startswith(_REASONING):
                self._reasoning.break_off()
            elif kind == "region_close" and is_call:
                events += self._calls_of(event)
        return events

    def _calls_of(self, event: dict[str, Any]) -> list[Event]:
        """Turn a closed call region into events.

        Nothing but JSON at the reply's start marks a bare call, so one that is not a call of a tool we offered was
        meant as text.
        """
        assert self._parser is not None
        body, problem = event["body"], event.get("error")
        try:
            found = [] if problem else call_shapes(event["value"])
        except RecursionError:
            found, problem = [], "the call is nested too deeply"
        if event.get("bare"):
            if problem or not found or any(name not in self._parameters for name, _ in found):
                return self._text.add(event["opening"] + body)
            self._text.break_off()
        events: list[Event] = []
        for name, arguments in found or [(None, problem or "no call in it")]:
            if self._calls and not self._parallel:
                continue
            if name is not None and isinstance(arguments, dict):
                arguments = cast_arguments(
                    arguments, self._parameters.get(name), loose=event["field"] in self._parser.loose_fields
                )
                arguments = why_not_json(arguments) or arguments
            if name is not None and isinstance(arguments, dict):
                call = ToolCall(id=self._next_id(body), name=name, arguments=arguments)
                events.append(ToolCallDelta(index=len(self._calls), call=call))
                self._calls.append(call)
            else:
                self._invalid.append(InvalidToolCall(self._next_id(body), body.strip(), str(arguments), name))
        return events

    def _next_id(self, text: str) -> str:
        digest = blake2b(f"{self._count}:{text}".encode("utf-8", "surrogatepass"), key=self._id_seed[:32]).digest()
        self._count += 1
        number, letters = int.from_bytes(digest[:8], "big"), []
        for _ in range(9):
            number, letter = divmod(number, len(_ID_LETTERS))
            letters.append(_ID_LETTERS[letter])
        return "".join(letters)


class _Channel:
    """Deltas of one kind of text. Whitespace at its end is held until more text follows: at a break (a call, a
    reasoning block) it is dropped, and the pieces on both sides are joined by one newline."""

    def __init__(self, kind: Callable[[str], Event]) -> None:
        self.so_far = ""
        self.broken = False
        self._kind = kind
        self._held = ""

    def add(self, text: str) -> list[Event]:
        if self.broken:
            text = text.lstrip()
            if not text:
                return []
            if self.so_far:
                self._held = "\n"
            self.broken = False
        text = self._held + text
        kept = text.rstrip()
        self._held = text[len(kept) :]
        return self._emit(kept)

    def break_off(self) -> None:
        self.broken, self._held = True, ""

    def end(self) -> list[Event]:
        held, self._held = self._held, ""
        return self._emit(held)

    def _emit(self, text: str) -> list[Event]:
        self.so_far += text
        return [self._kind(text)] if text else []


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}


def _usable(template: Mapping[str, Any] | None, *, with_calls: bool) -> dict[str, Any] | None:
    """Return `template` with every field optional (a missing one must not raise), and without calls unless wanted."""
    if template is None:
        return None
    fields = template.get("fields")
    if not isinstance(fields, Mapping):
        raise TemplateError(f"The response template has no fields: {str(template)[:80]!r}")
    kept = {
        name: {**field, "optional": True} if isinstance(field, Mapping) else field
        for name, field in fields.items()
        if with_calls or not name.startswith(("tool_calls", "void_calls"))
    }
    return {**template, "fields": kept} if kept else None
