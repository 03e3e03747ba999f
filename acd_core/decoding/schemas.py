"""JSON schemas made strict: an object has the properties it lists and no others, unless it says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keywords whose value is a schema, a list of schemas, or schemas by name.
_ONE = ("items", "additionalItems", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


_NOTES = ("default", "examples", "example", "title", "description")
_NUMBERS = ("const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")


def inexact(schema: Any, within: bool = False) -> int | None:
    """An integer of `schema` that a double cannot hold, or None. llguidance reads numbers as doubles and would
    enforce the neighbour of such a one."""
    if isinstance(schema, Mapping):
        found = (inexact(value, within or key in _NUMBERS) for key, value in schema.items() if key not in _NOTES)
        return next((number for number in found if number is not None), None)
    if isinstance(schema, list):
        return next((number for number in (inexact(item, within) for item in schema) if number is not None), None)
    exact = not within or not isinstance(schema, int) or (abs(schema) < 10**300 and int(float(schema)) == schema)
    return None if exact else schema


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """`schema` with `additionalProperties: false` in every object that lists properties and does not decide itself.

    Branches of an `allOf` stay open, also those named by `$ref`: each lists only a part of the object.
    """
    result: dict[str, Any] = _closed(schema, set(_parts(schema)), "")
    return result


def _closed(schema: Any, open_refs: set[str], path: str, part: bool = False) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = dict(schema)
    several = len(schema.get("allOf") or ()) > 1 or ("allOf" in schema and "properties" in schema)
    for key in _ONE:
        if isinstance(out.get(key), Mapping):
            out[key] = _closed(out[key], open_refs, f"{path}/{key}")
    for key in _LISTS:
        if isinstance(out.get(key), list):
            is_part = part or (key == "allOf" and several)
            out[key] = [_closed(item, open_refs, f"{path}/{key}/{n}", is_part) for n, item in enumerate(out[key])]
    for key in _NAMED:
        if isinstance(out.get(key), Mapping):
            out[key] = {name: _closed(item, open_refs, f"{path}/{key}/{name}") for name, item in out[key].items()}
    is_part = part or several or f"#{path}" in open_refs
    if "properties" in out and not is_part:
        out.setdefault("additionalProperties", False)
    return out


def _parts(schema: Any, in_all: bool = False) -> list[str]:
    """References that stand as a part of an `allOf` with several parts."""
    if isinstance(schema, list):
        return [ref for item in schema for ref in _parts(item)]
    if not isinstance(schema, Mapping):
        return []
    found = [str(schema["$ref"])] if in_all and "$ref" in schema else []
    several = len(schema.get("allOf") or ()) > 1 or ("allOf" in schema and "properties" in schema)
    for key, value in schema.items():
        if key == "allOf" and several and isinstance(value, list):
            found += [ref for item in value for ref in _parts(item, in_all=True)]
        elif isinstance(value, (Mapping, list)):
            found += _parts(value)
    return found
