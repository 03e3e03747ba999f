"""Calls out of a parsed region: their names, and arguments as the tool's schema and JSON want them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from acd_core.toolcalls.python_calls import MAX_DEPTH, python_literal

NOT_A_CALL = (ValueError, TypeError, KeyError, RecursionError, MemoryError)
"""What reading a model's text may raise: bad JSON, numbers too long, lists too deep."""
_TOO_LONG = 10**1000


def call_shapes(value: Any) -> list[tuple[str | None, Any]]:
    """Return (name, arguments) of every call in a parsed region; for what is no call (None or name, the complaint)."""
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
            arguments = lenient_json(arguments or "{}")
        except NOT_A_CALL as error:
            return [(name, f"the arguments are not JSON: {last_line(error)}")]
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        return [(name, f"the arguments are not an object but {type(arguments).__name__}")]
    return [(name, arguments)]


def why_not_json(arguments: dict[str, Any]) -> str | None:
    """Say why these arguments, as Python reads them, are not JSON by the standard; None where they are.

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


def cast_arguments(arguments: dict[str, Any], parameters: Any, *, loose: bool) -> dict[str, Any]:
    """Return `arguments` with strings made what the tool's schema `parameters` asks for ("3" to 3), if they can be.

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
        except NOT_A_CALL:
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
    """Give the JSON types that `schema` allows. References are followed within `root`."""
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


def lenient_json(text: str) -> Any:
    """Read `text` as JSON that may have newlines within strings. Raises ValueError for no JSON."""
    return json.loads(text, strict=False)


def last_line(error: BaseException) -> str:
    """Return the last line of an error. In transformers' it says what is wrong; those before repeat the whole text."""
    if isinstance(error, RecursionError):
        return "the call is nested too deeply"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
