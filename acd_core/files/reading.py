"""Files from outside as data: bytes of regular files, JSON objects, tensors; what is wrong becomes one of our errors.

Nothing here trusts what it reads. A pipe or a device is not opened, a document must be UTF-8 without doubled names, of
sane depth and with numbers that fit a float, and a safetensors header must agree with the size of its file before any
tensor is made. JSON may hold NaN (losses do); who needs a finite number checks that.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from acd_core.errors import ACDError

if TYPE_CHECKING:
    from torch import Tensor

MOST_DEPTH = 64
_MOST_DIGITS = 308  # a longer number fits no float
_MOST_JSON = 256 * 2**20
_MOST_HEADER = 100 * 2**20  # as safetensors has it
_REASON_LETTERS = 160  # letters of a foreign error
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class Tensors(NamedTuple):
    """What a safetensors file holds. metadata: the texts in its header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def reason_of(error: BaseException) -> str:
    """Return a foreign error on one line."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:_REASON_LETTERS] or type(error).__name__


def check_regular(path: Path) -> os.stat_result:
    """Raise OSError unless `path` is a regular file: reading a pipe waits forever, reading a device never ends."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise OSError(f"it is {kind}")
    return found


def read_bytes(path: Path) -> bytes:
    """Return all bytes of a regular file.

    Raises OSError (FileNotFoundError for none), also where memory does not hold it.
    """
    check_regular(path)
    try:
        return path.read_bytes()
    except (MemoryError, OverflowError):
        raise OSError(f"it does not fit into memory ({path.stat().st_size} bytes)") from None


def parse_json(data: bytes | str) -> Any:
    """Return the JSON document in `data`.

    Raises ValueError, and nothing else, for what is none or cannot be trusted.
    """
    if len(data) > _MOST_JSON:
        raise ValueError(f"it is {len(data)} bytes long")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        document = json.loads(text, object_pairs_hook=_refuse_doubles, parse_int=_parse_bounded_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from None
    _check_depth_and_texts(document)
    return document


def read_object(path: Path, error: type[ACDError], hint: str | None = None) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises `error`; FileNotFoundError only for a file that is not there.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as wrong:  # a ValueError for a name with a zero byte
        raise error(f"{str(path)!r} cannot be read: {reason_of(wrong)}.", hint=hint) from wrong
    return as_object(data, repr(str(path)), error, hint)


def as_object(data: bytes, where: str, error: type[ACDError], hint: str | None = None) -> dict[str, Any]:
    """Return the JSON object in `data`. where: what an `error` calls it."""
    try:
        document = parse_json(data)
    except ValueError as wrong:
        raise error(f"{where} cannot be read: {reason_of(wrong)}.", hint=hint) from None
    if not isinstance(document, dict):
        raise error(f"{where} is a JSON {type(document).__name__}, not an object.", hint=hint)
    return document


def as_tensors(data: bytes, where: str, error: type[ACDError], hint: str | None = None) -> Tensors:
    """Return what the safetensors file `data` holds. where: what an `error` calls it."""
    try:
        return parse_tensors(data)
    except ValueError as wrong:
        raise error(f"{where} is damaged: {reason_of(wrong)}.", hint=hint) from wrong


def parse_tensors(data: bytes) -> Tensors:
    """As `as_tensors`. Raises ValueError, and nothing else."""
    header = _header(data)
    from safetensors.torch import load

    try:
        tensors = load(data)
    except Exception as wrong:  # of safetensors, and of torch for dtypes and shapes that it does not know
        raise ValueError(reason_of(wrong)) from wrong
    return Tensors(tensors, header)


def _header(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file whose header agrees with its size."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _MOST_HEADER):
        raise ValueError(f"it ends within its header ({len(data)} bytes in all)")
    header = parse_json(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError(f"its header is a JSON {type(header).__name__}, not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not texts by name")
    ends = []
    for name, entry in header.items():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int and at >= 0 for at in offsets):
            raise ValueError(f"its header does not say where {name[:60]!r} lies")
        ends.append(offsets[1])
    told, there = max(ends, default=0), len(data) - 8 - size
    if told != there:
        raise ValueError(f"its header tells of {told} bytes of tensors, and there are {there}")
    return metadata


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name[:60]!r} stands in it twice")
        found[name] = value
    return found


def _parse_bounded_integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def _check_depth_and_texts(document: Any) -> None:
    """Raise ValueError for a document that is too deep, or a text that is half a character: no file could hold it."""
    level = [document]
    for _ in range(MOST_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.keys()
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, str) and not is_text(each):
                raise ValueError(f"the text {each[:20]!r} in it holds half a character (a lone surrogate)")
        if not inner:
            return
        level = inner
    raise ValueError("it is nested too deeply")


def is_text(text: str) -> bool:
    """Return whether `text` can be written as UTF-8: a lone surrogate cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def visible(text: str) -> str:
    """Return `text` with what a terminal would obey or a reader would not see written out: control characters (C0 but
    for newline and tab, DEL, C1), the marks that turn the direction of what follows, line separators, lone surrogates.
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
