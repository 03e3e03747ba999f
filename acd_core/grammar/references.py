"""References of a JSON schema: definitions gathered in one place, those that nothing refers to left out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin

from acd_core.errors import UsageError
from acd_core.grammar.disjoint import Steps, disjoint, kinds
from acd_core.grammar.schemas import Path, at, children, mapped, nodes, place_of

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_DEFINITIONS = ("$defs", "definitions")
_MOST_COPIES = 500


def without_unused_definitions(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `doc` without the definitions that nothing refers to: they ask for nothing."""
    if any(place_of(node[key]) is None for _, node in nodes(doc) for key in _REFERENCES if key in node):
        return doc  # a name that is looked up otherwise than by its place
    defined = {path + step for path, node in nodes(doc) for step, _ in children(node) if step[0] in _DEFINITIONS}
    kept: set[Path] = set()

    waiting: list[tuple[Path, Any]] = [((), doc)]
    while waiting:
        path, schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        waiting += [(path + step, child) for step, child in children(schema) if step[0] not in _DEFINITIONS]
        for target in (place_of(schema.get(key)) or () for key in _REFERENCES):
            for holder in (target[:end] for end in range(1, len(target) + 1)):
                if holder in defined and holder not in kept:
                    kept.add(holder)
                    waiting.append((holder, at(doc, holder)))

    def keep(path: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, lambda step, child: keep(path + step, child))
        for key in _DEFINITIONS:
            if isinstance(out.get(key), Mapping):
                out[key] = {name: each for name, each in out[key].items() if (*path, key, name) in kept}
        return out

    found: dict[str, Any] = keep((), doc)
    return found


def with_gathered_definitions(schema: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Return `schema` with what its references name among its definitions, wherever it stood
    (`#/components/schemas/Pet`).

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
            doc = _with_moved_definition(doc, place, moved[place])
            break
        else:
            return doc


def _new_name(doc: Mapping[str, Any], wish: str) -> str:
    """Return a name for a definition that none has yet, plain enough for a reference."""
    plain, taken = re.sub(r"\W", "_", wish, flags=re.ASCII), doc.get("$defs") or {}
    names = itertools.chain([plain], (f"{plain}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _with_moved_definition(doc: Mapping[str, Any], place: Path, name: str) -> dict[str, Any]:
    """Return `doc` with a definition `name` of what stands at `place`, and references to that place led to it."""

    def redirected(_: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, redirected)
        return {**out, "$ref": f"#/$defs/{name}"} if place_of(out.get("$ref")) == place else out

    definitions = doc["$defs"] if isinstance(doc.get("$defs"), Mapping) else {}
    found: dict[str, Any] = redirected((), {**doc, "$defs": {**definitions, name: at(doc, place)}})
    return found


def with_required_tags(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `doc` with the tag of each discriminated union required in its branches, where that tells them apart.

    A tag that has a default may be left out by the letter; then nothing tells the branches apart, and Pydantic accepts
    no such value. A branch that is a reference gets a copy of what it refers to, since other places may refer to that
    too. A union with a branch that does not list the tag stays as it is.
    """
    if any(names_resource(node) for path, node in nodes(doc) if path):
        return doc  # references there start from other places
    tags = {path: tag for path, node in nodes(doc) if (tag := _distinguishing_tag(doc, node)) is not None}
    return _TagRequirer(doc, tags).result() if tags else doc


class _TagRequirer:
    """Tags becoming required. tags: the places of unions, each with its tag."""

    def __init__(self, doc: Mapping[str, Any], tags: Mapping[Path, str]) -> None:
        self._doc, self._tags = doc, tags
        self._names: dict[tuple[Path, tuple[str, ...]], str] = {}  # what is copied, with which tags -> the copy
        self._copied: dict[Path, tuple[Path, tuple[str, ...]]] = {}

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = self._schema((), self._doc)
        copies: dict[str, Any] = {}
        while len(copies) < len(self._names):  # copies of unions name further copies
            for (place, tags), name in list(self._names.items())[len(copies) :]:
                copy = self._schema(place, at(self._doc, place))
                for tag in tags:
                    copy = self._tagged(copy, tag)
                copies[name] = {key: copy[key] for key in copy if key not in (*_DEFINITIONS, "$anchor", "$id")}
        return {**found, "$defs": {**(found.get("$defs") or {}), **copies}}

    def _schema(self, path: Path, schema: Any) -> Any:
        if not isinstance(schema, Mapping):
            return schema
        out = mapped(schema, lambda step, child: self._schema(path + step, child))
        if path in self._tags:
            out["oneOf"] = [self._tagged(branch, self._tags[path]) for branch in out["oneOf"]]
        return out

    def _tagged(self, schema: Mapping[str, Any], tag: str) -> dict[str, Any]:
        """Return `schema` with the property `tag` required where it is listed."""
        if tag in (schema.get("properties") or ()):
            return _requiring(schema, tag)
        place = place_of(schema.get("$ref"))
        if place is not None:
            source, tags = self._copied.get(place, (place, ()))
            name = self._name(source, tuple(sorted({*tags, tag})))
            return {**schema, "$ref": f"#/$defs/{name}"}
        key = next(key for key in ("anyOf", "oneOf") if isinstance(schema.get(key), list))
        return {**schema, key: [self._tagged(option, tag) for option in schema[key]]}

    def _name(self, source: Path, tags: tuple[str, ...]) -> str:
        if (source, tags) not in self._names:
            if len(self._names) >= _MOST_COPIES:
                raise UsageError(
                    f"The discriminated unions of a schema lead to more than {_MOST_COPIES} definitions.",
                    hint="Leave `discriminator` out, and make the tag required in every branch.",
                )
            known = {**(self._doc.get("$defs") or {}), **dict.fromkeys(self._names.values())}
            name = _new_name({"$defs": known}, source[-1] if source else "root")
            self._names[source, tags] = name
            self._copied["$defs", name] = source, tags
        return self._names[source, tags]


def _distinguishing_tag(doc: Mapping[str, Any], union: Mapping[str, Any]) -> str | None:
    """Return the property that tells the branches of `union` apart wherever it is there, or None."""
    note, branches = union.get("discriminator"), union.get("oneOf")
    tag = note.get("propertyName") if isinstance(note, Mapping) else None
    if not isinstance(tag, str) or not isinstance(branches, list):
        return None

    def resolve(ref: Any) -> Any:
        place = place_of(ref)
        return None if place is None else at(doc, place)

    steps = Steps()
    views = [_least_with_tag(branch, tag, resolve, steps) for branch in branches]
    pairs = itertools.combinations(views, 2)
    if None in views or not all(disjoint(one, other, resolve, steps=steps) for one, other in pairs):
        return None
    return tag


def _least_with_tag(
    schema: Any, tag: str, resolve: Callable[[Any], Any], steps: Steps, depth: int = 12
) -> Mapping[str, Any] | None:
    """Return what `schema` asks at least of a value with the property `tag`; None where it does not list that."""
    if not isinstance(schema, Mapping) or not depth or not steps.take():
        return None
    if tag in (schema.get("properties") or ()):
        return _requiring(schema, tag)
    if "$ref" in schema:
        return _least_with_tag(resolve(schema["$ref"]), tag, resolve, steps, depth - 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            options = [_least_with_tag(option, tag, resolve, steps, depth - 1) for option in schema[key]]
            return None if None in options or not options else {"anyOf": options}
    return None


def _requiring(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    required = schema["required"] if isinstance(schema.get("required"), list) else []
    return {**schema, "required": required if name in required else [*required, name]}


def why_endless(doc: Mapping[str, Any]) -> str | None:
    """Say why some value of `doc` could never be written to its end; None where all can.

    Either a schema refers to itself for the same value, with nothing between, or each value of it holds another one.
    """
    found = dict(nodes(doc))
    target = _targets(doc)
    same = {path: _of_same_value(path, node, target) for path, node in found.items()}
    done: set[Path] = set()
    for start in found:  # depth first: a schema that is met again on the way to itself
        way: list[Path] = []
        waiting = [(start, 0)]
        while waiting:
            path, depth = waiting.pop()
            del way[depth:]
            if path in way:
                return f"refers to itself with nothing between ({_pointer(path)})"
            if path in done or path not in found:
                continue
            way.append(path)
            done.add(path)
            waiting += [(next_path, depth + 1) for next_path in same[path]]
    ends: set[Path] = set()
    before = -1
    while before < len(ends):
        before = len(ends)
        for path in reversed(found):  # what is held before what holds it
            if path not in ends and _ends(path, found, ends, target):
                ends.add(path)
    never = next((path for path in found if path not in ends), None)
    return None if never is None else f"has values without end ({_pointer(never)}): each holds another one of its kind"


def _pointer(path: Path) -> str:
    return "#" + "".join(f"/{step}" for step in path)


def _of_same_value(path: Path, node: Mapping[str, Any], target: Callable[[Path, Any], Path | None]) -> list[Path]:
    """Return the places of the schemas that `node` lays on the same value."""
    place = target(path, node.get("$ref"))
    parts = [path + step for step, _ in children(node) if step[0] in ("allOf", "anyOf", "oneOf")]
    return parts if place is None else [*parts, place]


def _ends(
    path: Path, found: Mapping[Path, Mapping[str, Any]], ends: set[Path], target: Callable[[Path, Any], Path | None]
) -> bool:
    """Whether a value of the schema at `path` ends, given that those of `ends` do. In doubt: True."""
    node = found[path]

    def ending(place: Path | None) -> bool:
        return place not in found or place in ends

    def listed(key: str) -> list[bool]:
        return [ending((*path, key, str(number))) for number, _ in enumerate(node.get(key) or ())]

    options = [listed(key) for key in ("anyOf", "oneOf") if node.get(key)]
    if not ending(target(path, node.get("$ref"))) or not all(listed("allOf")) or not all(map(any, options)):
        return False
    left = kinds(node)
    if "const" in node or "enum" in node or not left or left - {"array", "object"}:
        return True
    if "object" in left:
        required = node["required"] if isinstance(node.get("required"), list) else []
        properties = node.get("properties") or {}
        places = [
            (*path, "properties", name) if name in properties else (*path, "additionalProperties") for name in required
        ]
        if all(map(ending, places)):
            return True
    if "array" not in left:
        return False
    least = node["minItems"] if isinstance(node.get("minItems"), int) else 0
    key = "items" if isinstance(node.get("items"), list) else "prefixItems"
    first, rest = listed(key), (*path, "items" if key == "prefixItems" else "additionalItems")
    return all(first[:least]) and (least <= len(first) or ending(rest))


def _targets(doc: Mapping[str, Any]) -> Callable[[Path, Any], Path | None]:
    """Return a function from (where a reference stands, the reference) to the place it names; None beyond `doc`."""
    everywhere = list(nodes(doc))
    uris: dict[Path, str] = {(): ""}

    def base_of(path: Path) -> Path:
        return max((each for each in uris if path[: len(each)] == each), key=len)

    for path, node in everywhere:  # holders come before what they hold
        if names_resource(node):
            uris[path] = urljoin(uris[base_of(path)], node["$id"]).partition("#")[0]
    resources = {uri: path for path, uri in reversed(uris.items())}
    anchors = {
        (base_of(path), node["$anchor"]): path for path, node in everywhere if isinstance(node.get("$anchor"), str)
    }

    def target(path: Path, ref: Any) -> Path | None:
        if not isinstance(ref, str):
            return None
        base = base_of(path)
        uri, _, fragment = ref.partition("#")
        holder = base if not uri else resources.get(urljoin(uris[base], uri))
        if holder is None:
            return None
        place = place_of(f"#{fragment}")
        return anchors.get((holder, fragment)) if place is None else holder + place

    return target


def names_resource(schema: Mapping[str, Any]) -> bool:
    """Whether a schema has an address of its own, which references inside it start from."""
    return isinstance(schema.get("$id"), str) and not schema["$id"].startswith("#")
