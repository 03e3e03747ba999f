"""What a schema may be at most, before anything else reads it, and which schemas are compiled without a trial.

Every limit is one pass over the value, without recursion: a schema of any depth, or one that holds itself, ends here.
The numbers keep compilation under a second and a mask under half of one, as measured with llguidance 1.9.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Union

from acd_core.errors import UsageError
from acd_core.grammar.patterns import FORMATS
from acd_core.grammar.schemas import COUNTS, LISTS, NAMED, ONE, is_number

MOST_BYTES = 256 * 1024
"""Bytes of a schema, or of all tools together, as JSON."""
DEEPEST = 100
"""Lists and objects within each other. llguidance's reader of JSON ends at 128, some of which are ours."""
MOST_VALUES = 50_000
"""Values in a schema."""
LONGEST_TEXT = 64 * 1024
"""Letters of one constant, name or pattern: a mask over a forced text costs about a microsecond a letter."""
MOST_REPEATED = 20_000
"""Signs that a pattern asks for at least, its counts written out: a mask over them costs two microseconds each."""
MOST_RESTS = 500_000
"""Rests of a division by `multipleOf` that no last digits tell; llguidance takes 5 microseconds and 290 bytes each."""
LARGEST_COUNT = 2**31 - 1
"""Of minItems, maxLength and their like."""

_TOO_LONG = 10**1000  # Python itself writes no more than 4300 digits
_Place = Union[tuple["_Place", Union[str, int]], None]
"""Where a value stands: its holder's place and its key there. Written out only for a complaint: a long key in front of
thousands of values would otherwise take gigabytes."""
_REPEAT = re.compile(r"\{(\d{1,20})(,(\d{0,20}))?\}")
# Below these a schema costs some milliseconds, whatever it says.
_CHEAP_BYTES, _CHEAP_VALUES, _CHEAP_REPEATED, _CHEAP_PATTERN, _CHEAP_PARTS = 32 * 1024, 4000, 1000, 256, 8
_CHEAP_BRANCHES, _CHEAP_PROPERTIES, _CHEAP_MULTIPLE = 32, 400, 20_000


def json_of(value: Any, what: str) -> str:
    """Write `value` as JSON. what: how to call it in a complaint.

    Raises UsageError naming the place of what is no JSON (a key that is no string, NaN, half a character, a set, a
    value that holds itself) and for what is beyond the limits above.
    """
    waiting: list[tuple[_Place, Any, int]] = [(None, value, 0)]
    seen = 0
    while waiting:
        place, each, depth = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise _too_much(what, f"holds more than {MOST_VALUES} values")
        if depth > DEEPEST:
            raise _too_much(what, f"is nested deeper than {DEEPEST} levels, or holds itself ({_path_text(place)})")
        if isinstance(each, Mapping):
            for key, item in each.items():
                if not isinstance(key, str):
                    raise _no_json(what, place, f"has a key that is {type(key).__name__}, not text")
                _check_text(key, what, place)
                waiting.append(((place, key), item, depth + 1))
        elif isinstance(each, (list, tuple)):
            if len(each) > MOST_VALUES:
                raise _too_much(what, f"holds more than {MOST_VALUES} values")
            waiting += [((place, number), item, depth + 1) for number, item in enumerate(each)]
        elif isinstance(each, str):
            _check_text(each, what, place)
        elif isinstance(each, float) and not math.isfinite(each):
            raise _no_json(what, place, f"is {each}")
        elif isinstance(each, int) and abs(each) >= _TOO_LONG:
            raise _no_json(what, place, "is an integer of more than 1000 digits")
        elif each is not None and not isinstance(each, (int, float)):
            raise _no_json(what, place, f"is {type(each).__name__}")
    written = json.dumps(_as_dicts(value))
    if len(written) > MOST_BYTES:
        raise _too_much(what, f"takes {len(written)} bytes as JSON, and {MOST_BYTES} is the most")
    return written


def _as_dicts(value: Any) -> Any:
    """Turn mappings of any kind into dicts, which is all that json writes. The limits of depth were checked."""
    if isinstance(value, Mapping):
        return {key: _as_dicts(item) for key, item in value.items()}
    return [_as_dicts(item) for item in value] if isinstance(value, (list, tuple)) else value


def _check_text(text: str, what: str, place: _Place) -> None:
    if len(text) > LONGEST_TEXT:
        raise _too_much(
            what, f"has a text of {len(text)} letters ({_path_text(place)}), and {LONGEST_TEXT} is the most"
        )
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _no_json(what, place, "holds half of a character (a surrogate)")


def check_functions(tools: Sequence[Mapping[str, Any]]) -> str:
    """Check that the fields of OpenAI-style tools have the kinds that templates and grammars read. Each may be None.

    Returns the tools as JSON. Raises UsageError naming the tool and the field.
    """
    written = json_of(list(tools), "list of tools")
    for index, tool in enumerate(tools):
        function = tool.get("function", tool)
        name = function.get("name")
        what = f"tool {name[:80]!r}" if isinstance(name, str) else f"tool {index}"
        for key, kind, wanted in (
            ("name", str, "text"),
            ("description", str, "text"),
            ("strict", bool, "true or false"),
            ("parameters", Mapping, "a JSON schema"),
        ):
            if function.get(key) is not None and not isinstance(function[key], kind):
                raise UsageError(
                    f"The {key} of the {what} is {type(function[key]).__name__}, not {wanted}.",
                    hint="A tool is written as OpenAI's API wants it: name, description, parameters.",
                )
        if isinstance(function.get("parameters"), Mapping):
            check_shapes(_as_dicts(function["parameters"]), f"schema of the {what}", shown=True)
    return written


def check_shapes(schema: Mapping[str, Any], what: str, *, shown: bool = False) -> None:
    """Whether every keyword has the kind of value that the standard gives it.

    Raises UsageError naming the place. `schema` went through `json_of`. shown: a template is to show it, and perhaps
    nothing more: a null stands for a keyword left out, as servers in Go write their empty lists.
    """
    for place, node in _schemas(schema):
        if shown and isinstance(node, Mapping):
            node = {key: value for key, value in node.items() if value is not None}
        elif shown and node is None:
            continue

        def wrong(key: str, wanted: str, place: _Place = place, node: Any = node) -> UsageError:
            return UsageError(
                f"The {what} is no JSON schema: {_path_text((place, key))} is {_kind(node[key])}, not {wanted}.",
                hint=_STANDARD,
            )

        if not isinstance(node, Mapping):
            raise UsageError(
                f"The {what} is no JSON schema: {_path_text(place) or 'it'} is {_kind(node)}, not a schema.",
                hint=_STANDARD,
            )
        for key in ("enum", *(each for each in LISTS if each not in ONE)):
            if key in node and not isinstance(node[key], list):
                raise wrong(key, "a list")
        for key in (*NAMED, "dependentRequired"):
            if key in node and not isinstance(node[key], dict):
                raise wrong(key, "an object")
        required = node.get("required", [])
        if not isinstance(required, bool) and not _texts(required):  # draft 3 has true and false
            raise wrong("required", "a list of names")
        if "type" in node and not isinstance(node["type"], str) and not _texts(node["type"]):
            raise wrong("type", "a name or a list of names")
        for key in ("$ref", "pattern", "format", "$dynamicRef"):
            if key in node and not isinstance(node[key], str):
                raise wrong(key, "text")
        for key in (*COUNTS, "multipleOf", "minimum", "maximum"):
            if key in node and not is_number(node[key]):
                raise wrong(key, "a number")


def check_costs(schema: Mapping[str, Any], what: str) -> None:
    """Whether no number and no pattern asks for more than can be enforced. Raises UsageError.

    `schema` went through `check_shapes`.
    """
    for _, node in _schemas(schema):
        if "multipleOf" in node and _rests(node["multipleOf"]) > MOST_RESTS:
            raise UsageError(
                f"The {what} cannot be enforced: multipleOf {str(node['multipleOf'])[:40]} needs a state for each of "
                f"{_rests(node['multipleOf'])} rests of a division, and {MOST_RESTS} is the most.",
                hint="Leave it out and check the value afterwards, for instance in a Pydantic validator.",
            )
        for key in COUNTS:
            if node.get(key, 0) > LARGEST_COUNT:
                raise _too_much(what, f"has {key} {node[key]}, and {LARGEST_COUNT} is the most")
        for pattern in _patterns(node):
            if count_signs(pattern) > MOST_REPEATED:
                raise _too_much(
                    what,
                    f"has a pattern that asks for more than {MOST_REPEATED} signs, {_shortened(pattern)}",
                    "Smaller counts, or minLength and maxLength instead of them: those cost nothing.",
                )


def _schemas(schema: Any) -> Iterator[tuple[_Place, Any]]:
    """Give every schema in `schema` with its place, also what should be one and is none; but not true and false."""
    waiting: list[tuple[_Place, Any]] = [(None, schema)]
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, bool):
            continue
        yield place, node
        if not isinstance(node, Mapping):
            continue
        for key, value in node.items():
            if key in LISTS and isinstance(value, list):
                waiting += [(((place, key), number), each) for number, each in enumerate(value)]
            elif key in NAMED and isinstance(value, Mapping):
                waiting += [
                    (((place, key), name), each)
                    for name, each in value.items()
                    if not (key == "dependencies" and isinstance(each, list))  # names, as `dependentRequired` has them
                ]
            elif key in ONE:
                waiting.append(((place, key), value))


def count_signs(pattern: str, at_most: bool = False) -> int:
    """Count the signs of `pattern` with its counts written out, nested ones multiplied.

    That is as few as it allows, or (at_most) as many. What a count without an end leaves open is not counted.
    """
    totals, last, at, in_class = [0], [0], 0, False  # of the groups that are open; of the last part in each
    while at < len(pattern):
        sign = pattern[at]
        count = None if in_class else _REPEAT.match(pattern, at)
        if count is not None:
            last[-1] *= max(int(count[1]), int(count[3] or 0) if at_most else 0, 1)
            at = count.end()
            continue
        at += 1
        if in_class:
            at += sign == "\\"
            in_class = sign != "]"
        elif sign == "(":
            totals.append(0)
            last.append(0)
        elif sign == ")" and len(totals) > 1:
            inner = totals.pop() + last.pop()
            totals[-1] += last[-1]
            last[-1] = inner
        elif sign not in "*+?|":
            at += sign == "\\"
            in_class = sign == "["
            totals[-1] += last[-1]
            last[-1] = 1
    return sum(totals) + sum(last)


def is_cheap(rules: str) -> bool:
    """Whether no part of `rules`, a schema as JSON, can cost much to compile: few values, small counts, short patterns.

    Everything else is tried in a process of its own first.
    """
    if len(rules) > _CHEAP_BYTES:
        return False
    parts = patterns = values = multiples = elsewhere = exclusive = 0
    waiting: list[Any] = [json.loads(rules)]
    while waiting:
        node = waiting.pop()
        values += 1
        if isinstance(node, list):
            waiting += node
            continue
        if not isinstance(node, dict):
            continue
        waiting += node.values()
        for key in ("allOf", "oneOf", "anyOf"):
            branches = node.get(key)
            if isinstance(branches, list):
                parts += len(branches) if key == "allOf" else 0
                exclusive += len(branches) if key == "oneOf" else 0
        for pattern in _patterns(node):
            patterns += 1
            if len(pattern) > _CHEAP_PATTERN or count_signs(pattern, at_most=True) > _CHEAP_REPEATED:
                return False
        if len(node) > _CHEAP_PROPERTIES or (isinstance(node.get("enum"), list) and len(node["enum"]) > 2000):
            return False
        ref = node.get("$ref")
        if isinstance(ref, str) and not ref.startswith(("#/$defs/", "#/definitions/")):
            elsewhere += 1
        multiple = node.get("multipleOf")
        if multiple is not None:
            multiples += 1
            whole = isinstance(multiple, int) or (isinstance(multiple, float) and multiple.is_integer())
            least = _digits(multiple) if is_number(multiple) else 0
            if least > 10 and (int(multiple) if whole else least) > _CHEAP_MULTIPLE:  # 1000, 0.25, 5000000: cheap
                return False
    if exclusive > _CHEAP_BRANCHES or (exclusive and values > _CHEAP_VALUES // 4) or elsewhere > _CHEAP_PARTS:
        return False
    together = patterns > 2 * _CHEAP_PARTS or multiples > 1
    return values <= _CHEAP_VALUES and parts <= _CHEAP_PARTS and not (parts > 1 and together)


def _digits(value: float) -> int:
    """Return the digits of a number as an integer, without zeros at either end."""
    return int("".join(map(str, Decimal(repr(value)).normalize().as_tuple().digits)))


def _rests(value: float) -> int:
    """Return the part of a divisor that is prime to 10: at least so many states recognise its multiples."""
    left = _digits(value) or 1
    for prime in (2, 5):
        while left % prime == 0:
            left //= prime
    return left


def _patterns(node: Mapping[str, Any]) -> Sequence[str]:
    """Return the patterns of one schema that are not ours."""
    named = node.get("patternProperties")
    found = [node.get("pattern"), *(named if isinstance(named, Mapping) else ())]
    return [each for each in found if isinstance(each, str) and each not in _OURS]


_OURS = frozenset(FORMATS.values())
_STANDARD = "Write it as the standard says (json-schema.org), or let Pydantic write it."


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _path_text(place: _Place) -> str:
    """Write a place as a path, empty for the whole value."""
    keys: list[str] = []
    while place is not None:
        place, key = place
        keys.append(_shortened(str(key)))
    return _shortened("".join(f"/{key}" for key in reversed(keys)))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:30]}...{text[-25:]}"


def _no_json(what: str, place: _Place, why: str) -> UsageError:
    where = f"{_path_text(place)} " if place else "it "
    return UsageError(
        f"The {what} cannot be written as JSON: {where}{why}.",
        hint="Lists instead of sets, text instead of objects, text as keys, and finite numbers.",
    )


def _too_much(what: str, why: str, hint: str = "") -> UsageError:
    return UsageError(f"The {what} {why}.", hint=hint or "A smaller schema; check the rest afterwards.")
