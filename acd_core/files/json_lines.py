"""Files of one JSON object a line, written by people and appended to by runs. Messages name lines, never their text."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from acd_core.errors import TuningError
from acd_core.files.reading import parse_json, read_bytes, reason_of


def records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every object in the file with its place in words. Raises TuningError naming the line that is none."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise TuningError(f"There is no anchor file {str(path)!r}.", hint="Check the path (--anchors).") from None
    except (OSError, ValueError) as error:
        raise TuningError(f"{str(path)!r} cannot be read: {reason_of(error)}", hint="JSON lines in UTF-8.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{str(path)!r} line {number}"
        try:
            record = parse_json(line)
        except ValueError as error:
            raise TuningError(
                f"{where} is not JSON ({reason_of(error)}).", hint="Every line is one JSON object."
            ) from None
        if not isinstance(record, Mapping):
            raise TuningError(
                f"{where} is a JSON {type(record).__name__}, not an object.", hint="Every line is one JSON object."
            )
        yield where, record


def text_of(record: Mapping[str, Any], name: str, where: str) -> str:
    """Return the field `name`. Raises TuningError unless it is a text that says something."""
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise TuningError(f"{where} has no {name!r} (a non-empty string).", hint=f"Fields there: {sorted(record)[:12]}")
    return value


def append(path: Path, data: bytes) -> None:
    """Add whole lines to the file at `path`; where that fails, none of them is left. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        before = file.tell()
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
