"""References of a JSON schema: definitions gathered in one place, those that nothing refers to left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from acd_core.decoding.schemas import Path, at, children, mapped, nodes, place_of
from acd_core.errors import UsageError

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DEFINITIONS = ("$defs", "definitions")


def used(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """`doc` without the definitions that nothing refers to: they ask for nothing."""
    if any(place_of(node[key]) is None for _, node in nodes(doc) for key in _REFERENCES if key in node):
        return doc  # a name that is looked up otherwise than by its place
    defined = {path + step for path, node in nodes(doc) for step, _ in children(node) if step[0] in _DEFINITIONS}
    kept: set[Path] = set()

    def follow(path: Path, schema: Any) -> None:
        if not isinstance(schema, Mapping):
            return
        for step, child in children(schema):
            if step[0] not in _DEFINITIONS:
                follow(path + step, child)
        for target in (place_of(schema.get(key)) or () for key in _REFERENCES):
            for holder in (target[:end] for end in range(1, len(target) + 1)):
                if holder in defined and holder not in kept:
                    kept.add(holder)
                    follow(holder, at(doc, holder))

    def keep(path: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, lambda step, child: keep(path + step, child))
        for key in _DEFINITIONS:
            if isinstance(out.get(key), Mapping):
                out[key] = {name: each for name, each in out[key].items() if (*path, key, name) in kept}
        return out

    follow((), doc)
    found: dict[str, Any] = keep((), doc)
    return found


def gathered(schema: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """`schema` with what its references name among its definitions, wherever it stood (`#/components/schemas/Pet`).

    A place that holds no schema by the standard would else be read by llguidance and not by us.
    """
    doc = dict(schema)
    moved: dict[Path, str] = {}
    while True:
        known = {path for path, _ in nodes(doc)}
        resources = [path for path, node in nodes(doc) if path and names_resource(node)]
        for path, node in nodes(doc):
            base = max((each for each in resources if path[: len(each)] == each), key=len, default=())
            place = place_of(node.get("$ref"))
            if place is None or base + place in known or not isinstance(at(doc, base + place), Mapping):
                continue
            if base:
                raise UsageError(
                    f"The {what} refers to {node['$ref']!r}, which is no place of a schema.",
                    hint="Put what it refers to under $defs.",
                )
            moved[place] = _new_name(doc, place[-1])
            doc = _moved(doc, place, moved[place])
            break
        else:
            return doc


def _new_name(doc: Mapping[str, Any], wish: str) -> str:
    """A name for a definition that none has yet, plain enough for a reference."""
    plain, taken = re.sub(r"\W", "_", wish, flags=re.ASCII), doc.get("$defs") or {}
    names = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _moved(doc: Mapping[str, Any], place: Path, name: str) -> dict[str, Any]:
    """`doc` with a definition `name` of what stands at `place`, and references there led to it."""

    def led(_: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, led)
        return {**out, "$ref": f"#/$defs/{name}"} if place_of(out.get("$ref")) == place else out

    definitions = doc["$defs"] if isinstance(doc.get("$defs"), Mapping) else {}
    found: dict[str, Any] = led((), {**doc, "$defs": {**definitions, name: at(doc, place)}})
    return found


def tagged(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """`doc` with the tag of each discriminated union required in the branches. A tag that has a default may be left out
    by the letter; then nothing tells the branches apart, and Pydantic accepts no such value."""
    tags: dict[Path, Any] = {}
    for path, node in nodes(doc):
        note = node.get("discriminator")
        tag = note.get("propertyName") if isinstance(note, Mapping) else None
        for number, branch in enumerate(node["oneOf"] if tag and isinstance(node.get("oneOf"), list) else ()):
            target = place_of(branch.get("$ref")) if isinstance(branch, Mapping) else None
            tags[(*path, "oneOf", str(number)) if target is None else target] = tag

    def require(path: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, lambda step, child: require(path + step, child))
        tag = tags.get(path)
        if isinstance(tag, str) and tag in (out.get("properties") or ()):
            required = out["required"] if isinstance(out.get("required"), list) else []
            out["required"] = required if tag in required else [*required, tag]
        return out

    found: dict[str, Any] = require((), doc)
    return found


def names_resource(schema: Mapping[str, Any]) -> bool:
    """Whether a schema has an address of its own, which references inside it start from."""
    return isinstance(schema.get("$id"), str) and not schema["$id"].startswith("#")
