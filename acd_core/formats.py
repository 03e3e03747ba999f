"""What form a reply must have: free text, tool calls, JSON. From settings to grammar, reader and refusal check."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from acd_core.backbone import Backbone
from acd_core.chat import Chat
from acd_core.decoding.grammar import Grammar, GrammarSpec
from acd_core.engine import Matcher
from acd_core.errors import ModelError, UsageError
from acd_core.evaluation.judges import RefusalJudge
from acd_core.params import GenerationParams
from acd_core.session import PlainReader, Reader
from acd_core.toolcalls import (
    ToolCallFormat,
    ToolCallReader,
    kept_special_ids,
    parses_tools,
    response_template_for,
    special_tokens,
    tool_call_format,
)

Tools = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Format:
    """The resolved form of one reply. tools: what the template shows. matcher: makes the grammar's state, when forced.
    hidden_ids: tokens whose text is never part of the reply."""

    tools: Tools
    reader: Callable[[str], Reader]
    hidden_ids: frozenset[int]
    needs_prefix: bool
    matcher: Callable[[], Matcher] | None = None

    @property
    def forced(self) -> bool:
        return self.matcher is not None

    @staticmethod
    def refuses(text: str) -> bool:
        """Whether `text`, possibly the first words only, declines the request."""
        return bool(text.strip()) and RefusalJudge().judge("", text).refused


class Formats:
    """Resolves formats for one model. Grammars are compiled once per distinct schema."""

    def __init__(self, backbone: Backbone, chat: Chat) -> None:
        self._backbone = backbone
        self._chat = chat
        self._tokenizer = chat.tokenizer
        self._template = response_template_for(self._tokenizer, backbone.model_type)
        self._special = frozenset(special_tokens(self._tokenizer))
        self._compiled = functools.lru_cache(maxsize=128)(self._compile)

    @property
    def parses_tools(self) -> bool:
        """Whether tool calls can be read from this model's replies."""
        return parses_tools(self._template)

    @functools.cached_property
    def _grammar(self) -> Grammar:
        return Grammar(self._tokenizer, self._backbone.vocab_size, self._backbone.eos_ids)

    def resolve(self, settings: GenerationParams) -> Format:
        """The format that `settings` ask for. Raises UsageError for contradictions, ModelError for what the model
        cannot do, MissingExtraError when a forced format needs llguidance."""
        choice = settings.tool_choice
        if choice is not None and choice not in ("auto", "none") and not settings.tools:
            raise UsageError(f"tool_choice is {choice!r} but no tools were given.", hint="Pass tools=[...] as well.")
        if settings.tools and settings.response_format is not None and choice not in (None, "auto", "none"):
            raise UsageError(
                "A reply cannot be both a forced tool call and a JSON document.", hint="Ask for one of them."
            )
        tools: Tools = () if choice == "none" else settings.tools
        if tools and not self.parses_tools:
            raise ModelError(
                f"Tool calls of {self._backbone.model_id!r} cannot be read: its tokenizer has no response_template and "
                "its chat template matches no known one.",
                hint="Set tokenizer.response_template (transformers' chat-templating guide), or leave tools out.",
            )
        spec = self._spec(settings, tools)
        return self._format(tools, spec.matcher if spec is not None else None)

    def _spec(self, settings: GenerationParams, tools: Tools) -> GrammarSpec | None:
        if tools and settings.tool_choice not in (None, "auto"):
            return self._compiled("tools", settings.tool_choice, json.dumps(tools))
        if settings.response_format is None:
            return None
        # Key order is the schema's own: the grammar writes properties in that order.
        return self._compiled("json", json.dumps(tools), json.dumps(_schema(settings.response_format)))

    def _compile(self, kind: str, choice: str | None, document: str) -> GrammarSpec:
        content = json.loads(document)
        if kind == "json":
            return self._document(content, json.loads(choice or "[]"))
        layout = self._wire()
        return self._grammar.for_tools(content, choice or "required", parallel=True, wire=layout)

    def _document(self, schema: dict[str, Any] | None, tools: list[dict[str, Any]]) -> GrammarSpec:
        """JSON of `schema` (None: any object); with tools the model may call one of those first, as agents do."""
        if tools:
            wire = self._wire()
            return self._grammar.for_schema(schema or {"type": "object"}, tools=tools, wire=wire, parallel=True)
        return self._grammar.for_json_object() if schema is None else self._grammar.for_schema(schema)

    def _wire(self) -> ToolCallFormat:
        """How this model writes calls, or ModelError where its template does not say."""
        layout = tool_call_format(self._tokenizer, self._backbone.eos_ids)
        if layout is None:
            raise ModelError(
                f"The chat template of {self._backbone.model_id!r} shows no way to write a tool call in JSON, so a "
                "call cannot be forced.",
                hint='Use tool_choice="auto", or a model whose template renders tool calls as JSON.',
            )
        return layout

    def _format(self, tools: Tools, matcher: Callable[[], Matcher] | None) -> Format:
        # A JSON document must reach the caller to the letter: no reader may take it for something else.
        template = self._template if tools or matcher is None else None
        if template is None:
            return Format(tools, lambda _: PlainReader(), self._special, False, matcher)
        kept = kept_special_ids(self._tokenizer, template)
        return Format(
            tools,
            lambda prefix: ToolCallReader(self._tokenizer, prefix, tools, template),
            self._special - kept,
            True,
            matcher,
        )


def _schema(response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema of an OpenAI-style response_format; None for any JSON object."""
    kind = response_format.get("type")
    if kind == "json_object":
        return None
    if kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if isinstance(schema, Mapping):
            return dict(schema)
        raise UsageError("response_format has no json_schema.schema.", hint=_FORMAT_HINT)
    raise UsageError(f"Unknown response_format type {kind!r}.", hint=_FORMAT_HINT)


_FORMAT_HINT = 'Use {"type": "json_schema", "json_schema": {"name": "x", "schema": {...}}} or {"type": "json_object"}.'
