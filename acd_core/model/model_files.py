"""A model's files but for its weights: where they are, its config and tokenizer, and what is wrong with them."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_core.errors import ACDError, ModelError, UsageError, missing_extra
from acd_core.model import gguf_files
from acd_core.model.gguf_header import gguf_file
from acd_core.model.on_disk import REFERENCE, adapter_base, known_folder

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
# transformers passes over some of them where they cannot be read, and with them over what ends a reply.
_OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "model.safetensors.index.json",
)  # fmt: skip
_READ = frozenset((".safetensors", ".json", ".jinja", ".model", ".txt"))
_AGAIN = "Get the folder again from where it came."


def local_path(model: str | os.PathLike[str]) -> Path | None:
    """Return where the model of this name lies, None for a hub id and what is not here.

    Raises UsageError for what is no name, ModelError for a place that cannot be looked at.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model) or "\0" in str(model):
        raise UsageError(
            f"{model!r} is no name of a model.",
            hint="Give a folder, a hub id such as Qwen/Qwen2.5-0.5B-Instruct, a .gguf file, or 'reference'.",
        )
    try:
        if model == REFERENCE:
            return REFERENCE_MODEL_DIR
        path = gguf_file(model) or Path(model)
        return path if path.exists() else None
    except OSError as error:
        raise ModelError(
            f"The model {str(model)[:200]!r} cannot be looked at: {error.strerror or error}.",
            hint="Check the path, and who may read it.",
        ) from None


def file_states(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of the file or of the files in the folder that a model is read from."""
    files = [each for each in path.iterdir() if each.suffix in _READ] if path.is_dir() else [path]
    found = []
    for each in sorted(files):
        with suppress(OSError):  # one that goes this very moment
            known = each.stat()
            found.append((each.name, known.st_size, known.st_mtime_ns))
    return tuple(found)


def read_config_and_tokenizer(model: str, *, revision: str | None = None) -> tuple[Any, Any]:
    """Return config and tokenizer of a local folder, a hub id, a GGUF file or "reference", without the weights.

    Raises ModelError.
    """
    local_path(model)
    file = gguf_file(model)
    if file is not None:
        return gguf_files.read_config_and_tokenizer(file, model)
    source = str(REFERENCE_MODEL_DIR) if model == REFERENCE else str(model)
    base = adapter_base(source)
    if base is not None:
        check_adapter(source, base)
        config, tokenizer = read_config_and_tokenizer(base)
        if (Path(source) / "tokenizer_config.json").is_file():
            with as_model_error(model):
                tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
                _check_tokenizer(tokenizer, model)
        return config, tokenizer
    _check_source(source, model)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    with as_model_error(model):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        _check_config(config, model)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        _check_tokenizer(tokenizer, model)
        return config, tokenizer


@contextmanager
def as_model_error(name: str) -> Iterator[None]:
    """Whatever transformers and the libraries below it raise, as a ModelError about the model `name`."""
    try:
        yield
    except ACDError:
        raise
    except BaseException as error:
        # A panic in Rust (tokenizers, safetensors) is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"The model {name!r} cannot be loaded: {_one_line(error)}",
            hint=f"Check the folder or hub id with: acd doctor --model {name}",
        ) from error


def text_config(config: Any) -> Any:
    """Return the text part of a (possibly multimodal) config."""
    getter = getattr(config, "get_text_config", None)
    return getter() if callable(getter) else config


def check_adapter(folder: str, base: str) -> None:
    """Raise unless the adapter in `folder` can be read: its base is named, peft is there, the weights are safetensors.
    What is wrong with the base itself is said where that is read."""
    if not base or adapter_base(base) is not None:
        raise ModelError(
            f"The adapter {folder!r} names {base!r} as base_model_name_or_path, which is no whole model.",
            hint="Name the base model's folder or hub id in its adapter_config.json.",
        )
    if importlib.util.find_spec("peft") is None:
        raise missing_extra("peft", "peft")
    if not (Path(folder) / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"The adapter {folder!r} holds no {ADAPTER_WEIGHTS}; nothing else is read.",
            hint="Save it again: peft_model.save_pretrained(folder).",
        )


def _check_source(source: str, name: str) -> None:
    path = Path(source)
    try:
        if path.exists():
            _check_folder(path, name)
            return
    except OSError as error:
        raise ModelError(
            f"The model folder {name!r} cannot be read: {error.strerror or error}.",
            hint=f"Check who may read it with: ls -la {name}",
        ) from None
    known_folder("model", source)  # raises for what can only be a folder


def _check_folder(path: Path, name: str) -> None:
    if not path.is_dir():
        raise ModelError(
            f"{name!r} is no model folder but {_KINDS.get(stat.S_IFMT(path.stat().st_mode), 'a file')}.",
            hint="Give a folder saved with save_pretrained, a hub id, a .gguf file, or 'reference'.",
        )
    for entry in path.iterdir():  # reading a pipe would wait for ever
        if entry.exists() and not entry.is_file() and not entry.is_dir():
            kind = _KINDS.get(stat.S_IFMT(entry.stat().st_mode), "no file")
            raise ModelError(
                f"The folder {name!r} holds {kind} as {entry.name}.",
                hint="A model's folder holds plain files; save or copy it again.",
            )
    if not (path / "config.json").is_file():
        inside = next(path.glob("*.gguf"), "a .gguf file")
        raise ModelError(
            f"The folder {name!r} holds no config.json and no adapter_config.json: it is not a transformers model.",
            hint=f"Give a folder saved with save_pretrained, a hub id, {inside}, or 'reference'.",
        )
    for file in _OBJECTS:
        document = _read_json(path / file, name) if (path / file).is_file() else {}
        if not isinstance(document, dict):
            raise ModelError(f"{file} of {name!r} is a {type(document).__name__}, not an object.", hint=_AGAIN)


def _read_json(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path.name} of {name!r} is no JSON: {_one_line(error, 120)}",
            hint=_AGAIN,
        ) from None


def _check_config(config: Any, name: str) -> None:
    """Raise for sizes that no model has."""
    text = text_config(config)
    for field in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
        value = getattr(text, field, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31):
            raise ModelError(
                f"config.json of {name!r} gives {field} as {value!r}, which no model has.",
                hint=_AGAIN,
            )


def _check_tokenizer(tokenizer: Any, name: str) -> None:
    """Raise for a tokenizer that makes nothing of text: an empty vocabulary, files of another kind."""
    if len(tokenizer) == 0 or not tokenizer(string.printable, add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"The tokenizer of {name!r} makes no tokens of text ({len(tokenizer)} tokens in its vocabulary).",
            hint="Its tokenizer.json is damaged or not there; get the folder again from where it came.",
        )
    template = getattr(tokenizer, "chat_template", None)
    texts = list(template.values()) if isinstance(template, dict) else [template]
    if template is not None and not all(isinstance(each, str) for each in texts):
        raise ModelError(f"The chat template of {name!r} is {str(template)[:60]!r}, which is no text.", hint=_AGAIN)


def _one_line(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
