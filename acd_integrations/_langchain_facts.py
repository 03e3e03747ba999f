"""What ChatACD knows of its model, loaded or not: metadata, cache keys, a profile."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

from langchain_core.language_models.model_profile import ModelProfile

from acd_core.artifacts import pair_files
from acd_core.errors import ACDError, TemplateError
from acd_core.model import on_disk
from acd_integrations._holder import AS_LOADED, expert_key, pair_key

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM


def of(lm: ContrastiveLM) -> dict[str, Any]:
    """What a reply's metadata need of the model."""
    tokenizer = lm.backbone.tokenizer
    return {
        "model_name": lm.model_id,
        "count": lambda text: len(lm.token_ids(text)),
        "decode": lambda ids: tokenizer.decode(ids),
    }


def identity(
    model: str, pair: Any, expert: Any, given: ContrastiveLM | None, loaded: ContrastiveLM | None = None
) -> dict[str, Any]:
    """Model, pair and expert for a cache key: names, and digests of what they hold where that is cheap. The same
    before and after loading, unless somebody changes the loaded weights. given: the ContrastiveLM the caller made, if
    any: it has defaults of its own. loaded: the one that was loaded by these names."""
    known: dict[str, Any] = {"model": model, "version": _version()}
    if given is not None:
        known["fingerprint"] = given.backbone.fingerprint
        known["defaults"] = (given.method, given.alpha, str(given.backbone.dtype), str(given.backbone.device))
        known["gate_defaults"] = (given.gate_rules.setting, given.gate_rules.recheck)
        known.update(_chosen(given))
    else:
        folder = on_disk.model_folder(model)
        known["model_files"] = _state(model, folder, _signature)
        base = on_disk.adapter_base(folder) if folder is not None else None
        if base is not None:
            known["base_files"] = _state(base, on_disk.model_folder(base), _signature)
        if loaded is not None:
            known.update(_changed(loaded, under_adapter=base is not None))
    if pair is None or isinstance(pair, (str, os.PathLike)):
        known["pair"] = None if pair is None else str(pair)
        if pair is not None:
            # Of what answers: a folder that was written over since the pair was loaded is another pair.
            held = loaded.pair.digest if loaded is not None and loaded.pair is not None else None
            known["pair_files"] = held or pair_files.pair_digest(pair)
    else:
        known["pair"] = pair_key(pair)
    known["expert"] = expert_key(expert)
    if isinstance(expert, (str, os.PathLike)) and Path(expert).is_dir():
        held = loaded.expert.digest if loaded is not None and loaded.expert is not None else None
        known["expert_files"] = held or _expert_digest(expert)
    return known


def _expert_digest(folder: str | os.PathLike[str]) -> str | None:
    from acd_core.artifacts import lora as experts  # torch, not before it is needed

    return experts.digest(folder)


def _chosen(given: ContrastiveLM) -> dict[str, Any]:
    """What the caller's model computes with now, its adapters and their settings included, and what its
    generation_config has it do."""
    from acd_core.evaluation.identity import defaults_key, weights_key

    return {"weights": weights_key(given.backbone.model), "generation_config": defaults_key(given.defaults)}


def _changed(loaded: ContrastiveLM, *, under_adapter: bool) -> dict[str, Any]:
    """What weights and adapters a loaded model has now, where they are not those of its files. under_adapter: whether
    those name an adapter."""
    from acd_core.evaluation.identity import adapters_key, weights_key

    now = weights_key(loaded.backbone.model)
    added = not under_adapter and adapters_key(loaded.backbone.model) is not None
    return {"weights": now} if added or now != loaded.backbone.attached.get(AS_LOADED, now) else {}


def profile(
    model: str,
    pair: Any,
    lm: ContrastiveLM | None,
    method: str | None = None,
    *,
    expert: Any = None,
    revision: str | None = None,
) -> ModelProfile | None:
    """What LangChain may know of the model, from its files alone; None for one that is not here yet.

    `max_input_tokens` is that of calls by this method (None: the one that the pair or the expert stands for), exact for
    the conversation and its reply together: `ModelFacts.max_input_tokens`. How much a method's prompts take only the
    tokenizer can tell, so before the model is loaded the figure is worked out when somebody reads it.
    """
    structured = importlib.util.find_spec("llguidance") is not None
    asked: _Asked | None = None
    found = ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        image_url_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        pdf_inputs=False,
        temperature=True,
        structured_output=structured,
        mid_conversation_system_messages=False,  # templates know one system text, at the front
    )
    if lm is not None:
        found["max_input_tokens"] = lm.facts_for(method or lm.method).max_input_tokens
        tools = lm.supports_tools
    else:
        folder = on_disk.model_folder(model, revision)
        if folder is None:
            return None
        positions = on_disk.context_length(folder)
        if positions is not None:
            if method is None:
                method = "acd" if pair is not None else "safedecoding" if expert is not None else "none"
            found["max_input_tokens"] = positions
            if method not in ("none", "safedecoding"):  # those two add no prompt
                found["max_input_tokens"] -= _soft_length(pair)
                asked = (model, pair, method, revision)
        tools = on_disk.mentions_tools(folder) is not False
    found["tool_calling"] = tools
    found["tool_call_streaming"] = tools
    found["tool_choice"] = tools and structured
    return cast(ModelProfile, WorkedOut(found, asked))


_Asked = tuple[str, Any, str, Union[str, None]]  # model, pair, method, revision


class WorkedOut(dict[str, Any]):
    """A profile that was worked out here, not written by a user.

    asked: what `max_input_tokens` depends on, where it is worked out at the first reading of it: that takes the model's
    tokenizer, and making a ChatACD must not. Until then it is the context less the pair's vectors; it stays that where
    the model cannot be read, which its first call says with the reason.
    """

    def __init__(self, known: Mapping[str, Any], asked: _Asked | None) -> None:
        super().__init__(known)
        self._asked = asked

    def _work_out(self) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        from acd_core.reply.facts import read_facts  # torch and transformers

        model, pair, method, revision = asked
        with contextlib.suppress(ACDError):
            self["max_input_tokens"] = read_facts(model, pair, method, revision=revision).max_input_tokens

    def __getitem__(self, key: str) -> Any:
        if key == "max_input_tokens":
            self._work_out()
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        if key == "max_input_tokens":
            self._work_out()
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:  # its being here keeps dict(p) and {**p} from reading past __getitem__
        return super().__iter__()

    def items(self) -> Any:
        self._work_out()
        return super().items()

    def values(self) -> Any:
        self._work_out()
        return super().values()

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        self._work_out()
        return super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        self._work_out()
        return super().__repr__()

    def __reduce__(self) -> tuple[Any, ...]:
        return (WorkedOut, (dict(super().items()), self._asked))


def _soft_length(pair: Any) -> int:
    """Positions that the vectors of a pair take, from its files; 0 for a textual pair and for one that is not here."""
    if pair is None:
        return 0
    if not isinstance(pair, (str, os.PathLike)):
        return int(pair.length)
    folder = on_disk.pair_folder(pair)
    return pair_files.pair_length(folder) if folder is not None else 0


def check_tools(model: str, lm: ContrastiveLM | None, revision: str | None = None) -> None:
    """Raise TemplateError if it is plain already that the model's template ignores tools. Loads nothing; the call
    itself checks again, by rendering. lm: the model, where it is loaded."""
    folder = on_disk.model_folder(model, revision)
    ignored = not lm.renders_tools if lm is not None else folder is not None and on_disk.mentions_tools(folder) is False
    if ignored:
        raise TemplateError(
            f"The chat template of {model!r} ignores tools, so the model would never see them.",
            hint=f"Use a model whose template renders tools (acd doctor --model {model} says so).",
        )


def _state(name: Any, folder: Path | None, digest: Callable[[Path], str]) -> str | None:
    """What the files behind `name` are: a digest of a folder's; of a hub download the commit it is named by."""
    if folder is None:
        return None
    local = str(name) == on_disk.REFERENCE or Path(name).is_dir() or folder.is_file()
    return digest(folder) if local else folder.name


def _signature(folder: Path) -> str:
    """A digest over names, sizes and times of the files of a model: weights are too large to read for a key."""
    return _stats(folder)[1]


def _stats(folder: Path) -> tuple[list[Path], str]:
    inside = [folder] if folder.is_file() else folder.rglob("*")  # a GGUF file is all there is of its model
    files = sorted(path for path in inside if path.is_file() and path.suffix != ".md")
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return files, digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _version() -> str:
    try:
        return metadata.version("acd-integrations")
    except metadata.PackageNotFoundError:
        return "unknown"
