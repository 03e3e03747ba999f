"""Pairs on the Hugging Face hub: push a folder with its card filled in, pull one after checking it."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from acd_core.artifacts.pair import PromptPair, check_target, history_of
from acd_core.artifacts.pair_files import FILES
from acd_core.errors import PairError, UsageError, one_line
from acd_core.model.on_disk import is_hub_id


def push_pair(
    source: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = True,
    license: str | None = None,
    revision: str | None = None,
    api: Any = None,
) -> str:
    """Upload the pair in the folder `source` to the model repository `repo_id`, made if it is new. Returns its address.

    private: for a repository that is made now. license: an SPDX id for card and `pair.json`; None keeps the pair's.
    revision: a branch other than main. api: a `huggingface_hub.HfApi`; None: with the caller's own login.
    The pair is checked and written anew, so a damaged one is not published; a local folder as base model is named
    without its path. Raises UsageError for a bad repository id, PairError where the pair or the hub fails.
    """
    _check_repository(repo_id)
    pair = PromptPair.load(source)
    public = replace(pair, base_model=_without_path(pair.base_model), license=license or pair.license)
    hub = api or _api()
    with tempfile.TemporaryDirectory(prefix="acd-push-") as folder:
        public.save(folder, history=_history(Path(source)), name=repo_id)
        try:
            hub.create_repo(repo_id, private=private, exist_ok=True, repo_type="model")
            commit = hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                repo_type="model",
                revision=revision,
                commit_message="Prompt pair for adversarial contrastive decoding",
                allow_patterns=list(FILES),
            )
        except Exception as error:
            raise PairError(
                f"The hub did not take the pair as {repo_id!r}: {one_line(error)}",
                hint="Log in with a token that may write: hf auth login",
            ) from error
    return str(getattr(commit, "repo_url", None) or f"https://huggingface.co/{repo_id}")


def pull_pair(repo_id: str, out: str | os.PathLike[str], *, revision: str | None = None, api: Any = None) -> PromptPair:
    """Fetch the pair `repo_id` into the folder `out`, which may hold an older pair. Returns the pair.

    It is checked before anything at `out` changes, and brought to the current format. Raises UsageError for a bad
    repository id, PairError for a missing or damaged pair or a folder that holds something else.
    """
    _check_repository(repo_id)
    check_target(Path(out))
    hub = api or _api()
    try:
        fetched = Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:
        raise PairError(
            f"The hub gave no pair of the name {repo_id!r}: {one_line(error)}",
            hint="Check the name and --revision; for a private pair log in first: hf auth login",
        ) from error
    pair = PromptPair.load(fetched)
    pair.save(out, history=_history(fetched), name=os.fspath(out))
    return pair


def _check_repository(repo_id: str) -> None:
    if not is_hub_id(repo_id):
        raise UsageError(
            f"{repo_id!r} is not the id of a repository on the hub.", hint="It has the form owner/name: alice/my-pair"
        )


def _history(source: Path) -> dict[str, Any] | None:
    """The run's history, with no path in it."""
    history = history_of(source)
    if history is None:
        return None
    return history | ({"model": _without_path(str(history["model"]))} if "model" in history else {})


def _without_path(base_model: str | None) -> str | None:
    """Where a model lies on the maker's disk is nobody else's business."""
    if base_model is None or is_hub_id(base_model):
        return base_model
    return re.split(r"[/\\]", base_model.rstrip("/\\"))[-1]


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi()
