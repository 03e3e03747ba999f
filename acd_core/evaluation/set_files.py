"""Finds the files of sets in a folder or on the hub, and reads them as rows: CSV, JSON, JSON lines, parquet or text.

From the Hugging Face hub come data files only, when a name asks for one; no loading script is ever run. No text of a
row is ever shown.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import json
import lzma
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from acd_core.errors import UsageError, missing_extra

_NAME_A_FOLDER = "export ACD_DATA=/path/to/folder (or --data /path/to/folder)"
_ENDINGS = (".csv", ".jsonl", ".json", ".parquet", ".jsonl.xz", ".jsonl.gz", ".json.gz", ".csv.gz", ".txt")
_UNPACK = {".gz": gzip.decompress, ".xz": lzma.decompress}


def data_directory(data: str | Path | None = None) -> Path:
    """The folder of the public sets: `data`, else the one that ACD_DATA names. It may not exist.

    Raises UsageError where neither is given.
    """
    given = data or os.environ.get("ACD_DATA")
    if not given:
        raise UsageError("No folder of public sets was named.", hint=_NAME_A_FOLDER)
    return Path(given)


def find_file(names: Sequence[str], data: str | Path | None, hint: str = "") -> Path:
    """The first of `names` that lies in the data directory. Raises UsageError naming file, folder and what to do."""
    if not (data or os.environ.get("ACD_DATA")):
        raise UsageError(
            f"The file {names[0]} is wanted, and no folder of public sets was named.", hint=f"{_NAME_A_FOLDER}{hint}"
        )
    folder = data_directory(data)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"The file {names[0]} was not found in {str(folder)!r}.",
        hint=f"Put {names[0]} there, or name its folder: {_NAME_A_FOLDER}{hint}",
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


# --- the hub ---


def fetch_set(dataset_id: str, file: str | None = None, revision: str | None = None) -> Path:
    """The local path of one data file of a hub data set (downloaded, or from the hub's own cache).

    file: a path in the repository, or a part of one ("harmful" finds data/harmful-behaviors.csv); None takes the only
    data file, or the test split's. Raises UsageError: no network, no such set, a gated set, several files.
    """
    try:
        # An exact name is also found offline, in the cache.
        name = file if file and file.endswith(_ENDINGS) else pick(dataset_id, _listing(dataset_id, revision), file)
        return Path(huggingface_hub.hf_hub_download(dataset_id, name, repo_type="dataset", revision=revision))
    except GatedRepoError as error:
        raise UsageError(
            f"The data set {dataset_id!r} is gated.",
            hint=f"Accept its terms on https://huggingface.co/datasets/{dataset_id}, then: hf auth login",
        ) from error
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise _unreachable(dataset_id, error) from error
        raise UsageError(f"{dataset_id!r} has no file {file!r}.", hint="Leave the file out to see them.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UsageError(
            f"There is no data set {dataset_id!r} on the hub (or it is private).", hint="Write owner/name."
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise _unreachable(dataset_id, error) from error


def _unreachable(dataset_id: str, error: Exception) -> UsageError:
    return UsageError(
        f"The hub could not be reached for the data set {dataset_id!r} ({type(error).__name__}).",
        hint="Check the network and HF_HUB_OFFLINE, or download the file yourself and give its path: harmful:FILE",
    )


def _listing(dataset_id: str, revision: str | None) -> list[str]:
    return list(huggingface_hub.HfApi().list_repo_files(dataset_id, repo_type="dataset", revision=revision))


def pick(dataset_id: str, files: Sequence[str], part: str | None = None) -> str:
    """The data file to read: the one whose path holds `part`; else the only one; else the test split's only one.

    Raises UsageError listing the candidates.
    """
    found = [name for name in files if name.endswith(_ENDINGS) and not PurePosixPath(name).name.startswith(".")]
    chosen = [name for name in found if part is None or part in name]
    if part is None and len(chosen) > 1:
        chosen = [name for name in chosen if "test" in PurePosixPath(name).name] or chosen
    if len(chosen) == 1:
        return chosen[0]
    shown = ", ".join((chosen or found)[:8]) or "none"
    raise UsageError(
        f"{dataset_id!r} has {'no data file' if not chosen else 'several data files'}"
        + (f" whose path holds {part!r}." if part else "."),
        hint=f"Name one of: {shown}",
    )
