"""What a JSON schema asks for, in the words of llguidance.

What asks for nothing is dropped, what llguidance reads otherwise than the standard is rewritten, and what it would
loosen is refused by name. Never the other way: a rewritten schema lets nothing through that the schema does not.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any, NoReturn

from acd_core.errors import UsageError
from acd_core.grammar.disjoint import Steps, disjoint, kinds
from acd_core.grammar.patterns import FORMATS, LLGUIDANCE_FORMATS, LONGEST, NARROWED, UNENFORCEABLE, translated
from acd_core.grammar.references import endless, gathered, names_resource, tagged, used
from acd_core.grammar.schemas import (
    EXACT_INTEGERS,
    Path,
    at,
    closed,
    inexact,
    mapped,
    nodes,
    place_of,
    read_exactly,
)

_ASKING = frozenset({
    "$ref", "$dynamicRef", "$recursiveRef", "type", "const", "enum",
    "anyOf", "oneOf", "allOf", "not", "if", "then", "else",
    "items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "minContains", "maxContains",
    "minItems", "maxItems", "uniqueItems",
    "properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "propertyNames", "required",
    "dependentRequired", "dependentSchemas", "dependencies", "minProperties", "maxProperties",
    "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
})  # fmt: skip
# Where schemas are kept, and by what names references find them.
_KEEPING = frozenset({"$defs", "definitions", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"})
# Keywords that speak of one type only, as far as llguidance refuses or rewrites them.
_OF_ARRAYS = ("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems")
_OF_OBJECTS = ("propertyNames", "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties")
_OF_STRINGS = ("format", "pattern")
_OF_NAMES = frozenset({"type", "enum", "pattern", "format", "minLength", "maxLength"})
_COUNTS = (
    "minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains",
)  # fmt: skip
# Keywords whose schemas share the value, so that they may evaluate properties or items of it.
_SHARING = ("$ref", "$dynamicRef", "$recursiveRef", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas")
_OLD_DIALECTS = re.compile(r"json-schema\.org/draft-0[0-3]/")
_CONTROL = re.compile(r"\\u00[0-9a-f]{2}|\x7f")
_LARGEST_COEFFICIENT = 2**32
_BOUNDS = (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1))
# Decimal places of the number next to 0 that an exclusive bound of 0 leaves. llguidance nests a group for each, and its
# regexes do not nest 100 deep.
_PLACES_AT_ZERO = 40


def enforceable(schema: Mapping[str, Any], what: str) -> tuple[dict[str, Any], bool]:
    """(`schema` as llguidance is to read it, whether strings may hold escapes by number).

    what: how to call the schema in a complaint. Raises UsageError for what would be loosened, by name.
    """
    doc = used(gathered(schema, what))
    number = inexact(doc)
    if number is not None:
        _refuse(what, f"names the number {number}, which cannot be enforced to the last digit")
    result = closed(_Rewriting(used(tagged(doc)), what).result())
    circle = endless(result)
    if circle is not None:
        _refuse(what, circle, "Put an object or an array between, or leave a way out: a null, or a shorter list.")
    _check_counts(result, what)
    _check_multiples(result, what)
    return result, _escapes(result, what)


class _Rewriting:
    """One schema on its way to llguidance. doc: the whole of it, which references are looked up in."""

    def __init__(self, doc: Mapping[str, Any], what: str) -> None:
        self._doc, self._what = doc, what
        self._steps = Steps()
        everywhere = [node for _, node in nodes(doc)]
        self._dynamic = [node["$dynamicAnchor"] for node in everywhere if "$dynamicAnchor" in node]
        self._recursive = any("$recursiveRef" in node for node in everywhere)
        self._resources = any(names_resource(node) for node in everywhere if node is not doc)

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self._schema((), self._doc)
        return found

    def _schema(self, _: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        if _OLD_DIALECTS.search(str(schema.get("$schema", ""))):
            _refuse(self._what, f"is written in a dialect that is not known: {schema['$schema']}")
        # As it was given, since a closed object excludes more.
        schema = self._exclusive(schema)
        # Notes, and keywords that nobody knows: llguidance follows no reference in a circle where one stands beside it.
        out = {key: value for key, value in mapped(schema, self._schema).items() if key in _ASKING | _KEEPING}
        for key in _COUNTS:
            if isinstance(out.get(key), float) and out[key].is_integer():
                out[key] = int(out[key])
        self._anchors(out)
        self._drop(out)
        self._arrays(out)
        self._unevaluated(out)
        self._strings(out)
        self._names(out)
        _bound(out)
        return out

    def _exclusive(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """`oneOf` as `anyOf`, where no two of its branches can fit one value."""
        branches = schema.get("oneOf")
        if not isinstance(branches, list):
            return schema
        for second, other in enumerate(branches):
            for first, one in enumerate(branches[:second]):
                if not disjoint(one, other, self._resolve, steps=self._steps):
                    why = "may both fit" if self._steps.left >= 0 else "take too long to tell apart"
                    _refuse(
                        self._what,
                        f"uses keywords that cannot be enforced: oneOf (branches {first} and {second} {why})",
                        "Give the branches a required property with different constants, or use anyOf.",
                    )
        if "anyOf" not in schema:
            return {("anyOf" if key == "oneOf" else key): value for key, value in schema.items()}
        parts = schema["allOf"] if isinstance(schema.get("allOf"), list) else []
        return {**{key: schema[key] for key in schema if key != "oneOf"}, "allOf": [*parts, {"anyOf": branches}]}

    def _resolve(self, ref: Any) -> Any:
        place = None if self._resources else place_of(ref)
        return None if place is None else at(self._doc, place)

    def _anchors(self, out: dict[str, Any]) -> None:
        """Anchors of old dialects and dynamic ones, as far as they mean what an anchor means."""
        if isinstance(out.get("$id"), str) and out["$id"].startswith("#"):
            out["$anchor"] = out.pop("$id")[1:]
        if not self._recursive:
            out.pop("$recursiveAnchor", None)
        # A dynamic reference can lead to one place only where one place only has that name.
        if isinstance(out.get("$dynamicAnchor"), str) and self._dynamic.count(out["$dynamicAnchor"]) == 1:
            name = out.pop("$dynamicAnchor")
            if out.setdefault("$anchor", name) != name:
                out["$dynamicAnchor"] = name
        ref = out.get("$dynamicRef")
        if isinstance(ref, str) and "$ref" not in out and not self._resources:
            name = ref.partition("#")[2]
            if ref.startswith("#") and self._dynamic.count(name) <= 1:
                out["$ref"] = out.pop("$dynamicRef")

    def _drop(self, out: dict[str, Any]) -> None:
        """Keywords that ask for nothing here."""
        left = kinds(out)
        for kind, names in (("array", _OF_ARRAYS), ("object", _OF_OBJECTS), ("string", _OF_STRINGS)):
            for name in names if kind not in left else ():
                out.pop(name, None)
        for name, empty in _EMPTY.items():
            if name in out and empty(out[name]):
                del out[name]
        if "contains" not in out or (out.get("minContains") == 0 and "maxContains" not in out):
            for name in ("contains", "minContains", "maxContains"):
                out.pop(name, None)
        if "if" not in out or not {"then", "else"} & out.keys():
            for name in ("if", "then", "else"):
                out.pop(name, None)
        if out.get("uniqueItems") is True and out.get("maxItems") in (0, 1):
            del out["uniqueItems"]
        required = out["required"] if isinstance(out.get("required"), list) else []
        needed = out.get("dependentRequired")
        if isinstance(needed, Mapping) and all(
            isinstance(names, list) and all(each == name or each in required for each in names)
            for name, names in needed.items()
        ):
            del out["dependentRequired"]

    def _arrays(self, out: dict[str, Any]) -> None:
        """`additionalItems` speaks of what comes behind a list of `items`. Beside anything else it asks for nothing,
        and llguidance would forget `prefixItems` for it."""
        if isinstance(out.get("items"), list) and "prefixItems" in out:
            _refuse(self._what, "has both prefixItems and a list of items")
        if not isinstance(out.get("items"), list):
            out.pop("additionalItems", None)

    def _unevaluated(self, out: dict[str, Any]) -> None:
        """`unevaluated...` as `additional...`, where nothing else can have evaluated a part of the value."""
        shared = any(key in out for key in _SHARING)
        if "unevaluatedProperties" in out and (not shared or _trivial(out["unevaluatedProperties"])):
            rest = out.pop("unevaluatedProperties")
            out.setdefault("additionalProperties", rest)
        if "unevaluatedItems" in out and not shared and "contains" not in out:
            rest = out.pop("unevaluatedItems")
            if isinstance(out.get("items"), list):
                out.setdefault("additionalItems", rest)
            else:
                out.setdefault("items", rest)

    def _strings(self, out: dict[str, Any]) -> None:
        """Patterns in Rust's syntax; formats that the standard names, by llguidance or by a pattern of ours."""
        if isinstance(out.get("pattern"), str):
            out["pattern"] = translated(out["pattern"])
        name = out.get("format")
        if not isinstance(name, str):
            return
        if name in UNENFORCEABLE:
            _refuse(self._what, f"uses keywords that cannot be enforced: format {name!r}")
        name = NARROWED.get(name, name)
        if name in LLGUIDANCE_FORMATS:
            out["format"] = name
        else:
            del out["format"]
        if name in FORMATS:
            self._add_pattern(out, FORMATS[name])
        if name in LONGEST:
            known = out.get("maxLength")
            out["maxLength"] = min(known, LONGEST[name]) if isinstance(known, int) else LONGEST[name]

    @staticmethod
    def _add_pattern(out: dict[str, Any], pattern: str) -> None:
        if "pattern" not in out:
            out["pattern"] = pattern
        else:
            parts = out["allOf"] if isinstance(out.get("allOf"), list) else []
            out["allOf"] = [*parts, {"pattern": pattern}]

    def _names(self, out: dict[str, Any]) -> None:
        """Patterns of property names, in Rust's syntax; `propertyNames` as properties or as such a pattern."""
        if isinstance(out.get("patternProperties"), Mapping):
            found: dict[str, Any] = {}
            for pattern, schema in out["patternProperties"].items():
                name = translated(pattern)
                found[name] = {"allOf": [found[name], schema]} if name in found else schema
            out["patternProperties"] = found
        names = out.get("propertyNames")
        if not isinstance(names, Mapping) or out.get("properties") or out.get("patternProperties"):
            return
        target = self._resolve(names.get("$ref"))
        if _ASKING & names.keys() == {"$ref"} and isinstance(target, Mapping) and _ASKING & target.keys() <= _OF_NAMES:
            names = self._schema((), target)
        asked, rest = _ASKING & names.keys() - {"type"}, out.get("additionalProperties", True)
        if names.get("type", "string") != "string":
            return
        if asked == {"enum"} and isinstance(names["enum"], list):
            out["properties"] = {name: rest for name in names["enum"] if isinstance(name, str)}
        elif asked == {"pattern"}:
            out["patternProperties"] = {names["pattern"]: rest}
        elif asked and asked <= {"minLength", "maxLength"}:
            out["patternProperties"] = {f"^(?s:.{{{names.get('minLength', 0)},{names.get('maxLength', '')}}})$": rest}
        else:
            return
        del out["propertyNames"]
        out["additionalProperties"] = False


def _bound(out: dict[str, Any]) -> None:
    """Bounds of numbers, so that llguidance holds them exactly.

    Beside an exclusive whole number and another bound within the same unit it allows the whole number itself (0 for
    `exclusiveMinimum: 0, maximum: 0.5`). Which bounds meet shows only once references and parts are merged, so each
    such one becomes an inclusive one right inside.
    """
    if "number" not in kinds(out):
        return
    for plain, exclusive, inward in _BOUNDS:
        if out.get(exclusive) is True and _is_number(out.get(plain)):  # draft 4
            out[exclusive] = out.pop(plain)
        elif out.get(exclusive) is False:
            del out[exclusive]
        for name in (plain, exclusive):
            if isinstance(out.get(name), float) and not read_exactly(out[name]):
                out[name] = _shortened(out[name], inward)
        inside = _inside(out.get(exclusive), inward, out.get("type") == "integer")
        if inside is not None:
            del out[exclusive]
            known = out[plain] if _is_number(out.get(plain)) else inside
            out[plain] = max(known, inside) if inward > 0 else min(known, inside)


def _inside(value: Any, inward: int, integer: bool) -> float | None:
    """The first number inside an exclusive bound, where llguidance does not hold that bound; else None. Between the two
    lies nothing of up to 15 digits, beyond 0 nothing above 1e-40."""
    if not _is_number(value) or value != int(value):
        return None
    size = abs(value)
    if EXACT_INTEGERS <= size < 2**63:  # llguidance adds 1, which a double of this size does not show
        return int(math.nextafter(value, inward * math.inf))
    if integer or value * inward < 0 or size >= EXACT_INTEGERS:
        return None
    places = _PLACES_AT_ZERO if not size else max(k for k in range(17) if not k or size * 10**k < EXACT_INTEGERS)
    return float(Decimal(value) + inward * Decimal(1).scaleb(-places)) if places else int(value) + inward


def _shortened(value: float, inward: int) -> float:
    """The bound as the next number inside that llguidance reads to the last digit."""
    inside = Context(prec=15, rounding=ROUND_CEILING if inward > 0 else ROUND_FLOOR)
    short = float(inside.plus(Decimal(repr(value))))
    # So small or large that no digits are read exactly: a little further in than the reading can be wrong.
    return (
        short
        if read_exactly(short)
        else float(inside.fma(abs(Decimal(short)), Decimal(inward) / 10**14, Decimal(short)))
    )


def _trivial(schema: Any) -> bool:
    """Whether every value fits, as can be seen at once."""
    return schema is True or (isinstance(schema, Mapping) and not _ASKING & schema.keys())


def _empty(value: Any) -> bool:
    """Whether every schema by name is trivial, and every list of names empty."""
    return isinstance(value, Mapping) and all(each == [] or _trivial(each) for each in value.values())


def _any_name(value: Any) -> bool:
    """Whether a schema lets every property name through; names are strings anyway."""
    named = isinstance(value, Mapping) and value.get("type") == "string" and _ASKING & value.keys() == {"type"}
    return named or _trivial(value)


_EMPTY: dict[str, Callable[[Any], bool]] = {
    "uniqueItems": lambda value: value is False,
    "minProperties": lambda value: value == 0,
    "not": lambda value: value is False,
    "propertyNames": _any_name,
    "unevaluatedItems": _trivial,
    "dependentRequired": _empty,
    "dependentSchemas": _empty,
    "dependencies": _empty,
}
"""Keyword -> whether such a value of it asks for nothing."""


def _check_counts(schema: Mapping[str, Any], what: str) -> None:
    """llguidance counts a name that is written twice as two properties; a reader of JSON counts it once."""
    for _, node in nodes(schema):
        least, required = node.get("minProperties"), node.get("required")
        sure = len(set(required)) if isinstance(required, list) else 0
        free = node.get("additionalProperties") is not False or node.get("patternProperties")
        if isinstance(least, int) and free and least > sure + 1:
            _refuse(what, f"uses keywords that cannot be enforced: minProperties {least} of properties with free names")


def _check_multiples(schema: Mapping[str, Any], what: str) -> None:
    """llguidance meets two `multipleOf` by their least common multiple, in 32 bits and without a word beyond them."""
    found = {node["multipleOf"] for _, node in nodes(schema) if _is_number(node.get("multipleOf"))}
    meeting = any(key in node for _, node in nodes(schema) for key in _SHARING)
    if len(found) < 2 or not meeting:
        return
    exact = [Decimal(repr(value)).copy_abs() for value in found]
    places = max(0, *(-int(value.normalize().as_tuple().exponent) for value in exact))
    if math.lcm(*(int(value.scaleb(places)) for value in exact)) >= _LARGEST_COEFFICIENT:
        _refuse(what, "uses keywords that cannot be enforced: several multipleOf whose common multiple is too large")


def _escapes(schema: Mapping[str, Any], what: str) -> bool:
    """Whether strings may hold escapes by number (`\\u0001`). Not where names are free beside others that have schemas
    of their own: llguidance takes "\\u0061" for another name than "a"."""
    free = any(
        node.get("additionalProperties") is not False
        and any(node.get(key) for key in ("properties", "patternProperties", "required"))
        for _, node in nodes(schema)
    )
    named = _CONTROL.search(json.dumps(schema, ensure_ascii=False))
    if free and named:
        _refuse(what, "has both free property names and a control character in a constant or a name")
    return not free


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _refuse(what: str, why: str, hint: str = "") -> NoReturn:
    raise UsageError(
        f"The {what} {why}.",
        hint=hint or "Leave them out and check the value afterwards, for instance in a Pydantic validator.",
    )
