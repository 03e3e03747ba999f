"""What form a reply must have: free text, tool calls, JSON. From settings to grammar, reader and refusal check."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from acd_core.chat import Chat, check_tools
from acd_core.engine import Matcher
from acd_core.errors import ModelError, UsageError
from acd_core.grammar.cache import OncePerKey
from acd_core.grammar.compiled import GrammarSpec
from acd_core.grammar.compiler import Grammar
from acd_core.grammar.limits import check_functions, json_of
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.params import GenerationParams, shown
from acd_core.reply.plan import PlainReader, Reader
from acd_core.toolcalls import (
    ToolCallFormat,
    ToolCallReader,
    answering,
    kept_special_ids,
    parses_tools,
    reopening,
    response_template_for,
    special_tokens,
    thought_marks,
    tool_call_format,
)

Tools = tuple[Mapping[str, Any], ...]


class MakeReader(Protocol):
    """prefix: the rendered prompt. begun: whether it ends within the reply's text."""

    def __call__(self, prefix: str, begun: bool = False, /) -> Reader: ...


def _plain(_: str, begun: bool = False) -> Reader:
    return PlainReader()


@dataclass(frozen=True)
class Format:
    """The resolved form of one reply.

    tools: what the template shows. reader: of a reply to a rendered prompt, which may end within the reply's text.
    hidden_ids: tokens whose text is never part of the reply. needs_prefix: whether readers ask for the prompt.
    matcher: makes the grammar's state, if there is one; told that a thought stands before it, the state of what may
    follow one. forced: whether the grammar allows nothing but the form, so that it leaves no words to refuse with.

    Of the words spoken before a forced format. free_reader, free_hidden_ids: as reader and hidden_ids. closing: ids
    that end a thought. answer: what opens the words behind a thought. thought_marks: what opens and closes a thought.
    """

    tools: Tools
    reader: MakeReader
    hidden_ids: frozenset[int]
    needs_prefix: bool
    matcher: Callable[[bool], Matcher] | None = None
    forced: bool = False
    free_reader: MakeReader = _plain
    free_hidden_ids: frozenset[int] = frozenset()
    closing: tuple[int, ...] = ()
    answer: tuple[str, tuple[int, ...]] | None = None
    thought_marks: tuple[tuple[str, str], ...] = ()


class Formats:
    """Resolves formats for one model. Grammars are compiled once per distinct schema."""

    def __init__(self, backbone: Backbone, chat: Chat) -> None:
        self._backbone = backbone
        self._chat = chat
        self._tokenizer = chat.tokenizer
        self._template = response_template_for(self._tokenizer, backbone.model_type)
        self._special = frozenset(special_tokens(self._tokenizer))
        self._known_wires: dict[str, tuple[ToolCallFormat, ToolCallFormat]] = {}
        self._compiled: OncePerKey[GrammarSpec] = OncePerKey(lambda spec: spec.size, most=128, room=2**30)

    @property
    def parses_tools(self) -> bool:
        """Whether tool calls can be read from this model's replies."""
        return parses_tools(self._template)

    @lazy
    def _grammar(self) -> Grammar:
        return Grammar(self._tokenizer, self._backbone.vocab_size, self._backbone.eos_ids)

    def resolve(self, settings: GenerationParams) -> Format:
        """Return the format that `settings` ask for.

        Raises UsageError for contradictions, ModelError for what the model cannot do, MissingExtraError when a forced
        format needs llguidance.
        """
        choice = settings.tool_choice
        if choice is not None and choice not in ("auto", "none") and not settings.tools:
            raise UsageError(f"tool_choice is {shown(choice)} but no tools were given.", hint="Pass tools=[...].")
        if settings.tools and settings.response_format is not None and choice not in (None, "auto", "none"):
            raise UsageError(
                "A reply cannot be both a forced tool call and a JSON document.", hint="Ask for one of them."
            )
        check_tools(settings.tools)
        tools: Tools = () if choice == "none" else settings.tools
        written = "[]"  # the tools as JSON
        if tools:
            written = check_functions(tools)
            self._chat.check_shows_tools()
        if tools and not self.parses_tools:
            raise ModelError(
                f"Tool calls of {self._backbone.model_id!r} cannot be read: its tokenizer has no response_template and "
                "its chat template matches no known one.",
                hint="Set tokenizer.response_template (transformers' chat-templating guide), or leave tools out.",
            )
        calls_forced = bool(tools) and choice not in (None, "auto")
        forced = calls_forced or settings.response_format is not None
        strict = [_is_strict(tool) for tool in tools]
        offered = tuple(_without_strict(tool) for tool in tools)
        if any(one is not other for one, other in zip(offered, tools)):
            written = json_of(offered, "list of tools")
        parallel = settings.parallel_tool_calls
        # Keys hold the order of properties as the caller gave it: the grammar writes them in that order.
        asked: tuple[str, str | None, str] | None = None
        if calls_forced:
            asked = "tools", choice, written
        elif settings.response_format is not None:
            asked = "json", written, json_of(_schema(settings.response_format), "JSON schema")
        elif any(strict):
            held = [tool if kept else _any_arguments(tool) for tool, kept in zip(offered, strict)]
            asked = "tools", "auto", json_of(held, "list of tools")
        if asked is None:
            return self._format(offered, None, forced=forced, document=False, parallel=parallel)
        # What cannot be enforced is said before anything is queued; and what may follow a thought is compiled by then.
        wires = self._wires(settings.chat_template_kwargs) if offered else (None, None)
        fresh, behind = (
            self._compiled.get((*asked, parallel, wire), functools.partial(self._compile, *asked, parallel, wire))
            for wire in wires
        )

        def matcher(thought: bool) -> Matcher:
            return (behind if thought else fresh).matcher()

        document = settings.response_format is not None
        return self._format(offered, matcher, forced=forced, document=document, parallel=parallel)

    def _compile(
        self, kind: str, choice: str | None, document: str, parallel: bool, wire: ToolCallFormat | None
    ) -> GrammarSpec:
        content = json.loads(document)
        if kind == "json":
            return self._document(content, json.loads(choice or "[]"), parallel, wire)
        return self._grammar.for_tools(content, choice or "required", parallel=parallel, wire=wire)

    def _document(
        self, schema: dict[str, Any] | None, tools: list[dict[str, Any]], parallel: bool, wire: ToolCallFormat | None
    ) -> GrammarSpec:
        """Compile JSON of `schema` (None: any object). With tools the model may call one of them first."""
        if tools:
            return self._grammar.for_schema(schema or {"type": "object"}, tools=tools, wire=wire, parallel=parallel)
        return self._grammar.for_json_object() if schema is None else self._grammar.for_schema(schema)

    def _wires(self, variables: Mapping[str, Any]) -> tuple[ToolCallFormat, ToolCallFormat]:
        """Return how this model writes calls: to a fresh prompt, and behind a thought.

        Raises ModelError where its template does not say.
        """
        key = repr(sorted(variables.items(), key=lambda item: item[0]))  # values of any kind, named by strings
        found = self._known_wires.get(key)
        if found is None:
            layout = tool_call_format(self._tokenizer, self._backbone.eos_ids, variables)
            if layout is None:
                raise ModelError(
                    f"The chat template of {self._backbone.model_id!r} shows no way to write a tool call in JSON, so a "
                    "call cannot be forced.",
                    hint='Use tool_choice="auto" without strict, or a model whose template renders calls as JSON.',
                )
            head = layout.head
            closed = max((head.rfind(end) + len(end) for end in self._thought_ends if end in head), default=0)
            again = reopening(self._tokenizer, self._backbone.model_type)
            # The lines between a thought and a call are the model's own by then.
            found = layout, replace(layout, head=again + head[closed:].lstrip("\n"))
            if len(key) <= 1000:  # documents are not worth keeping
                if len(self._known_wires) >= 16:
                    self._known_wires.clear()
                self._known_wires[key] = found  # which another thread may clear at once
        return found

    @lazy
    def _thought_marks(self) -> tuple[tuple[str, str], ...]:
        """Return the marks that open and close a thought."""
        return tuple(thought_marks(self._template))

    @lazy
    def _thought_ends(self) -> tuple[str, ...]:
        """Return the marks that close a thought."""
        return tuple(close for _, close in self._thought_marks)

    @lazy
    def _closing(self) -> tuple[int, ...]:
        if not self._thought_ends:
            return ()
        text = f"\n{self._thought_ends[0]}\n\n"
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _format(
        self, tools: Tools, matcher: Callable[[bool], Matcher] | None, *, forced: bool, document: bool, parallel: bool
    ) -> Format:
        template = self._template
        if template is None:
            return Format(tools, _plain, self._special, False, matcher, forced, _plain, self._special)
        read, hidden = self._read(tools, parallel)
        if not forced:
            return Format(tools, read, hidden, True, matcher)
        if tools:
            answer = self._answer if document else None
            return Format(
                tools, read, hidden, True, matcher, True, read, hidden, self._closing, answer, self._thought_marks
            )
        # A JSON document must reach the caller to the letter: no reader may take it for something else.
        return Format(
            tools,
            _plain,
            self._special,
            True,
            matcher,
            True,
            read,
            hidden,
            self._closing,
            self._answer,
            self._thought_marks,
        )

    @lazy
    def _answer(self) -> tuple[str, tuple[int, ...]] | None:
        text = answering(self._tokenizer, self._backbone.model_type)
        whole = reopening(self._tokenizer, self._backbone.model_type) + text
        return (text, tuple(self._tokenizer.encode(whole, add_special_tokens=False))) if text else None

    @lazy
    def _unread(self) -> frozenset[int]:
        """Return the ids of the special tokens that no reader needs to see."""
        return self._special - kept_special_ids(self._tokenizer, self._template)

    def _read(self, tools: Tools, parallel: bool) -> tuple[MakeReader, frozenset[int]]:
        """Return how to make a reader of thoughts, and of calls if there are tools; and the tokens it need not see."""
        tokenizer, template = self._tokenizer, self._template
        assert template is not None

        def read(prefix: str, begun: bool = False) -> Reader:
            return ToolCallReader(tokenizer, prefix, tools, template, parallel=parallel, begun=begun)

        return read, self._unread


def _is_strict(tool: Mapping[str, Any]) -> bool:
    """Whether a tool carries OpenAI's `"strict": true`."""
    return bool(tool.get("function", tool).get("strict"))


def _without_strict(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `tool` as the model should read it: `strict` is said to us, not to the model."""
    function = tool.get("function")
    if "strict" not in (function if isinstance(function, Mapping) else tool):
        return tool
    if not isinstance(function, Mapping):
        return {key: value for key, value in tool.items() if key != "strict"}
    return {**tool, "function": {key: value for key, value in function.items() if key != "strict"}}


def _any_arguments(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `tool` with arguments of any kind: what stands beside a strict tool and is not strict itself."""
    if not isinstance(tool.get("function"), Mapping):
        return {**tool, "parameters": {"type": "object"}}
    return {**tool, "function": {**tool["function"], "parameters": {"type": "object"}}}


def _schema(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the JSON schema of an OpenAI-style response_format; None for any JSON object."""
    kind = response_format.get("type")
    if kind == "json_object":
        return None
    if kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if isinstance(schema, Mapping):
            return dict(schema)
        raise UsageError("response_format has no json_schema.schema.", hint=_FORMAT_HINT)
    raise UsageError(f"Unknown response_format type {shown(kind)}.", hint=_FORMAT_HINT)


_FORMAT_HINT = 'Use {"type": "json_schema", "json_schema": {"name": "x", "schema": {...}}} or {"type": "json_object"}.'
