"""Data sets from the Hugging Face hub, fetched only when a name asks for it; the files are read by `set_files`.

Only data files are fetched (CSV, JSON, parquet, text): no loading script is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

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

from acd_core.errors import UsageError

_ENDINGS = (".csv", ".jsonl", ".json", ".parquet", ".jsonl.xz", ".jsonl.gz", ".json.gz", ".csv.gz", ".txt")


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
