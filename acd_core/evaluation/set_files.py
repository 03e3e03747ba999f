"""Prompt files as rows: where they lie, CSV, JSON, JSON lines, plain text, packed or not. No text is ever shown."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import lzma
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acd_core.errors import UsageError, missing_extra
from acd_core.evaluation.items import Item

PROMPT_FIELDS = (
    "prompt", "question", "instruction", "goal", "Goal", "Behavior", "forbidden_prompt", "Question", "query", "text",
)  # fmt: skip
"""What published files call the prompt, in the order tried."""
CATEGORY_FIELDS = ("category", "Category", "SemanticCategory", "type", "topic")
_UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


def data_directory(data: str | Path | None = None) -> Path:
    """Where the public sets lie: `data`, else ACD_DATA, else shared/data/eval beside the checkout (may not exist)."""
    given = data or os.environ.get("ACD_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


def find_file(names: Sequence[str], data: str | Path | None, hint: str = "") -> Path:
    """The first of `names` that lies in the data directory. Raises UsageError naming file, folder and what to do."""
    folder = data_directory(data)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"The file {names[0]} was not found in {str(folder)!r}.",
        hint=f"Put {names[0]} there, or name its folder: export ACD_DATA=/path/to/folder (or --data /path/to/folder)"
        + hint,
    )


def read_rows(path: Path) -> list[Any]:
    """The rows of a file by its ending: .csv (dicts), .json, .jsonl, .parquet, also with .gz or .xz; else lines.

    A JSON object of another shape is returned as the only row. Raises UsageError naming file and line.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path)
    raw = path.read_bytes()
    if kind in _UNPACK:
        try:
            raw = _UNPACK[kind](raw)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise UsageError(f"{path.name} cannot be unpacked.", hint="Fetch it again.") from error
        kind = Path(path.stem).suffix.lower()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 text.", hint=f"Save {path.name} as UTF-8.") from error
    if kind == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))
    if kind in (".json", ".jsonl"):
        return _json(path.name, text)
    return [line for line in text.splitlines() if line.strip()]


def _json(name: str, text: str) -> list[Any]:
    """A JSON document, or JSON lines."""
    try:
        found = json.loads(text)
        return found if isinstance(found, list) else [found]
    except json.JSONDecodeError:
        pass
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UsageError(
                    f"{name}, line {number}: not JSON ({error.msg}).", hint="One JSON object a line is expected."
                ) from None
    return rows


def _parquet(path: Path) -> list[Any]:
    try:
        pyarrow = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise missing_extra("pyarrow", "eval") from error
    rows: list[Any] = pyarrow.read_table(path).to_pylist()
    return rows


def need_columns(name: str, rows: Sequence[Any], *columns: str) -> None:
    """Raises UsageError when `rows` is empty or its first row lacks a column."""
    first = rows[0] if rows and isinstance(rows[0], Mapping) else {}
    missing = [column for column in columns if column not in first]
    if not rows or missing:
        raise UsageError(
            f"{name} has no {'rows' if not rows else 'column ' + ', '.join(missing)}.",
            hint=f"Expected the columns {', '.join(columns)}." if columns else "Expected one prompt a row.",
        )


def read_items(
    name: str, rows: Sequence[Any], prompt: str | None = None, category: str | None = None, target: str | None = None
) -> list[Item]:
    """Rows as items: texts, or objects with a prompt in the column `prompt` (None: the first of PROMPT_FIELDS).

    An object may also hold id, category, prefill (what the reply begins with) and messages (a conversation instead of a
    prompt; its last user turn is what judges read). Raises UsageError naming the entry.
    """
    named = [column for column in (prompt, category, target) if column is not None]
    if named:
        need_columns(name, rows, *named)
    found = []
    for number, row in enumerate(rows, start=1):
        item = Item("", row) if isinstance(row, str) else _item(row, prompt, category, target)
        if item is None:
            raise UsageError(
                f"{name}, entry {number}: no prompt found.",
                hint="Entries are texts, or objects with a field 'prompt' (or name the column).",
            )
        found.append(item)
    return found


def _item(row: Any, prompt: str | None, category: str | None, target: str | None) -> Item | None:
    if not isinstance(row, Mapping):
        return None
    messages = _messages(row.get("messages"))
    text = _first(row, (prompt,) if prompt else PROMPT_FIELDS)
    if text is None:
        text = next((str(turn["content"]) for turn in reversed(messages) if turn["role"] == "user"), None)
    if text is None:
        return None
    return Item(
        id=str(row.get("id") or "") if prompt is None else "",
        prompt=text,
        category=_first(row, (category,) if category else CATEGORY_FIELDS) or "",
        messages=messages,
        prefill=str(row.get("prefill") or ""),
        target=_first(row, (target,)) or "" if target else "",
    )


def _first(row: Mapping[str, Any], fields: Sequence[str]) -> str | None:
    return next((row[field] for field in fields if isinstance(row.get(field), str)), None)


def _messages(value: Any) -> tuple[Mapping[str, Any], ...]:
    turns = value if isinstance(value, list) else []
    if not all(isinstance(turn, Mapping) and "role" in turn and isinstance(turn.get("content"), str) for turn in turns):
        return ()
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)
