"""Text that every tokenizer, file and wire can take: a str of Python may hold halves of characters, UTF-8 may not.

They come from PDFs, from JSON cut in two, and from a model's own call arguments ("\\ud83d" is valid JSON). One that
goes through to a tokenizer fails there, and again at every later turn of the same conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_DEEPEST = 200
"""Levels; tools, schemas and call arguments may have fewer (acd_core.grammar.limits)."""


def whole(text: str) -> str:
    """`text` with two halves that belong together joined, and U+FFFD for each one that stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def whole_texts(value: T) -> T:
    """`value` with `whole` in every string of it, keys of dicts included. Lists and tuples keep their kind; anything
    but dicts, lists, tuples and strings is left as it is, and so is what lies deeper than any request may or holds
    itself, which the core refuses by name. A value that stands in many places is read once."""
    out: T = _whole_texts(value, 0, {})
    return out


def _whole_texts(value: Any, depth: int, known: dict[int, tuple[Any, Any]]) -> Any:
    """known: values met so far, by their ids, and what was made of each; held, so that no id is used again."""
    if isinstance(value, str):
        return whole(value)
    if depth > _DEEPEST or not (isinstance(value, Mapping) or type(value) in (list, tuple)):
        return value
    if id(value) in known:
        return known[id(value)][1]
    known[id(value)] = value, value
    if isinstance(value, Mapping):
        out: Any = {
            _whole_texts(key, depth + 1, known): _whole_texts(item, depth + 1, known) for key, item in value.items()
        }
    else:
        out = type(value)(_whole_texts(item, depth + 1, known) for item in value)
    known[id(value)] = value, out
    return out
