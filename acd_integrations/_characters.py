"""Text that every tokenizer, file and wire can take: a str of Python may hold halves of characters, UTF-8 may not.

They come from PDFs, from JSON cut in two, and from a model's own call arguments ("\\ud83d" is valid JSON). One that
goes through to a tokenizer fails there, and again at every later turn of the same conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def whole(text: str) -> str:
    """`text` with two halves that belong together joined, and U+FFFD for each one that stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def whole_texts(value: T) -> T:
    """`value` with `whole` in every string of it, keys of dicts included. Lists and tuples keep their kind; anything
    but dicts, lists, tuples and strings is left as it is."""
    out: Any = value
    if isinstance(value, str):
        out = whole(value)
    elif isinstance(value, Mapping):
        out = {whole_texts(key): whole_texts(item) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        out = type(value)(whole_texts(item) for item in value) if type(value) in (list, tuple) else value
    return out
