"""Where models, pairs and experts lie, and what a model's files say without being loaded: plain JSON, GGUF headers.

No torch, no transformers, no network: for code that must be cheap (the construction of an adapter). `reply.facts` says
more, and needs the tokenizer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from acd_core.bundled import REFERENCE_MODEL_DIR, REFERENCE_PAIR_DIR, SMOLLM2_PAIR_DIR
from acd_core.errors import ACDError, ExpertError, ModelError, PairError
from acd_core.files.reading import read_object
from acd_core.model.gguf_header import SMOLLM2, Header, gguf_file, read_header

REFERENCE = "reference"
BUNDLED_PAIRS = {REFERENCE: REFERENCE_PAIR_DIR, SMOLLM2: SMOLLM2_PAIR_DIR}
"""Pairs in this package. Each bears the name of the model that it was tuned for."""
Kind = Literal["model", "pair", "expert"]
_ERRORS: Mapping[str, type[ACDError]] = {"model": ModelError, "pair": PairError, "expert": ExpertError}
_MAKE = {
    "model": "Give an existing folder, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, or 'reference'.",
    "pair": "Make one: acd tune --model M --out my-pair",
    "expert": "Make one: acd expert --model M --out my-expert",
}
CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def model_folder(name: str | os.PathLike[str], revision: str | None = None) -> Path | None:
    """Return the folder of a model: a local one, the bundled one for "reference", a hub download, or None.

    Of a model that is one GGUF file it is that file, for `context_length` and `mentions_tools` to read.
    """
    try:
        file = gguf_file(name)
    except ModelError:  # "smollm2" without its package
        return None
    if file is not None:
        return file if file.is_file() else None
    return _folder(os.fspath(name), {REFERENCE: REFERENCE_MODEL_DIR}, "config.json", revision)


def pair_folder(name: str | os.PathLike[str], revision: str | None = None) -> Path | None:
    """As `model_folder`, for a pair."""
    return _folder(os.fspath(name), BUNDLED_PAIRS, "pair.json", revision)


def known_folder(kind: Kind, name: str | os.PathLike[str], revision: str | None = None) -> Path | None:
    """Return where the model, pair or expert `name` lies: a folder here, the bundled one, or a hub download; None for a
    hub id that was not downloaded yet.

    Touches no network.

    Raises ModelError, PairError or ExpertError where `name` can only be a folder, and there is none: a path, or
    something like "out/mine" with a folder "out" here and no download of that name. Experts are folders only.
    """
    text = os.fspath(name)
    if kind == "model":
        found = model_folder(text, revision)
    elif kind == "pair":
        found = pair_folder(text, revision)
    else:
        found = Path(text) if os.path.isdir(text) else None
    if found is not None or (kind == "model" and text == SMOLLM2):
        return found
    if kind == "expert" or os.path.lexists(text) or (text.count("/") and not is_hub_id(text)) or _has_owner(text):
        raise not_found(kind, text)
    if text.startswith((".", "~")) or "\\" in text or (kind == "pair" and not is_hub_id(text)):
        raise not_found(kind, text)
    return None


def not_found(kind: Kind, name: str, why: str = "") -> ACDError:
    """Return the error for a `name` that means nothing here, saying all that it could have been. why: what the hub
    said.
    """
    if kind == "expert" or not is_hub_id(name):
        what = {"model": "model folder", "pair": "prompt pair", "expert": "expert"}[kind]
        return _ERRORS[kind](f"There is no {what} {name!r} here.", hint=_MAKE[kind])
    gave = f"and the hub gave none of that name: {why}" if why else "and none of that name was downloaded from the hub"
    return _ERRORS[kind](
        f"There is no {kind} {name!r}: no such folder here ({os.getcwd()}), {gave}.",
        hint=_MAKE[kind] + f"  (To fetch it from the hub first: hf download {name})",
    )


def _has_owner(name: str) -> bool:
    """Return whether the part before the slash is a folder here, so that `name` is a path whose end is missing."""
    return is_hub_id(name) and os.path.isdir(os.path.dirname(name))


def _folder(name: str, bundled: Mapping[str, Path], file: str, revision: str | None) -> Path | None:
    path = bundled.get(name) or Path(name)
    if os.path.isdir(path):  # not Path.is_dir: that raises for a name that is too long to be one
        return path
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def is_hub_id(name: Any) -> bool:
    """Return whether `name` has the form owner/name.

    The hub also knows names without an owner, and paths look alike.
    """
    return isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) is not None


def adapter_base(folder: str | os.PathLike[str]) -> str | None:
    """Return the model that the adapter in `folder` (PEFT's layout) was made for; None for a folder that is no bare
    adapter.

    A path is read as it stands, else from the adapter's own folder.
    """
    path = Path(folder)
    if not (path / "adapter_config.json").is_file() or (path / "config.json").is_file():
        return None
    named = str(read_if_any(path / "adapter_config.json").get("base_model_name_or_path") or "")
    beside = path / named
    return str(beside) if named and not os.path.exists(named) and os.path.exists(beside) else named


def _base_folder(folder: Path) -> Path | None:
    """Return where the base of the adapter in `folder` is; None for one that is not here and for what is no adapter."""
    base = adapter_base(folder) if folder.is_dir() else None
    found = model_folder(base) if base else None
    return found if found is not None and (found.is_file() or not adapter_base(found)) else None


def context_length(folder: Path) -> int | None:
    """Return positions of the model in `folder`, None where its files do not say."""
    folder = _base_folder(folder) or folder
    if folder.is_file():
        header = _header(folder)
        return bounded(header.context_length) if header else None
    config = read_if_any(folder / "config.json")
    inner = config.get("text_config")
    limit = positions(inner if isinstance(inner, Mapping) else config)
    if limit is None:
        limit = bounded(read_if_any(folder / "tokenizer_config.json").get("model_max_length"))
    return limit


def positions(config: Mapping[str, Any]) -> int | None:
    """Return the context length a config's fields name; the first of CONTEXT_FIELDS counts."""
    return next((limit for limit in (bounded(config.get(name)) for name in CONTEXT_FIELDS) if limit), None)


def bounded(limit: Any) -> int | None:
    """Return `limit` if it is a real one: tokenizers without a limit say 10**30."""
    return int(limit) if isinstance(limit, int) and 0 < limit < 10**9 else None


def mentions_tools(folder: Path) -> bool | None:
    """Return whether the chat template of a model's folder so much as names tools; None if there is no template."""
    if folder.is_file():
        header = _header(folder)
        return "tools" in header.chat_template if header and header.chat_template else None
    files = [folder / "chat_template.jinja", *sorted((folder / "additional_chat_templates").glob("*.jinja"))]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file()]
    named = read_if_any(folder / "tokenizer_config.json").get("chat_template")  # one text, or a list of named ones
    texts += [str(named)] if named is not None else []
    if not texts and (base := _base_folder(folder)) is not None:
        return mentions_tools(base)
    return any("tools" in text or "functions" in text for text in texts) if texts else None


def _header(path: Path) -> Header | None:
    try:
        return read_header(path)
    except ModelError:  # as in `_read`
        return None


def read_if_any(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is none: loading says what is wrong with a file, and says it better."""
    try:
        return read_object(path, ModelError)
    except (ModelError, FileNotFoundError):
        return {}
