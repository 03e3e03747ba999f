"""Forced formats: a JSON schema or a tool call compiled to a mask over the next token, by llguidance.

The mask is laid over the *joined* scores (masking both branches first would give -inf minus -inf). What cannot be
enforced is refused by name, never loosened: a caller who asks for a schema gets that schema or an error.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acd_core.errors import ModelError, UsageError, missing_extra
from acd_core.grammar.compiled import UNTRIED_BYTES, GrammarSpec
from acd_core.grammar.dialect import rule_of
from acd_core.grammar.disjoint import kinds
from acd_core.grammar.limits import is_cheap, json_of
from acd_core.grammar.trials import Trials
from acd_core.locks import Locks
from acd_core.toolcalls import ToolCallFormat

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from transformers import PreTrainedTokenizerBase

_Vocabulary = tuple["LLTokenizer", Trials]
_vocabularies: weakref.WeakKeyDictionary[Any, dict[tuple[int, tuple[int, ...]], _Vocabulary]] = (
    weakref.WeakKeyDictionary()
)
_reading_locks = Locks()  # one a tokenizer: a large vocabulary keeps nobody from another
_LONGEST_CHEAP_RULES = 64 * 1024  # letters of rules that are compiled without a trial


class Grammar:
    """Compiles formats for one tokenizer.

    tokenizer: a fast Hugging Face tokenizer. n_vocab: width of the logits (models pad it; padding is never allowed, nor
    is a token of the tokenizer beyond it). eos_ids: every id that ends a reply; allowed where the format is complete.
    The vocabulary is read once per tokenizer (about 0.2 s for 32k tokens) and shared. Thread-safe.
    Raises MissingExtraError without llguidance, ModelError for a slow tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, n_vocab: int, eos_ids: Iterable[int]) -> None:
        self.n_vocab = n_vocab
        self._tokenizer = tokenizer
        self._ll_tokenizer, self._trials = _read_vocabulary(tokenizer, n_vocab, tuple(sorted(eos_ids)))
        self._added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.content}

    def for_schema(
        self,
        schema: Mapping[str, Any],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        wire: ToolCallFormat | None = None,
        parallel: bool = False,
    ) -> GrammarSpec:
        """Compile JSON that fits `schema`. Objects that list properties are closed unless they say otherwise.

        What asks for nothing is no reason to refuse, what would be loosened is one: docs/json_schema.md.

        With `tools` the model may call those instead (an agent that ends with a structured answer). `wire` and
        `parallel` are as in `for_tools`.

        Raises UsageError naming a keyword that cannot be enforced, or what is wrong with the schema.
        """
        rule = self._json_rule(schema, "JSON schema")
        if not tools:
            return self._compile(f"start: {rule}", "JSON schema")
        self._compile(f"start: {rule}", "JSON schema")  # so that a complaint about it is not taken for a tool's
        wire = wire or ToolCallFormat.around("<tool_call>\n", "\n</tool_call>")
        keys = _object_keys(wire)
        if keys is not None:
            calls = self._object_rules(_functions_for(tools, "required"), keys)
        else:
            calls = self._call_rules(_functions_for(tools, "required"), self._pieces(wire.head), wire, parallel)
        return self._compile_calls(f"start: reply | calls\nreply: {rule}\n{calls}", _functions_for(tools, "required"))

    def for_json_object(self) -> GrammarSpec:
        """Compile any JSON object."""
        return self._compile(f"start: {self._json_rule({'type': 'object'}, 'JSON object')}", "JSON object")

    def for_tools(
        self,
        tools: Sequence[Mapping[str, Any]],
        choice: str = "required",
        open_text: str = "<tool_call>\n",
        close_text: str = "\n</tool_call>",
        parallel: bool = False,
        *,
        wire: ToolCallFormat | None = None,
    ) -> GrammarSpec:
        """Compile calls of `tools` (OpenAI-style), arguments by their schemas.

        choice: "required" (a call, of any tool), a tool's name (a call of that one), or "auto" (free text until the
        model opens a call; from there the call must be well formed). parallel: several calls may follow each other;
        without it the reply ends with its first call. wire: how this model writes a call, from
        `acd_core.toolcalls.tool_call_format`; without it `open_text {"name": ..., "arguments": ...} close_text`.

        Raises UsageError for an unknown tool, a schema that cannot be enforced, and for "auto" where a call does not
        open with a token of its own (then there is nothing to wait for).
        """
        offered = _functions_for(tools, choice)
        wire = wire or ToolCallFormat.around(open_text, close_text)
        opening = self._pieces(wire.head)
        trigger: int | None = None
        if choice == "auto":
            if not opening or not isinstance(opening[0], int):
                raise UsageError(
                    "tool_choice 'auto' cannot be enforced: this model's calls do not open with a token of their own.",
                    hint="Leave strict out (calls are still parsed and checked), or force a call with 'required'.",
                )
            trigger, opening = opening[0], opening[1:]
        # Calls that each open with the trigger come one by one, free text between them; only a list of calls is one.
        listed = trigger is None or trigger not in self._pieces(wire.separator or "")
        rules = self._call_rules(offered, opening, wire, parallel and listed)
        return self._compile_calls(f"start: calls\n{rules}", offered, trigger, once=not parallel)

    def _call_rules(
        self,
        functions: Sequence[Mapping[str, Any]],
        opening: Sequence[int | str],
        wire: ToolCallFormat,
        parallel: bool,
    ) -> str:
        """Write the rule `calls`: one call of one of `functions`, or several."""
        more = self._lark(self._pieces(wire.separator or "")) if parallel and wire.separator else ""
        several = f"({more} call)*" if more else ""
        lines = [
            f"calls: {self._lark(opening)} call {several} {self._lark(self._pieces(wire.tail))}",
            "call: " + " | ".join(f"call_{index}" for index in range(len(functions))),
        ]
        for index, function in enumerate(functions):
            body = self._lark(self._pieces(f"{function['name']}{wire.middle}"))
            lines.append(f"call_{index}: {body} {self._json_rule(_parameters(function), _schema_name(function))}")
        return "\n".join(lines)

    def _compile_calls(
        self,
        rules: str,
        functions: Sequence[Mapping[str, Any]],
        trigger: int | None = None,
        once: bool = False,
    ) -> GrammarSpec:
        try:
            return self._compile(rules, "tool call", trigger, once)
        except UsageError:
            for function in functions:  # which one, and what in it
                what = _schema_name(function)
                self._compile(f"start: {self._json_rule(_parameters(function), what)}", what)
            raise

    def _pieces(self, text: str) -> list[int | str]:
        """Split `text` into ids of added tokens and the plain text between them."""
        if not text:
            return []
        longest_first = sorted(self._added, key=len, reverse=True)
        found = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text) if longest_first else [text]
        return [self._added.get(piece, piece) for piece in found if piece]

    @staticmethod
    def _lark(pieces: Sequence[int | str]) -> str:
        return " ".join(f"<[{piece}]>" if isinstance(piece, int) else json.dumps(piece) for piece in pieces)

    def _compile(self, rules: str, what: str, trigger: int | None = None, once: bool = False) -> GrammarSpec:
        from llguidance import LLMatcher

        # Where only one text can follow, llguidance takes the tokenizer's own ids for it. For a value that spells a
        # control token that would be the control token, which the rule then rejects.
        spelled = any(text in rules for text in self._added)
        options = '%llguidance {"no_forcing": true}\n' if spelled else "%llguidance {}\n"
        grammar = LLMatcher.grammar_from_lark(options + rules)
        size = UNTRIED_BYTES
        if not _all_cheap(rules):
            complaint, taken = self._trials.compile(grammar, what)
            size = max(size, taken)
            if complaint:
                raise _usage_error(complaint, what)
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _usage_error(matcher.get_error(), what)
        return GrammarSpec(matcher, self.n_vocab, trigger, once, size)

    def _json_rule(self, schema: Mapping[str, Any], what: str) -> str:
        """Write the rule of one schema. what: how to call it in a complaint."""
        if not isinstance(schema, Mapping):
            raise UsageError(f"A JSON schema is a dict, not {type(schema).__name__}.")
        written = json_of(schema, what)
        return rule_of(written, what) if is_cheap(written) else self._trials.rule(written, what)

    def _object_rules(self, functions: Sequence[Mapping[str, Any]], keys: tuple[str, str]) -> str:
        """Write the rule `calls`, each call as a JSON object with these keys."""
        lines = ["calls: " + " | ".join(f"call_{index}" for index in range(len(functions)))]
        name, arguments = keys
        for index, function in enumerate(functions):
            parameters = dict(_parameters(function))
            shared: dict[str, Any] = {
                key: parameters.pop(key) for key in ("$defs", "definitions") if key in parameters
            }  # refs begin there
            call: dict[str, Any] = {
                **shared,
                "type": "object",
                "properties": {name: {"const": function["name"]}, arguments: parameters},
                "required": [name, arguments],
                "additionalProperties": False,
            }
            lines.append(f"call_{index}: {self._json_rule(call, _schema_name(function))}")
        return "\n".join(lines)


def _all_cheap(rules: str) -> bool:
    """Whether no schema in `rules` can cost much, each at the end of its line."""
    schemas = [line.partition("%json ")[2] for line in rules.splitlines() if "%json " in line]
    return len(rules) <= _LONGEST_CHEAP_RULES and all(map(is_cheap, schemas))


def _read_vocabulary(tokenizer: Any, n_vocab: int, eos_ids: tuple[int, ...]) -> _Vocabulary:
    """Return the tokenizer as llguidance reads it, and where its grammars are tried."""
    try:
        from llguidance.hf import from_tokenizer
    except ImportError:
        raise missing_extra("llguidance", "structured") from None
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Forced formats need a fast tokenizer; {type(tokenizer).__name__} is a slow one.",
            hint="Convert it: AutoTokenizer.from_pretrained(model, use_fast=True).save_pretrained(directory)",
        )
    with _reading_locks.of(id(tokenizer)):
        known = _vocabularies.setdefault(tokenizer, {})
        if (n_vocab, eos_ids) not in known:
            # Tokens may have been added that the model has no logits for: read, and cut off every mask.
            width = max(n_vocab, 1 + max(tokenizer.get_vocab().values(), default=0))
            made = from_tokenizer(tokenizer, n_vocab=width, eos_token=list(eos_ids) or None)
            ends = list(eos_ids) or [tokenizer.eos_token_id]
            # Its Rust side alone: what knew the tokenizer itself would keep it for ever.
            written = functools.partial(_tokenizer_json, tokenizer.backend_tokenizer)
            known[n_vocab, eos_ids] = made, Trials(written, width, ends)
        return known[n_vocab, eos_ids]


def _tokenizer_json(backend: Any) -> str:
    """Write the tokenizer out, so that another process reads the same one as from_tokenizer does here."""
    own = copy.copy(backend)
    own.no_padding()
    own.no_truncation()
    return str(own.to_str())


def _object_keys(wire: ToolCallFormat) -> tuple[str, str] | None:
    """Return the keys of name and arguments, where a call is one JSON object and nothing else (Llama 3.1).

    Written out, the head of such a call would shut out every other object: both begin with a brace.
    """
    try:
        found = json.loads(f"{wire.head}name{wire.middle}{{}}{wire.tail}")
    except ValueError:
        return None
    if not isinstance(found, dict) or sorted(map(str, found.values())) != ["name", "{}"]:
        return None
    name, arguments = sorted(found, key=lambda key: found[key] != "name")
    return (name, arguments) if list(found) == [name, arguments] else None


def _parameters(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a call's arguments, which are an object whatever else it says."""
    found = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(found, Mapping):
        raise UsageError(f"The {_schema_name(function)} is a dict, not {type(found).__name__}.")
    if "object" not in kinds(found):
        raise UsageError(
            f"The {_schema_name(function)} allows no object, but the arguments of a call are one.",
            hint='Make the value a property: {"type": "object", "properties": {"value": ...}, "required": ["value"]}.',
        )
    return found if found.get("type") == "object" else {**found, "type": "object"}


def _schema_name(function: Mapping[str, Any]) -> str:
    return f"schema of the tool {function['name']!r}"


def _functions_for(tools: Sequence[Mapping[str, Any]], choice: str) -> list[Mapping[str, Any]]:
    """Return the functions that a call may be of, under `choice`."""
    functions = [tool.get("function", tool) for tool in tools]
    names = [str(function.get("name", "")) for function in functions]
    if not functions:
        raise UsageError("A tool call is asked for, but no tools are given.", hint="Pass tools=[...].")
    for name in names:
        if not re.fullmatch(r"[\w.:/-]+", name):
            raise UsageError(f"The tool name {name[:80]!r} cannot be used: letters, digits and _ . : / - only.")
    if choice in ("required", "auto"):
        return functions
    if choice not in names:
        raise UsageError(f"tool_choice names {choice!r}, which is not among the tools: {', '.join(names)}.")
    return [functions[names.index(choice)]]


def _usage_error(error: str, what: str) -> UsageError:
    """Turn llguidance's complaint into ours, with the keywords by name."""
    first = error.splitlines()[0] if error else "unknown error"
    first = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", first)
    keys = re.search(r"Unimplemented keys: \[(.*?)\]", error)
    if keys:
        named = ", ".join(re.findall(r'"([^"]+)"', keys.group(1)))
        return UsageError(
            f"The {what} uses keywords that cannot be enforced: {named}.",
            hint="Leave them out and check the value afterwards, for instance in a Pydantic validator.",
        )
    if "regex parse error" in error:
        lines = [line.strip() for line in error.splitlines()]
        start = next(number for number, line in enumerate(lines) if "regex parse error" in line)
        quoted = "".join(lines[start + 1 : start + 2])
        why = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "it is no pattern")
        return UsageError(
            f"The {what} has a pattern that cannot be enforced, {quoted[:80]!r}: {why[:120]}.",
            hint="Patterns have no lookarounds and no references to groups here. Check the rest afterwards.",
        )
    return UsageError(f"The {what} cannot be enforced: {first[:200]}", hint="Change the schema where the message says.")
