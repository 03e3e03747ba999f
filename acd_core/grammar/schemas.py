"""JSON schemas as trees: which schemas stand where, what a reference means, and objects that are closed.

An object has the properties it lists and no others, unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

# Keywords whose value is a schema, a list of schemas, or schemas by name.
ONE = (
    "items", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "unevaluatedProperties",
    "propertyNames", "not", "if", "then", "else",
)  # fmt: skip
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
COUNTS = (
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
"""Keywords that count."""
# Keywords whose schemas share the value, so that they may evaluate properties or items of it.
SHARING = ("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas")

Path = tuple[str, ...]


def children(schema: Any) -> Iterator[tuple[Path, Any]]:
    """Give the schemas that stand directly in `schema`, each with its place in it."""
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        if key in LISTS and isinstance(value, list):
            yield from (((key, str(number)), item) for number, item in enumerate(value))
        elif key in NAMED and isinstance(value, Mapping):
            yield from (((key, name), item) for name, item in value.items() if not isinstance(item, list))
        elif key in ONE and isinstance(value, (Mapping, bool)):
            yield (key,), value


def nodes(schema: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Give `schema` and every schema in it that is an object, each with its place."""
    if isinstance(schema, Mapping):
        yield path, schema
        for step, child in children(schema):
            yield from nodes(child, path + step)


def mapped(schema: Mapping[str, Any], change: Callable[[Path, Any], Any]) -> dict[str, Any]:
    """Return a copy of `schema` with `change(place, child)` for each schema that stands directly in it."""
    out = dict(schema)
    for step, child in children(schema):
        changed = change(step, child)
        if len(step) == 1:
            out[step[0]] = changed
        else:
            if out[step[0]] is schema[step[0]]:
                out[step[0]] = schema[step[0]].copy() if isinstance(schema[step[0]], list) else dict(schema[step[0]])
            out[step[0]][int(step[1]) if isinstance(out[step[0]], list) else step[1]] = changed
    return out


def place_of(ref: Any) -> Path | None:
    """Return the place that a reference into the same document names (`#/$defs/a`); None for any other reference."""
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        return None
    return tuple(unquote(step).replace("~1", "/").replace("~0", "~") for step in ref[2:].split("/")) if ref[1:] else ()


def at(schema: Any, path: Path) -> Any:
    """Return what stands at a place of a document; None where there is nothing."""
    for step in path:
        if isinstance(schema, Mapping) and step in schema:
            schema = schema[step]
        elif isinstance(schema, list) and step.isdigit() and int(step) < len(schema):
            schema = schema[int(step)]
        else:
            return None
    return schema


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return `schema` with `additionalProperties: false` in every object that lists properties and does not decide
    itself.

    Schemas that share one object stay open, also those named by `$ref`: the parts of an `allOf`, and a reference or a
    choice beside listed properties. Each of them lists only a part of the object. A property that is required counts as
    listed.
    """
    open_at: set[Path] = set()
    _find_parts(schema, open_at)
    result: dict[str, Any] = _closed(schema, open_at, ())
    return result


def _closed(schema: Any, open_at: set[Path], path: Path) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    out = mapped(schema, lambda step, child: _closed(child, open_at, path + step))
    if isinstance(out.get("properties"), Mapping) and path not in open_at and "additionalProperties" not in out:
        required = out["required"] if isinstance(out.get("required"), list) else []
        missing = {name: True for name in required if isinstance(name, str) and name not in out["properties"]}
        out["properties"] = {**out["properties"], **missing}
        out["additionalProperties"] = False
    return out


def _find_parts(root: Any, found: set[Path]) -> None:
    """Add to `found` the places of all schemas that say only a part of what an object is."""
    waiting: list[tuple[Path, Any, bool]] = [((), root, False)]  # place, schema, whether it is such a part
    while waiting:
        path, schema, part = waiting.pop()
        if not isinstance(schema, Mapping) or (part and path in found):
            continue
        here = part or _several(root, schema)
        if here:
            found.add(path)
        for step, child in children(schema):
            waiting.append((path + step, child, here and step[0] in ("allOf", "anyOf", "oneOf")))
        target = place_of(schema.get("$ref"))
        if here and target is not None and target not in found:
            waiting.append((target, at(root, target), True))


def _several(root: Any, schema: Mapping[str, Any]) -> bool:
    """Whether several schemas say together what properties an object has."""
    parts = schema["allOf"] if isinstance(schema.get("allOf"), list) else []
    if len(parts) > 1 or (parts and "properties" in schema):
        return True
    beside = [key for key in ("$ref", "anyOf", "oneOf") if key in schema]
    speakers = sum(_lists(root, {key: schema[key]}) for key in beside) + bool(parts or "properties" in schema)
    return speakers > 1


def _lists(root: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a schema lists properties, itself or by the schemas that share its object."""
    waiting: list[Any] = [schema]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, Mapping) or id(each) in seen:
            continue
        if "properties" in each:
            return True
        seen.add(id(each))
        for key in ("allOf", "anyOf", "oneOf"):
            waiting += each[key] if isinstance(each.get(key), list) else []
        target = place_of(each.get("$ref"))
        if target is not None:
            waiting.append(at(root, target))
    return False


def is_number(value: Any) -> bool:
    """Whether `value` is a number of JSON: true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
