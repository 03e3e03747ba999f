"""transformers' response parser, made to go on whatever a model writes, and calls out of the regions it finds.

Kinds of content beyond transformers' own (`response_templates`): `python`, `json-values`, `json-named`,
`notation`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from acd_core.errors import TemplateError
from acd_core.toolcalls.python_calls import MAX_DEPTH, python_calls, python_literal
from acd_core.toolcalls.watching import entered_once, watched

_NOT_A_CALL = (ValueError, TypeError, KeyError, RecursionError, MemoryError)
"""What reading a model's text may raise: bad JSON, numbers too long, lists too deep."""


def make_parser(template: Mapping[str, Any], prefix: str) -> Any:
    """A parser of one reply to `prefix`, the rendered prompt. Raises TemplateError for a template it cannot use.

    Its region events carry `body` (the raw text), `opening` (what opened it), `bare` (whether that was no mark of its
    own) and, when the region could not be read or was cut off, `error`. transformers is imported here: it is heavy.
    """
    from transformers.utils.chat_parsing import ResponseParser
    from transformers.utils.chat_parsing.response_templates import load_response_template

    spec_fields, kinds, loose = _fields(template)

    class ForgivingParser(ResponseParser):
        """Checked against transformers 5.23; tests/core/test_toolcalls.py fails if the private names go away."""

        implicit_field: str | None
        loose_fields: frozenset[str]
        _bare = False
        _opening = ""
        _at_end = False

        def close(self) -> list[dict[str, Any]]:
            return list(self.finalize()[1])

        def _scan(self, watch: Any, eos: bool) -> Any:
            found = super()._scan(watch, eos)
            self._at_end = eos and found[0] is None  # what closes now is closed by the end of the reply
            return found

        def _open_explicit(self, events: list[dict[str, Any]], field: Any, m: Any) -> None:
            super()._open_explicit(events, field, m)
            self._opening = m.group()
            self._bare = not self._opening.strip() or field.name.startswith("tool_calls_bare")
            events[-1]["bare"] = self._bare

        def _close_current(self, events: list[dict[str, Any]]) -> None:
            name, body, bare, opening = self._current, self._body, self._bare, self._opening
            before, error = len(events), self._cut_off()
            if name is not None and name not in kinds and self._spec.fields[name].content == "json":
                self._body = "{}" if self._captures.get("name") and not body.strip() else _mended(body)
            if name is not None and self._spec.fields[name].content == "xml-inline":
                self._body = _with_ends(body, self._spec.fields[name].content_args)
            try:
                super()._close_current(events)
                for event in events[before:]:
                    if name in kinds and event["type"] == "region_close":
                        event["value"] = _read(kinds[name], event["value"], self._spec.fields[name].content_args)
            except Exception as problem:  # a template's transform can fail in any way on what a model writes
                error = error or _short(problem)
                del events[before:]
                events.append({"type": "region_close", "field": name, "value": None})
                self._reset_to_implicit()
            for event in events[before:]:
                event.update(body=body, bare=bare, opening=opening, error=error)
            self._bare, self._opening = False, ""

        def _cut_off(self) -> str | None:
            """Why a region that ends with the reply is incomplete. JSON and Python show that by themselves; the inline
            formats would silently lose arguments."""
            if not self._at_end or self._current is None or self._current == self._implicit_name:
                return None
            field = self._spec.fields[self._current]
            if field.close_re is None or field.content in ("json", "text"):
                return None
            return "the call was cut off before its closing mark"

    try:
        spec = load_response_template({**template, "fields": spec_fields})
    except (ValueError, KeyError, TypeError) as error:
        raise TemplateError(f"The response template cannot be used: {error}") from error
    for each in spec.fields.values():
        each.open_re, each.close_re = watched(each.open_re), watched(each.close_re)
    # Without the anchor the parser would read the whole prompt, users' text and all, as if the model had written it.
    anchored = prefix if spec.start_anchor_re.search(prefix) else ""
    parser = ForgivingParser(spec, prefix=anchored)  # without tools: arguments are cast by `cast`
    parser.implicit_field = spec.implicit
    parser.loose_fields = loose
    return parser


def _fields(template: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], frozenset[str]]:
    """-> (fields for transformers, our own kind of content by field, fields that hold every value as text)."""
    fields: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for name, given in template["fields"].items():
        field = fields[name] = _entered_once(given)
        kind = field.get("content") if isinstance(field, Mapping) else None
        if isinstance(kind, str) and kind in _KINDS:
            kinds[name] = kind
            fields[name] = {**field, "content": "text"}
    loose = (n for n, f in fields.items() if isinstance(f, Mapping) and f.get("content") in ("xml-inline", "kv-lines"))
    return fields, kinds, frozenset(loose)


def _entered_once(field: Any) -> Any:
    """`field` with patterns that enter a run of whitespace once."""
    if not isinstance(field, Mapping):
        return field
    patterns = {key: field[key] for key in ("open_pattern", "close_pattern") if isinstance(field.get(key), str)}
    return {**field, **{key: entered_once(pattern) for key, pattern in patterns.items()}}


def _mended(text: str) -> str:
    """`text` as JSON, where a model wrote newlines within strings, or Python; else as it is."""
    try:
        json.loads(text)
    except _NOT_A_CALL:
        for read in (_lenient, python_literal):
            try:
                return json.dumps(read(text))
            except _NOT_A_CALL:
                continue
    return text


def _lenient(text: str) -> Any:
    return json.loads(text, strict=False)


def _with_ends(body: str, options: Mapping[str, Any]) -> str:
    """`body` up to the last mark that ends an argument. Behind it none is complete, and each that is begun there would
    be followed to the end of the text."""
    pattern = options.get("tag_pattern")
    end = _LAST_MARK.search(pattern) if isinstance(pattern, str) else None
    return body[: body.rfind(end[0]) + len(end[0])] if end and end[0] in body else body if end is None else ""


_LAST_MARK = re.compile(r"</[\w:-]+>\Z")


def _read(kind: str, value: Any, options: Mapping[str, Any]) -> Any:
    """The text of a region, or the text that a transform put where the arguments stand, read as `kind`."""
    if not isinstance(value, Mapping):
        return _KINDS[kind](value, options)
    function = value["function"]
    return {**value, "function": {**function, "arguments": _KINDS[kind](function["arguments"], options)}}


def _values(text: str, _: Mapping[str, Any]) -> list[Any]:
    """JSON values that follow each other, with nothing, whitespace, commas or semicolons between."""
    decoder, position = json.JSONDecoder(strict=False), 0
    found: list[Any] = []
    while True:
        while position < len(text) and (text[position].isspace() or text[position] in ",;"):
            position += 1
        if position >= len(text):
            return found
        value, position = decoder.raw_decode(text, position)
        found.append(value)


def _named(text: str, _: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Calls out of [{name: arguments}, ...]."""
    value = _lenient(text)
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise ValueError(f"a call is an object of a name and its arguments, not {type(item).__name__}")
        calls += [{"name": name, "arguments": arguments} for name, arguments in item.items()]
    return calls


def _python(text: str, _: Mapping[str, Any]) -> Any:
    """Calls as Python; or as JSON, which these models are at times told to write between the same marks."""
    if text.lstrip("[ \n\t").startswith("{"):
        return _lenient(text)
    return python_calls(text)


def _notation(text: str, options: Mapping[str, Any]) -> Any:
    return python_literal(text, options.get("quotes", ()))


_KINDS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "python": _python,
    "json-values": _values,
    "json-named": _named,
    "notation": _notation,
}


def call_shapes(value: Any) -> list[tuple[str | None, Any]]:
    """(name, arguments) of every call in a parsed region; for what is no call (None or name, the complaint)."""
    if isinstance(value, list):
        return [shape for item in value for shape in call_shapes(item)]  # RecursionError is the reader's to catch
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if isinstance(function, str) and isinstance(value, Mapping):  # {"type": "function", "function": name, ...}
        function = {**value, "name": function}
    if not isinstance(function, Mapping):
        wrong = value if function is None else function
        return [(None, f"a call is an object with a name and arguments, not {type(wrong).__name__}")]
    name = function.get("name", function.get("tool_name"))
    if not isinstance(name, str) or not name.strip():
        return [(None, "the call has no name")]
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = _lenient(arguments or "{}")
        except _NOT_A_CALL as error:
            return [(name, f"the arguments are not JSON: {_short(error)}")]
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return [(name, f"the arguments are not an object but {type(arguments).__name__}")]
    return [(name, arguments)]


def no_json(arguments: dict[str, Any]) -> str | None:
    """Why these arguments, as Python reads them, are none by the standard of JSON; None where they are.

    Python's reader takes NaN and Infinity, numbers beyond a double and any depth; what runs the tools, and whatever
    writes the call down again, does not. Halves of characters stay, and of a key that is written twice the last.
    """
    waiting: list[tuple[Any, int]] = [(arguments, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return "the arguments are nested too deeply"
        if isinstance(value, dict):
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            waiting += [(each, depth + 1) for each in value]
        elif isinstance(value, float) and not math.isfinite(value):
            return f"the arguments hold {value}, which is no number of JSON"
        elif isinstance(value, int) and abs(value) >= _TOO_LONG:
            return "the arguments hold an integer of more than 1000 digits"
    return None


_TOO_LONG = 10**1000


def cast(arguments: dict[str, Any], parameters: Any, *, loose: bool) -> dict[str, Any]:
    """`arguments` with strings made what the tool's schema `parameters` asks for ("3" to 3), where they can be.

    loose: the format writes every value as text. Where it does not, a string that the schema allows stays a string.
    """
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping):
        return arguments
    cast_to: dict[str, Any] = {}
    for key, value in arguments.items():
        try:
            types = tuple(dict.fromkeys(_types(properties.get(key), parameters)))
            cast_to[key] = _cast(value, types) if loose or "string" not in types else value
        except _NOT_A_CALL:
            cast_to[key] = value
    return cast_to


def _cast(value: Any, types: tuple[str, ...]) -> Any:
    from transformers.utils.chat_parsing.response_parser import _coerce

    if isinstance(value, list) and "array" not in types:  # a key that was written several times
        return [_cast(item, types) if isinstance(item, str) else item for item in value]
    if not isinstance(value, str) or not types:
        return value
    made = _coerce(value, types)
    if made == value and {"object", "array"} & set(types):
        literal = python_literal(value)  # Seed-OSS writes lists and objects as Python does
        if isinstance(literal, dict if "array" not in types else list if "object" not in types else (dict, list)):
            return literal
    return made


def _types(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """The JSON types that `schema` allows; references are followed within `root`."""
    if not isinstance(schema, Mapping) or depth > 8:
        return
    declared = schema.get("type")
    yield from [declared] if isinstance(declared, str) else [t for t in declared or [] if isinstance(t, str)]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        yield from _types(target, root, depth + 1)
    for union in ("anyOf", "oneOf", "allOf"):
        for choice in schema.get(union) or []:
            yield from _types(choice, root, depth + 1)
    if declared is None:
        for value in [*(schema.get("enum") or []), *([schema["const"]] if "const" in schema else [])]:
            yield _type_of(value)
    if schema.get("nullable"):
        yield "null"


def _type_of(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "object"


def _short(error: BaseException) -> str:
    """The last line of transformers' parse errors says what is wrong; the lines before repeat the whole text."""
    if isinstance(error, RecursionError):
        return "the call is nested too deeply"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
