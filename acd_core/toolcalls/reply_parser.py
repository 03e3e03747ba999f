"""transformers' response parser, made to go on whatever a model writes, in time that grows with the text.

Kinds of content beyond transformers' own (`response_templates`): `python`, `json-values`, `json-named`,
`notation`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from acd_core.errors import TemplateError
from acd_core.toolcalls.arguments import NOT_A_CALL, last_line, lenient_json
from acd_core.toolcalls.python_calls import python_calls, python_literal

_log = logging.getLogger("acd_core")
_LEADING = re.compile(r"(?:\\s\*)+(?![?+*{])")
# Where the search begins, or at the head of a run of whitespace, and then all of it or none.
_RUN = r"(?:(?:\G|(?<!\s))\s++)?+"
_LONGEST_SEARCH = 5.0  # seconds; a search takes microseconds, unless a tokenizer brings a pattern of its own
_LAST_MARK = re.compile(r"</[\w:-]+>\Z")


def make_parser(template: Mapping[str, Any], prefix: str) -> Any:
    """Make a parser of one reply to `prefix`, the rendered prompt. Raises TemplateError for an unusable template.

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
                error = error or last_line(problem)
                del events[before:]
                events.append({"type": "region_close", "field": name, "value": None})
                self._reset_to_implicit()
            for event in events[before:]:
                event.update(body=body, bare=bare, opening=opening, error=error)
            self._bare, self._opening = False, ""

        def _cut_off(self) -> str | None:
            """Say why a region that ends with the reply is incomplete, or None.

            JSON and Python show that by themselves; the inline formats would silently lose arguments.
            """
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
        each.open_re, each.close_re = remembering(each.open_re), remembering(each.close_re)
    # Without the anchor the parser would read the whole prompt, users' text and all, as if the model had written it.
    anchored = prefix if spec.start_anchor_re.search(prefix) else ""
    parser = ForgivingParser(spec, prefix=anchored)  # without tools: arguments are cast by `cast_arguments`
    parser.implicit_field = spec.implicit
    parser.loose_fields = loose
    return parser


def _fields(template: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str], frozenset[str]]:
    """Return (fields for transformers, our own kind of content by field, fields that hold every value as text)."""
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
    """Return `field` with patterns that enter a run of whitespace once."""
    if not isinstance(field, Mapping):
        return field
    patterns = {key: field[key] for key in ("open_pattern", "close_pattern") if isinstance(field.get(key), str)}
    return {**field, **{key: entered_once(pattern) for key, pattern in patterns.items()}}


def entered_once(pattern: str) -> str:
    """`pattern` of the `regex` module with a leading `\\s*` that is tried once for each run of whitespace.

    As it stands, the search tries it at every space of a long run and runs to the end of it each time. What it finds is
    the same: the leftmost match begins where the run does.
    """
    leading = _LEADING.match(pattern)
    return _RUN + pattern[leading.end() :] if leading else pattern


def remembering(pattern: Any) -> Any:
    """Return `pattern` (compiled by `regex`, or None) with a `search` that remembers."""
    return None if pattern is None else _RememberedSearch(pattern)


class _RememberedSearch:
    """One pattern of one reply. The parser asks every pattern again after each mark; what lies behind the mark has
    been found already."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self._asked: tuple[str, bool] | None = None
        self._from = 0
        self._found: Any = None
        self._given_up = False

    def search(self, text: str, position: int, partial: bool = False) -> Any:
        """Search as `regex` does. None from then on, once a search takes longer than it may."""
        if self._given_up:
            return None
        known = self._asked is not None and self._asked[0] is text and self._asked[1] == partial
        if known and position >= self._from and (self._found is None or self._found.start() >= position):
            return self._found
        try:
            self._found = self._pattern.search(text, position, partial=partial, timeout=_LONGEST_SEARCH)
        except TimeoutError:
            self._given_up, self._found = True, None
            _log.warning("A pattern of the response template takes too long and is not looked for: %s", self)
        self._asked, self._from = (text, partial), position
        return self._found

    def __str__(self) -> str:
        return str(self._pattern.pattern)[:200]


def _mended(text: str) -> str:
    """Return `text` as JSON, where a model wrote newlines within strings, or Python; else as it is."""
    try:
        json.loads(text)
    except NOT_A_CALL:
        for read in (lenient_json, python_literal):
            try:
                return json.dumps(read(text))
            except NOT_A_CALL:
                continue
    return text


def _with_ends(body: str, options: Mapping[str, Any]) -> str:
    """Return `body` up to the last mark that ends an argument.

    Behind it none is complete, and each that is begun there would be followed to the end of the text.
    """
    pattern = options.get("tag_pattern")
    end = _LAST_MARK.search(pattern) if isinstance(pattern, str) else None
    return body[: body.rfind(end[0]) + len(end[0])] if end and end[0] in body else body if end is None else ""


def _read(kind: str, value: Any, options: Mapping[str, Any]) -> Any:
    """Read the text of a region, or the text that a transform put where the arguments stand, as `kind`."""
    if not isinstance(value, Mapping):
        return _KINDS[kind](value, options)
    function = value["function"]
    return {**value, "function": {**function, "arguments": _KINDS[kind](function["arguments"], options)}}


def _values(text: str, _: Mapping[str, Any]) -> list[Any]:
    """Read JSON values that follow each other, with nothing, whitespace, commas or semicolons between."""
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
    """Read calls out of [{name: arguments}, ...]."""
    value = lenient_json(text)
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise ValueError(f"a call is an object of a name and its arguments, not {type(item).__name__}")
        calls += [{"name": name, "arguments": arguments} for name, arguments in item.items()]
    return calls


def _python(text: str, _: Mapping[str, Any]) -> Any:
    """Read calls as Python; or as JSON, which these models are at times told to write between the same marks."""
    if text.lstrip("[ \n\t").startswith("{"):
        return lenient_json(text)
    return python_calls(text)


def _notation(text: str, options: Mapping[str, Any]) -> Any:
    return python_literal(text, options.get("quotes", ()))


_KINDS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "python": _python,
    "json-values": _values,
    "json-named": _named,
    "notation": _notation,
}
