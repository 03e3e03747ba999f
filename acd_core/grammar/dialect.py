"""What a JSON schema asks for, in the words of llguidance.

What asks for nothing is dropped, what llguidance reads otherwise than the standard is rewritten, and what it would
loosen is refused by name. Never the other way: a rewritten schema lets nothing through that the schema does not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from acd_core.errors import UsageError
from acd_core.grammar.disjoint import Steps, disjoint, kinds
from acd_core.grammar.limits import check_costs, check_shapes
from acd_core.grammar.numbers import inexact_number, make_bounds_exact, multiples_meet_beyond
from acd_core.grammar.patterns import FORMATS, LLGUIDANCE_FORMATS, LONGEST, NARROWED, UNENFORCEABLE, translated
from acd_core.grammar.references import (
    names_resource,
    why_endless,
    with_gathered_definitions,
    with_required_tags,
    without_unused_definitions,
)
from acd_core.grammar.schemas import COUNTS, SHARING, Path, at, closed, mapped, nodes, place_of

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
_OLD_DIALECTS = re.compile(r"json-schema\.org/draft-0[0-3]/")
_CONTROL = re.compile(r"\\u00[0-9a-f]{2}|\x7f")
# One way to write whitespace: a model that is free in it can go on with newlines forever. These are the separators of
# Python's json and of Jinja's tojson, in which chat models saw their schemas and calls.
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_NUMBERED_ESCAPES = {"json_allowed_escapes": 'nrbtf\\"'}


def rule_of(schema: str, what: str) -> str:
    """Return the grammar rule of `schema`, a JSON text within the limits of `limits.json_of`.

    what: how to call it in a complaint. Raises UsageError for what cannot be enforced, by name.
    """
    content = json.loads(schema)
    check_shapes(content, what)
    check_costs(content, what)
    try:
        asked, numbered_escapes = enforceable(content, what)
    except RecursionError:
        raise UsageError(
            f"The {what} is too deep: its references or parts lead too far into each other.",
            hint="Fewer definitions that lead to further ones.",
        ) from None
    style = _JSON_STYLE if numbered_escapes else {**_JSON_STYLE, **_NO_NUMBERED_ESCAPES}
    return "%json " + json.dumps({**asked, "x-guidance": style})


def enforceable(schema: Mapping[str, Any], what: str) -> tuple[dict[str, Any], bool]:
    """Return (`schema` as llguidance is to read it, whether strings may hold escapes by number).

    what: how to call the schema in a complaint. Raises UsageError for what would be loosened, by name.
    """
    doc = without_unused_definitions(with_gathered_definitions(schema, what))
    number = inexact_number(doc)
    if number is not None:
        _refuse(what, f"names the number {number}, which cannot be enforced to the last digit")
    result = closed(_Rewriting(without_unused_definitions(with_required_tags(doc)), what).result())
    circle = why_endless(result)
    if circle is not None:
        _refuse(what, circle, "Put an object or an array between, or leave a way out: a null, or a shorter list.")
    _check_counts(result, what)
    if multiples_meet_beyond(result):
        _refuse(what, "uses keywords that cannot be enforced: several multipleOf whose common multiple is too large")
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
        for key in COUNTS:
            if isinstance(out.get(key), float) and out[key].is_integer():
                out[key] = int(out[key])
        self._anchors(out)
        self._drop(out)
        self._arrays(out)
        self._unevaluated(out)
        self._strings(out)
        self._names(out)
        make_bounds_exact(out)
        return out

    def _exclusive(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `oneOf` as `anyOf`, where no two of its branches can fit one value."""
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
        """Rewrite anchors of old dialects and dynamic ones, as far as they mean what an anchor means."""
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
        """Leave out the keywords that ask for nothing here."""
        left = kinds(out)
        for kind, names in (("array", _OF_ARRAYS), ("object", _OF_OBJECTS), ("string", _OF_STRINGS)):
            for name in names if kind not in left else ():
                out.pop(name, None)
        for name, empty in _ASKS_NOTHING.items():
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
        """Leave out an `additionalItems` that asks for nothing.

        It speaks of what comes behind a list of `items`. Beside anything else it asks for nothing, and llguidance would
        forget `prefixItems` for it.
        """
        if isinstance(out.get("items"), list) and "prefixItems" in out:
            _refuse(self._what, "has both prefixItems and a list of items")
        if not isinstance(out.get("items"), list):
            out.pop("additionalItems", None)

    def _unevaluated(self, out: dict[str, Any]) -> None:
        """Rewrite `unevaluated...` as `additional...`, where nothing else can have evaluated a part of the value."""
        shared = any(key in out for key in SHARING)
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
        """Rewrite patterns in Rust's syntax, and formats that the standard names as llguidance's or as a pattern of
        ours."""
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
        """Rewrite patterns of names in Rust's syntax, and `propertyNames` as properties or as such a pattern."""
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


def _trivial(schema: Any) -> bool:
    """Whether every value fits, as can be seen at once."""
    return schema is True or (isinstance(schema, Mapping) and not _ASKING & schema.keys())


def _all_trivial(value: Any) -> bool:
    """Whether every schema by name is trivial, and every list of names empty."""
    return isinstance(value, Mapping) and all(each == [] or _trivial(each) for each in value.values())


def _any_name(value: Any) -> bool:
    """Whether a schema lets every property name through; names are strings anyway."""
    named = isinstance(value, Mapping) and value.get("type") == "string" and _ASKING & value.keys() == {"type"}
    return named or _trivial(value)


_ASKS_NOTHING: dict[str, Callable[[Any], bool]] = {
    "uniqueItems": lambda value: value is False,
    "minProperties": lambda value: value == 0,
    "not": lambda value: value is False,
    "propertyNames": _any_name,
    "unevaluatedItems": _trivial,
    "dependentRequired": _all_trivial,
    "dependentSchemas": _all_trivial,
    "dependencies": _all_trivial,
}
"""Keyword -> whether such a value of it asks for nothing."""


def _check_counts(schema: Mapping[str, Any], what: str) -> None:
    """Refuse counts of properties with free names. llguidance counts a name that is written twice as two properties; a
    reader of JSON counts it once."""
    for _, node in nodes(schema):
        least, required = node.get("minProperties"), node.get("required")
        sure = len(set(required)) if isinstance(required, list) else 0
        free = node.get("additionalProperties") is not False or node.get("patternProperties")
        if isinstance(least, int) and free and least > sure + 1:
            _refuse(what, f"uses keywords that cannot be enforced: minProperties {least} of properties with free names")


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


def _refuse(what: str, why: str, hint: str = "") -> NoReturn:
    raise UsageError(
        f"The {what} {why}.",
        hint=hint or "Leave them out and check the value afterwards, for instance in a Pydantic validator.",
    )
