"""Reads the files of a pair: which there are, what `pair.json` says of them, and older formats brought up to date.

No torch: for code that must be cheap. `acd_core.artifacts.pair` makes a pair of them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from acd_core.errors import PairError
from acd_core.files.reading import as_object, reason_of
from acd_core.files.saving import MixedError, digest_of, newest_place, read_folder
from acd_core.model.on_disk import bounded, pair_folder, read_if_any

FORMAT_VERSION = 4
SIDES = ("safe", "adversarial")
MAIN = "pair.json"
CARD, HISTORY = "README.md", "history.json"
GATE_FILE = "gate/reading.safetensors"
SIDE_FILES = ("adapter_config.json", "adapter_model.safetensors")
FILES = (MAIN, CARD, HISTORY, *(f"{side}/{file}" for side in SIDES for file in SIDE_FILES), GATE_FILE)
"""All that belongs to a pair; nothing else in a folder is written, removed, uploaded or fetched."""
RETUNE = "Get the folder again from where it came, or make a new one: acd tune --model M --out my-pair"


class _Document(BaseModel):
    """The kinds of those fields of `pair.json` that readers take for granted. The pair and its gate check values."""

    model_config = ConfigDict(strict=True)

    base_model: str | None = None
    base_revision: str | None = None
    fingerprint: str | None = None
    license: str | None = None
    metrics: dict[str, Any] | None = None
    gate: dict[str, Any] | None = None
    files: dict[str, str] | None = None
    kind: Literal["soft", "text"] = "soft"


def read_files(folder: Path) -> dict[str, bytes]:
    """`pair.json` and the parts it names, all of one version. Raises PairError; MixedError where parts are others."""
    try:
        return read_folder(folder, MAIN, functools.partial(parts, folder=folder))
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        if name == MAIN or not str(error.filename).startswith(str(folder)):
            raise PairError(f"{str(folder)!r} holds no {MAIN}, so it is not a prompt pair.", hint=RETUNE) from None
        missing = Path(str(error.filename)).relative_to(folder).as_posix()
        raise PairError(f"The pair {str(folder)!r} lacks {missing}.", hint=RETUNE) from None
    except MixedError:
        raise
    except (OSError, ValueError) as error:
        raise PairError(f"The pair {str(folder)!r} cannot be read: {reason_of(error)}.", hint=RETUNE) from error


def digest(folder: Path) -> str | None:
    """What stands for the pair saved in `folder` now: `PromptPair.digest` of one loaded from these files. None for what
    is no whole pair."""
    try:
        return digest_of(read_files(folder))
    except (PairError, MixedError):
        return None


def parts(data: bytes, folder: Path | None = None) -> dict[str, str | None]:
    """The files whose content `pair.json` (`data`) stands for, with the digests it gives. Raises PairError."""
    document = document_of(data, folder)
    known = document.get("files") or {}
    wanted = [] if document.get("kind") == "text" else [f"{side}/{SIDE_FILES[1]}" for side in SIDES]
    if document.get("gate") is not None:
        wanted.append(GATE_FILE)
    return {name: known.get(name) for name in wanted}


def names(data: bytes) -> set[str]:
    """The files that were saved with `pair.json` (`data`). Raises PairError for one that is not a pair's."""
    try:
        document = as_object(data, MAIN, PairError)
    except PairError as error:
        raise _foreign(error.message) from None
    version = document.get("format_version")
    if type(version) is not int or document.get("kind") not in ("soft", "text"):
        raise _foreign("it gives no format_version and kind")
    listed = document.get("files")
    if isinstance(listed, Mapping):
        return {MAIN, *(set(listed) & set(FILES))}  # a name from a file is never taken for a path
    own = {MAIN, CARD, HISTORY}
    if document["kind"] == "soft":
        own |= {f"{side}/{file}" for side in SIDES for file in SIDE_FILES}
    return own | {GATE_FILE} if document.get("gate") is not None else own


def _foreign(why: str) -> PairError:
    return PairError(
        f"The {MAIN} in the folder is not a prompt pair's, and will not be overwritten: {why.rstrip('.')}.",
        hint="Choose another folder, or remove that file first.",
    )


def document_of(data: bytes, folder: Path | None = None) -> dict[str, Any]:
    """`pair.json` as our format. folder: where it stands, for errors. Raises PairError for anything that is none."""
    where = MAIN if folder is None else f"{MAIN} of the pair {str(folder)!r}"
    document = as_object(data, where, PairError, RETUNE)
    version = document.get("format_version")
    if type(version) is not int:
        raise PairError(f"{where} has no format_version (a whole number).", hint=RETUNE)
    if version > FORMAT_VERSION:
        raise PairError(
            f"{where} has format version {version}; this library reads up to {FORMAT_VERSION}.",
            hint="pip install --upgrade acd-integrations",
        )
    return migrated(document, where)


def migrated(document: Mapping[str, Any], where: str = MAIN) -> dict[str, Any]:
    """`document` of any format version up to ours as one of ours.

    where: how errors call it. Raises PairError for a version that never was, and for a field of another kind.
    """
    current = dict(document)
    _check_kinds(current, where)
    while current["format_version"] < FORMAT_VERSION:
        step = _MIGRATIONS.get(current["format_version"])
        if step is None:
            raise PairError(f"There is no pair format version {current['format_version']}.", hint=RETUNE)
        current = {**step(current), "format_version": current["format_version"] + 1}
    _check_kinds(current, where)
    return current


def _check_kinds(document: Mapping[str, Any], where: str) -> None:
    try:
        _Document.model_validate(document)
    except ValidationError as error:
        raise PairError(f"{where} {_in_words(error)}.", hint=RETUNE) from None


def _in_words(error: ValidationError) -> str:
    """The first thing that is wrong, in words that go on after the document's name."""
    first = error.errors(include_url=False)[0]
    name, *inner = first["loc"]
    found = first["input"]
    if name == "kind":
        return f"has the kind {found!r}; there are 'soft' and 'text'"
    if inner and name == "files":
        return f"gives no digest of {str(inner[0])[:60]!r} but {str(found)[:60]!r}"
    wanted = "an object" if first["type"] == "dict_type" else "a text"
    return f"has the {name} {str(found)[:60]!r}; it must be {wanted}"


def _with_revision_and_license(document: dict[str, Any]) -> dict[str, Any]:
    """1 -> 2: the base model's revision leaves the metrics, the licence is new."""
    measured = dict(document.get("metrics") or {})
    return {**document, "base_revision": measured.pop("revision", None), "license": None, "metrics": measured}


def _with_head_and_window(document: dict[str, Any]) -> dict[str, Any]:
    """2 -> 3: plausibility and contrast_tokens are recommended too; older pairs recommend neither."""
    return {**document, "plausibility": 0.0, "contrast_tokens": None}


def _with_gate(document: dict[str, Any]) -> dict[str, Any]:
    """3 -> 4: a pair may hold a gate; older pairs have none."""
    return {**document, "gate": None}


_MIGRATIONS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _with_revision_and_license,
    2: _with_head_and_window,
    3: _with_gate,
}


def pair_digest(name: str | os.PathLike[str], revision: str | None = None) -> str | None:
    """What stands for the files of the pair `name` as they are now: `PromptPair.digest` of one loaded from them. None
    for a pair that is not here or not whole."""
    folder = pair_folder(name, revision)
    return digest(folder) if folder is not None else None


def pair_length(folder: Path) -> int:
    """Vectors of the longer prompt of the pair in `folder`; 0 for a textual or unreadable pair."""
    places = (newest_place(folder, MAIN, f"{side}/adapter_config.json") for side in SIDES)
    sides = map(read_if_any, places)
    return max(bounded(side.get("num_virtual_tokens")) or 0 for side in sides)
