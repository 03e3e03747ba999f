"""Tool calls and reasoning out of a model's text, by transformers' response parser.

The parser is driven by a *response template*: the tokenizer's own, or a row of `acd_core.response_templates`, or none
(then everything is text). It wants its delimiters in the text, and in many models those are special tokens: feed the
reader text decoded with the tokens of `ToolCallReader.kept_special_ids` kept and every other special token dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from acd_core.errors import TemplateError
from acd_core.params import Event, InvalidToolCall, ReasoningDelta, TextDelta, ToolCall, ToolCallDelta
from acd_core.response_templates import ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NO_PARAMETERS = {"type": "object", "properties": {"zqargument": {"type": "string"}}}
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True)
class ToolCallFormat:
    """How a model writes calls, as text around the name and the JSON of the arguments:
    `head name middle arguments tail`, and with several calls `separator` between arguments and the next name."""

    head: str
    middle: str
    tail: str
    separator: str | None = None

    @classmethod
    def around(cls, open_text: str, close_text: str) -> ToolCallFormat:
        """`open_text {"name": name, "arguments": arguments} close_text`, repeated with a newline between."""
        head, tail = open_text + '{"name": "', "}" + close_text
        return cls(head, '", "arguments": ', tail, tail + "\n" + head)


@dataclass(frozen=True)
class ParsedReply:
    """A reply taken apart. `text` is the sum of the TextDeltas, `reasoning` that of the ReasoningDeltas or None."""

    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()


def response_template_for(tokenizer: PreTrainedTokenizerBase, model_type: str | None = None) -> dict[str, Any] | None:
    """The tokenizer's own response template, else the first row of our table that applies, else None.

    `model_type` is the config's; a row that lists model types applies to those only.
    """
    own = getattr(tokenizer, "response_template", None)
    if own is not None:
        return dict(own)
    chat = chat_template_text(tokenizer)
    for row in ROWS:
        if row.get("model_types") and model_type not in row["model_types"]:
            continue
        if chat and all(mark in chat for mark in row["marks"]):
            return row["template"]
    return None


def chat_template_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template as one string (several named ones joined); "" without."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return "\n".join(template.values()) if isinstance(template, dict) else str(template)


def parses_tools(template: Mapping[str, Any] | None) -> bool:
    """Whether tool calls can be read by `template`."""
    return template is not None and any(name.startswith("tool_calls") for name in template.get("fields", {}))


def kept_special_ids(tokenizer: PreTrainedTokenizerBase, template: Mapping[str, Any] | None) -> frozenset[int]:
    """Ids of the special tokens whose text is part of a delimiter of `template`; the reader needs to see them."""
    if template is None:
        return frozenset()
    # Patterns are regular expressions: taking the backslashes away gives back the literal text of a token in them.
    delimiters = [re.sub(r"\\(.)", r"\1", text) for text in _strings(template.get("fields", {}))]
    special = special_tokens(tokenizer)
    return frozenset(i for i, text in special.items() if any(text in delimiter for delimiter in delimiters))


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Every special token by its id: the named ones (BOS, EOS, ...) and those the vocabulary marks (Llama 3's
    `<|python_tag|>`, say), which `all_special_ids` leaves out."""
    named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    marked = ((i, token.content) for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return {int(i): str(text) for i, text in (*named, *marked)}


def tool_call_format(tokenizer: PreTrainedTokenizerBase, eos_ids: Iterable[int] = ()) -> ToolCallFormat | None:
    """How the model's own chat template writes calls, found by rendering some; None when the template ignores calls
    or writes arguments in another way than JSON (then a call can be read but not forced).

    `eos_ids` end a turn (the tokenizer's own EOS counts in any case): what the template writes from there on is no
    part of a call.
    """
    user = {"role": "user", "content": "x"}

    def render(calls: int) -> str:
        made = [
            {
                "id": f"zqcall{n:03d}",
                "type": "function",
                "function": {"name": f"zqname{n}", "arguments": {f"zqkey{n}": f"zqvalue{n}"}},
            }
            for n in range(calls)
        ]
        messages: list[Any] = [user, {"role": "assistant", "content": "", "tool_calls": made}] if calls else [user]
        tool = {"type": "function", "function": {"name": "zqtool", "description": "x", "parameters": _NO_PARAMETERS}}
        rendered = tokenizer.apply_chat_template(
            messages, tools=[tool], tokenize=False, add_generation_prompt=not calls
        )
        return re.sub(r',\s*"id":\s*"zqcall\d+"', "", str(rendered))

    def split(text: str, calls: int) -> list[str] | None:
        pattern = "(.*)"
        for n in range(calls):
            pattern += rf'zqname{n}(.*?)\{{\s*"zqkey{n}"\s*:\s*"zqvalue{n}"\s*\}}(.*{"?" if n + 1 < calls else ""})'
        match = re.fullmatch(pattern, text, re.DOTALL)
        return list(match.groups()) if match else None

    try:  # a template may refuse anything: no tools, no calls, no system text, ids of its own form
        prompt, one = render(0), split(render(1), 1)
    except Exception:
        return None
    if one is None or not one[0].startswith(prompt):
        return None
    head, middle, tail = one[0][len(prompt) :], one[1], one[2]
    ends = {tokenizer.eos_token, *tokenizer.convert_ids_to_tokens(sorted(eos_ids))} - {None}
    found = [tail.find(end) for end in ends if end in tail]
    tail = tail[: min(found)] if found else tail.rstrip()
    if "zq" in head + middle + tail:
        return None
    try:
        two = split(render(2), 2)
    except Exception:  # Llama 3's templates refuse several calls in one reply
        two = None
    separator = two[2] if two and two[0] == one[0] and two[1] == middle and two[3] == middle else None
    if separator is not None and "zq" in separator:
        separator = None
    return ToolCallFormat(head, middle, tail, separator)


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

    parallel: False keeps the first call of a reply and drops what other calls follow it.

    Whatever the pieces, the same text gives the same reply. Whitespace around reasoning and calls is dropped; a reply
    without them is passed through to the letter. Ids of calls are 9 letters and digits (Mistral's templates insist),
    made from prefix, position and text, so that equal requests give equal ids.
    """

    kept_special_ids: frozenset[int]
    needs_special_tokens: bool

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prefix: str,
        tools: Sequence[Mapping[str, Any]] = (),
        template: Mapping[str, Any] | None = None,
        *,
        parallel: bool = True,
    ) -> None:
        self._parallel = parallel
        used = _usable(template, with_calls=bool(tools))
        self.kept_special_ids = kept_special_ids(tokenizer, used)
        self.needs_special_tokens = bool(self.kept_special_ids)
        self._id_seed = blake2b(prefix.encode("utf-8", "surrogatepass")).digest()
        self._text = _Channel(TextDelta)
        self._reasoning = _Channel(ReasoningDelta)
        self._reasoning.broken = True  # models write a newline after the opening mark
        self._calls: list[ToolCall] = []
        self._invalid: list[InvalidToolCall] = []
        self._tool_names = {_function(tool).get("name") for tool in tools}
        self._parser = _parser(used, prefix, [dict(tool) for tool in tools]) if used is not None else None
        self._count = 0
        if self._parser is not None:
            for event in self._parser.initial_events:
                # What the template itself wrote is no part of the reply, but decides where the reply starts.
                if event["type"] == "region_open" and event["field"] != self._parser.implicit_field:
                    self._text.broken = True

    def feed(self, text_delta: str) -> list[Event]:
        """New text of the reply; the events it completes."""
        if self._parser is None:
            return self._text.add(text_delta)
        return self._translate(self._parser.feed(text_delta))

    def finish(self) -> tuple[list[Event], ParsedReply]:
        """The end of the reply: the last events, and the whole."""
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
            if kind == "region_chunk" and not is_call:
                events += (self._reasoning if field in _REASONING_FIELDS else self._text).add(event["text"])
            elif kind == "region_open" and field != self._parser.implicit_field:
                if not event.get("bare"):
                    self._text.break_off()
            elif kind == "region_close" and field in _REASONING_FIELDS:
                self._reasoning.break_off()
            elif kind == "region_close" and is_call:
                events += self._calls_of(event)
        return events

    def _calls_of(self, event: dict[str, Any]) -> list[Event]:
        """A closed call region as events. Nothing but JSON at the reply's start marks a bare call, so one that is not
        a call of a tool we offered was meant as text."""
        assert self._parser is not None
        body, problem = event["body"], event.get("error")
        found = [] if problem else _call_shapes(event["value"])
        if event.get("bare") and (problem or any(name not in self._tool_names for name, _ in found)):
            return self._text.add(body)
        if event.get("bare"):
            self._text.break_off()
        events: list[Event] = []
        for name, arguments in found or [(None, problem or "no call in it")]:
            if self._calls and not self._parallel:
                continue
            if name is not None and isinstance(arguments, dict):
                cast = self._parser.cast(name, arguments)
                call = ToolCall(id=self._next_id(body), name=name, arguments=cast)
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


def _call_shapes(value: Any) -> list[tuple[str | None, Any]]:
    """(name, arguments) of every call in a parsed region; for what is no call (None or name, the complaint)."""
    if isinstance(value, list):
        return [shape for item in value for shape in _call_shapes(item)]
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if isinstance(function, str) and isinstance(value, Mapping):  # {"type": "function", "function": name, ...}
        function = {**value, "name": function}
    if not isinstance(function, Mapping):
        wrong = value if function is None else function
        return [(None, f"a call is an object with a name and arguments, not {type(wrong).__name__}")]
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        return [(None, "the call has no name")]
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            return [(name, f"the arguments are not JSON: {error}")]
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return [(name, f"the arguments are not an object but {type(arguments).__name__}")]
    return [(name, arguments)]


def _usable(template: Mapping[str, Any] | None, *, with_calls: bool) -> dict[str, Any] | None:
    """`template` with every field optional (a missing one must not raise), and without calls unless wanted."""
    if template is None:
        return None
    fields = template.get("fields")
    if not isinstance(fields, Mapping):
        raise TemplateError(f"The response template has no fields: {str(template)[:80]!r}")
    kept = {
        name: {**field, "optional": True} if isinstance(field, Mapping) else field
        for name, field in fields.items()
        if with_calls or not name.startswith("tool_calls")
    }
    return {**template, "fields": kept} if kept else None


def _parser(template: dict[str, Any], prefix: str, tools: list[Any]) -> Any:
    """transformers' parser, taught to go on after a region it cannot parse. Imported here: transformers is heavy."""
    from transformers.utils.chat_parsing import ResponseParser
    from transformers.utils.chat_parsing.response_templates import load_response_template

    class ForgivingParser(ResponseParser):
        """Region events get `body` (the raw text), `bare` (opened by no delimiter of its own) and, when the region
        could not be parsed or was cut off, `error`. Checked against transformers 5.23; tests/core/test_toolcalls.py
        fails if the private names used here go away."""

        implicit_field: str | None
        _bare = False
        _at_end = False

        def close(self) -> list[dict[str, Any]]:
            return list(self.finalize()[1])

        def cast(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
            value = {"function": {"name": name, "arguments": arguments}}
            return dict(self._coerce_tool_calls(value)["function"]["arguments"])

        def _scan(self, watch: Any, eos: bool) -> Any:
            found = super()._scan(watch, eos)
            self._at_end = eos and found[0] is None  # what closes now is closed by the end of the reply
            return found

        def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
            super()._open_explicit(events, field, m)
            self._bare = not m.group().strip()
            events[-1]["bare"] = self._bare

        def _close_current(self, events: list[dict[str, Any]]) -> None:
            name, body, bare = self._current, self._body, self._bare
            before, error = len(events), self._cut_off()
            try:
                super()._close_current(events)
            except Exception as problem:  # a template's transform can fail in any way on what a model writes
                error = error or _short(problem)
                events.append({"type": "region_close", "field": name, "value": None})
                self._reset_to_implicit()
            for event in events[before:]:
                event.update(body=body, bare=bare, error=error)
            self._bare = False

        def _cut_off(self) -> str | None:
            """Why a region that ends with the reply is incomplete. JSON shows that by itself; the inline formats
            would silently lose arguments."""
            if not self._at_end or self._current is None or self._current == self._implicit_name:
                return None
            field = self._spec.fields[self._current]
            if field.close_re is None or field.content in ("json", "text"):
                return None
            return "the call was cut off before its closing mark"

    try:
        spec = load_response_template(template)
    except (ValueError, KeyError, TypeError) as error:
        raise TemplateError(f"The response template cannot be used: {error}") from error
    # Without the anchor the parser would read the whole prompt, users' text and all, as if the model had written it.
    anchored = prefix if spec.start_anchor_re.search(prefix) else ""
    parser = ForgivingParser(spec, prefix=anchored, tools=tools)
    parser.implicit_field = spec.implicit
    return parser


def _short(error: Exception) -> str:
    """The last line of transformers' parse errors says what is wrong; the lines before repeat the whole text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
