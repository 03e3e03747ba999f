"""Whether two JSON schemas can both fit one value. Where they cannot, `oneOf` is `anyOf`, which a grammar can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

_DEEPEST = 12  # references and nested parts that are followed
_MOST_STEPS = 200_000  # a second or two; every pair of branches takes a few
_KINDS = frozenset({"null", "boolean", "number", "string", "array", "object"})

Resolve = Callable[[str], Any]


class Steps:
    """How many comparisons the branches of one schema may take together. Parts that name each other would else take
    more than any number."""

    def __init__(self, most: int = _MOST_STEPS) -> None:
        self.left = most

    def take(self, count: int = 1) -> bool:
        """Whether so many more are left; then they are taken."""
        self.left -= count
        return self.left >= 0


def kind_of(value: Any) -> str:
    """Return the JSON type of a value. An integer is a number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "object" if isinstance(value, Mapping) else "array"


def kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    """Return the JSON types that the schema's own `type`, `const` and `enum` leave."""
    found = _KINDS
    named = schema.get("type")
    if named is not None:
        types = [named] if isinstance(named, str) else named if isinstance(named, list) else []
        found &= {"number" if each == "integer" else each for each in types if isinstance(each, str)}
    values = _values(schema)
    return found if values is None else found & {kind_of(value) for value in values}


def disjoint(one: Any, other: Any, resolve: Resolve, depth: int = _DEEPEST, steps: Steps | None = None) -> bool:
    """Whether no value fits both schemas; False where that cannot be shown, also for want of steps. resolve: a `$ref`'s
    schema, or None."""
    steps = steps or Steps()
    if not steps.take():
        return False
    if one is False or other is False:
        return True
    if not isinstance(one, Mapping) or not isinstance(other, Mapping) or depth == 0:
        return False

    def apart(left: Any, right: Any) -> bool:
        return disjoint(left, right, resolve, depth - 1, steps)

    for left, right in ((one, other), (other, one)):
        target = resolve(left["$ref"]) if isinstance(left.get("$ref"), str) else None
        if target is not None and apart(target, right):
            return True
        if any(apart(part, right) for part in _listed(left, "allOf")):
            return True
        for key in ("anyOf", "oneOf"):
            options = _listed(left, key)
            if options and all(apart(option, right) for option in options):
                return True
    return all(_apart(kind, one, other, apart, steps) for kind in kinds(one) & kinds(other))


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and true is not 1."""
    if kind_of(one) != kind_of(other):
        return False
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _apart(
    kind: str, one: Mapping[str, Any], other: Mapping[str, Any], apart: Callable[[Any, Any], bool], steps: Steps
) -> bool:
    """Whether no value of this type fits both, by the schemas' own keywords."""
    ours, theirs = _values(one), _values(other)
    if ours is not None and theirs is not None:
        if not steps.take(len(ours) * len(theirs) // 16):
            return False
        return not any(same(value, each) for value in ours for each in theirs)
    if kind == "number":
        return _ranges_apart(*(_range(schema, "number") for schema in (one, other)))
    if kind == "string":
        return _ranges_apart(*(_range(schema, "string") for schema in (one, other)))
    if kind == "array":
        if _ranges_apart(*(_range(schema, "array") for schema in (one, other))):
            return True
        least = int(max(_range(one, "array")[0][0], _range(other, "array")[0][0]))
        return any(apart(_item(one, index), _item(other, index)) for index in range(min(least, 8)))
    if kind == "object":
        names = {name for schema in (one, other) for name in _listed(schema, "required") if isinstance(name, str)}
        return any(apart(_property(one, name), _property(other, name)) for name in names)
    return False


Edge = tuple[float, bool]  # where a range ends, and whether the end itself is out


def _range(schema: Mapping[str, Any], kind: str) -> tuple[Edge, Edge]:
    """Return the numbers, lengths or counts that the schema leaves: from, to."""
    values = [value for value in _values(schema) or () if kind_of(value) == kind]
    if values:
        sizes = [value if kind == "number" else len(value) for value in values]
        return (min(sizes), False), (max(sizes), False)
    names = {
        "number": ("minimum", "maximum"),
        "string": ("minLength", "maxLength"),
        "array": ("minItems", "maxItems"),
    }[kind]
    least, most = (schema.get(name) for name in names)
    if kind != "number":  # counts have no exclusive ends, and 0 is one of them
        return (_number(least, 0.0), False), (_number(most, float("inf")), False)
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    lower = [(_number(least, float("-inf")), above is True), (_number(above, float("-inf")), True)]
    upper = [(_number(most, float("inf")), below is True), (_number(below, float("inf")), True)]
    return max(lower), min(upper, key=lambda edge: (edge[0], not edge[1]))


def _ranges_apart(one: tuple[Edge, Edge], other: tuple[Edge, Edge]) -> bool:
    return any(
        high[0] < low[0] or (high[0] == low[0] and (high[1] or low[1]))
        for high, low in ((one[1], other[0]), (other[1], one[0]))
    )


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    """Return the values that `const` or `enum` name, or None."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _listed(schema: Mapping[str, Any], key: str) -> Iterable[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else ()


def _item(schema: Mapping[str, Any], index: int) -> Any:
    """Return what the schema asks of the item at `index`; True where nothing is known."""
    items = schema.get("items", True)
    first = items if isinstance(items, list) else schema.get("prefixItems")
    if isinstance(first, list) and index < len(first):
        return first[index]
    return True if isinstance(items, list) else items


def _property(schema: Mapping[str, Any], name: str) -> Any:
    """Return what the schema asks of a property; True where nothing is known."""
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)
