"""The folder of something that was learnt for a model: one JSON file that stands for the whole, and one of tensors.

Steering and the refusal bias lie in such folders; what a LoRA adapter's JSON says is checked here too. Only safetensors
and JSON are read. A version is replaced as a whole (`files.saving`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save as as_safetensors
from torch import Tensor

from acd_core.artifacts.pair import library_version
from acd_core.errors import ExpertError
from acd_core.files.reading import as_object, as_tensors, reason_of
from acd_core.files.saving import MixedError, check_folder, digest_of, digests, failing_as, read_folder, save_folder
from acd_core.model.fingerprint import fields, read_fields
from acd_core.model.on_disk import not_found

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Saved:
    """What a folder holds. own: its document, checked. digest: of the files it was read from."""

    own: dict[str, Any]
    tensors: Mapping[str, Tensor]
    fingerprint: str | None
    digest: str


@dataclass(frozen=True)
class LearntFolder:
    """How one kind of thing lies in its folder.

    main, weights: its two files. one: what it is called, with its article, for messages ("a bias"). make: how to make
    one, for hints. check: raises ExpertError for a document whose own fields are not what they must be.
    """

    main: str
    weights: str
    one: str
    make: str
    check: Callable[[Mapping[str, Any]], None]

    @property
    def _the(self) -> str:
        return f"The {self.one.removeprefix('a ')}"

    def save(
        self,
        directory: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        document: Mapping[str, Any],
        fingerprint: str | None,
        metrics: Mapping[str, Any],
    ) -> Path:
        """Write it to `directory`, replacing one that is there as a whole; other files there stay.

        A process killed at any moment leaves the old one or the new one. Raises ExpertError where something else stands
        in the way, somebody else is saving there, or the disk does not take it.
        """
        target = Path(directory)
        files = {self.weights: as_safetensors(dict(tensors), metadata={"format": "pt"})}
        whole = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            **document,
            **fields(fingerprint),
            "metrics": dict(metrics),
            "files": digests(files),
        }
        files[self.main] = (json.dumps(whole, indent=2, default=str) + "\n").encode()
        self._document(files[self.main])  # what could not be read again is not written
        with failing_as(ExpertError, f"{self._the} cannot be saved to {str(target)!r}", f"{self.one} of ours"):
            save_folder(target, self.main, files, self._names)
        return target

    def load(self, source: str | os.PathLike[str]) -> Saved:
        """Read what was saved to a local folder. Raises ExpertError for a missing or damaged one."""
        folder = Path(source)
        if not os.path.isdir(folder):
            raise not_found("expert", os.fspath(source))
        files = self._read(folder)
        own = self._document(files[self.main])
        tensors = as_tensors(files[self.weights], repr(str(folder / self.weights)), ExpertError, self.make).tensors
        return Saved(own, tensors, read_fields(own, self.main, ExpertError, self.make), digest_of(files))

    def digest(self, source: str | os.PathLike[str]) -> str | None:
        """What stands for what is saved in the folder `source` now: the digest of one loaded from these files. None for
        what is not whole."""
        try:
            return digest_of(self._read(Path(source)))
        except ExpertError:
            return None

    def check_target(self, target: Path) -> None:
        """Raise ExpertError unless one could be saved to the folder `target` now: before anything takes long."""
        said = f"{self.one[0].upper()}{self.one[1:]} cannot be saved to {str(target)!r}"
        with failing_as(ExpertError, said, f"{self.one} of ours"):
            check_folder(target, self.main, self._names, (self.main, self.weights))

    def _document(self, data: bytes) -> dict[str, Any]:
        """The JSON file. Raises ExpertError for anything that is none."""
        own = as_object(data, self.main, ExpertError, self.make)
        check_document(own, own.get("format_version"), self.main, self.make, FORMAT_VERSION)
        self.check(own)
        return own

    def _names(self, data: bytes) -> set[str]:
        """The files that were saved with the JSON file (`data`). Raises ExpertError for one that is not ours."""
        try:
            self._document(data)
        except ExpertError as error:
            raise ExpertError(
                f"The {self.main} in the folder is not ours, and will not be overwritten: {error.message}",
                hint="Choose another folder, or remove that file first.",
            ) from None
        return {self.main, self.weights}

    def _parts(self, data: bytes) -> dict[str, str | None]:
        known: Any = (self._document(data).get("files") or {}).get(self.weights)
        return {self.weights: known if isinstance(known, str) else None}

    def _read(self, folder: Path) -> dict[str, bytes]:
        try:
            return read_folder(folder, self.main, self._parts)
        except MixedError as error:
            raise ExpertError(
                f"{error.wrong} in {str(folder)!r} is not the one that its {self.main} was saved with.", hint=self.make
            ) from None
        except FileNotFoundError as error:
            raise ExpertError(f"{str(folder)!r} lacks {Path(str(error.filename)).name}.", hint=self.make) from None
        except (OSError, ValueError) as error:
            said = f"{self._the} {str(folder)!r} cannot be read: {reason_of(error)}."
            raise ExpertError(said, hint=self.make) from error


def check_document(own: Mapping[str, Any], version: Any, main: str, make: str, newest: int) -> None:
    """Raise ExpertError for a version that is not read here, and for fields of every kind that are of no such type.
    main: the file's name. newest: the last version that is read."""
    if type(version) is not int or not 1 <= version <= newest:
        raise ExpertError(
            f"{main} has format version {version!r}; this library reads up to {newest}.",
            hint="pip install --upgrade acd-integrations",
        )
    for name, kind in (("base_model", str), ("fingerprint", str), ("metrics", dict), ("files", dict)):
        if not isinstance(own.get(name), (kind, type(None))):
            raise ExpertError(f"{main} has the {name} {str(own[name])[:60]!r}, no {kind.__name__}.", hint=make)


def check_numbers(own: Mapping[str, Any], names: tuple[str, ...], main: str, make: str) -> None:
    """Raise ExpertError unless all of `names` are numbers in the document `own`."""
    for name in names:
        if type(own.get(name)) not in (int, float):
            raise ExpertError(f"{main} has the {name} {str(own.get(name))[:60]!r}, no number.", hint=make)
