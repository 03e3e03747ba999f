"""Keeps what a run has made so far as JSON lines, so that a killed run repeats none of it and anybody can read it.

Replies (`Completion`), log-likelihoods and judgements are kept the same way, one object a line. `key` binds a record to
the model, the pair, the method with its settings, and the prompt; a changed setting is a different key. The files hold
harmful text by nature: they are data for the user's disk, never for a log.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from acd_core.errors import UsageError
from acd_core.files.reading import read_bytes
from acd_core.files.saving import failing_as

_BEGINS = b'{"key": "'  # every record: its first field is the key


@dataclass(frozen=True)
class Completion:
    """One reply. `seconds` is the wall time since the reply before it in the same batch, so that sums are wall time.

    `skipped` says why there is no reply (the prompt does not fit the context); completion is then "". `request` is what
    an attacked prompt really asks for ("": the prompt itself); judges read `asked`.
    """

    key: str
    arm: str
    benchmark: str
    kind: str
    id: str
    category: str
    prompt: str
    completion: str
    finish_reason: str = "stop"
    tokens: int = 0
    seconds: float = 0.0
    alpha: float = 0.0
    skipped: str = ""
    request: str = ""

    @property
    def asked(self) -> str:
        """The request itself, without the attack around it."""
        return self.request or self.prompt


def record_key(facts: Mapping[str, Any]) -> str:
    """A stable 24-digit name for everything that decides a record."""
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


class Keyed(Protocol):
    """A dataclass of JSON values with a key."""

    @property
    def key(self) -> str: ...


R = TypeVar("R", bound=Keyed)


class RecordFile(Generic[R]):
    """An append-only file of records of one dataclass, or memory only when `path` is None. A context manager.

    Opening reads what is there; a last line cut off by a kill is dropped from the file. Raises UsageError when the file
    holds something else, which is left as it is, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None, record: type[R]) -> None:
        self.path = Path(path) if path is not None else None
        self._record = record
        self._found: dict[str, R] = {}
        self._stream: Any = None
        if self.path is not None:
            with failing_as(UsageError, f"What the run makes cannot be kept in {str(self.path)!r}"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._read(self.path)
                self._stream = self.path.open("a", encoding="utf-8", errors="surrogatepass", newline="\n")

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        raw = read_bytes(path)
        whole = raw[: raw.rfind(b"\n") + 1]
        rest = raw[len(whole) :]  # the line that a kill cut off
        names = {field.name for field in fields(self._record)}  # type: ignore[arg-type]
        lines = whole.split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line.decode("utf-8", "surrogatepass"))
                found = self._record(**{name: row[name] for name in names if name in row})
            except (ValueError, TypeError, AttributeError):
                raise self._foreign(path, number) from None
            self._found[found.key] = found
        if rest:
            if not rest.startswith(_BEGINS[: len(rest)]):
                raise self._foreign(path, len(lines) + 1)
            with path.open("r+b") as stream:
                stream.truncate(len(whole))

    def _foreign(self, path: Path, number: int) -> UsageError:
        return UsageError(
            f"{str(path)!r}, line {number}: not a {self._record.__name__.lower()} of an evaluation.",
            hint="Name another output folder, or remove the file.",
        )

    def __enter__(self) -> RecordFile[R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, key: str) -> R | None:
        """The record under `key`, if it is there."""
        return self._found.get(key)

    def add(self, record: R) -> None:
        """Keep one record; it is in the operating system's hands when this returns."""
        self._found[record.key] = record
        if self._stream is not None:
            self._stream.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")  # type: ignore[call-overload]
            self._stream.flush()

    def close(self) -> None:
        """Close the file. Closing twice does nothing."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class CompletionFile(RecordFile[Completion]):
    """The replies of a run."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        super().__init__(path, Completion)

    def __enter__(self) -> CompletionFile:
        return self
