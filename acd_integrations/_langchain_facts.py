"""What ChatACD knows of its model: the loaded one, shared between copies; and what can be told without loading it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import os
import threading
import weakref
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.model_profile import ModelProfile

from acd_core import on_disk
from acd_core.errors import TemplateError, UsageError

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM


class Holder:
    """Keeps loaded models alive for a ChatACD and every copy of it: LangChain makes a new object per call wherever
    `configurable_fields` are used, and without this each would load the weights again. Copies share it; pickles are
    empty and load anew."""

    def __init__(self, lm: ContrastiveLM | None = None) -> None:
        self.given = lm
        self._known: dict[tuple[Any, ...], ContrastiveLM] = {}
        self._last: ContrastiveLM | None = lm
        self._lock = threading.Lock()

    @property
    def loaded(self) -> ContrastiveLM | None:
        """The model of the last call, None before the first."""
        return self._last

    def get(
        self,
        model: str,
        pair: Any,
        expert: Any,
        revision: str | None,
        dtype: str,
        device: str,
        rules: tuple[tuple[str, Any], ...] = (),
    ) -> ContrastiveLM:
        """The ContrastiveLM of these settings, loaded at the first call. rules: the operator's, of the gate."""
        if self.given is not None:
            own = (self.given.model_id, _pair_key(self.given.pair), _expert_key(self.given.expert))
            floor = dict(rules).get("gate_floor")
            if (model, _pair_key(pair), _expert_key(expert)) != own or floor != self.given.gate_rules.floor:
                raise UsageError(
                    "This ChatACD was made from a ContrastiveLM, so its model, pair, expert and gate_floor cannot be "
                    "changed.",
                    hint="ChatACD.from_lm(other_lm), or ChatACD(model=..., pair=...).",
                )
            return self.given
        key = (model, _pair_key(pair), _expert_key(expert), revision, dtype, device, rules)
        known = self._known.get(key)  # without the lock: somebody else may be loading another model behind it
        if known is None:
            with self._lock:
                if key not in self._known:
                    from acd_core.lm import ContrastiveLM  # torch and transformers, not before they are needed

                    self._known[key] = ContrastiveLM.from_pretrained(
                        model, pair, expert=expert, dtype=dtype, device=device, revision=revision, **dict(rules)
                    )
                known = self._known[key]
        self._last = known
        return known

    async def aget(self, model: str, pair: Any, expert: Any, *others: Any) -> ContrastiveLM:
        """`get`, off the event loop where something must be loaded."""
        if self.given is not None or (model, _pair_key(pair), _expert_key(expert), *others) in self._known:
            return self.get(model, pair, expert, *others)
        return await asyncio.to_thread(self.get, model, pair, expert, *others)

    def __deepcopy__(self, memo: dict[int, Any]) -> Holder:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.given is not None:
            raise UsageError(
                "A ChatACD made from a ContrastiveLM cannot be sent to another process.",
                hint="Use ChatACD(model=..., pair=...): the other process loads its own.",
            )
        return (Holder, ())


def of(lm: ContrastiveLM) -> dict[str, Any]:
    """What a reply's metadata need of the model."""
    tokenizer = lm.backbone.tokenizer
    return {
        "model_name": lm.model_id,
        "count": lambda text: len(lm.token_ids(text)),
        "decode": lambda ids: tokenizer.decode(ids),
    }


def identity(model: str, pair: Any, expert: Any, given: ContrastiveLM | None) -> dict[str, Any]:
    """Model, pair and expert for a cache key: names, and digests of what they hold where that is cheap. The same
    before and after loading. given: the ContrastiveLM the caller made, if any: it has defaults of its own."""
    known: dict[str, Any] = {"model": model, "version": _version()}
    if given is not None:
        known["fingerprint"] = given.backbone.fingerprint
        known["defaults"] = (given.method, given.alpha, str(given.backbone.dtype), str(given.backbone.device))
        known["gate_defaults"] = (given.gate_rules.setting, given.gate_rules.recheck)
    else:
        known["model_files"] = _state(model, on_disk.model_folder(model), _signature)
    if pair is None or isinstance(pair, (str, os.PathLike)):
        known["pair"] = None if pair is None else str(pair)
        if pair is not None:
            known["pair_files"] = _state(pair, on_disk.pair_folder(pair), _digest)
    else:
        known["pair"] = _pair_key(pair)
    known["expert"] = _expert_key(expert)
    if isinstance(expert, (str, os.PathLike)) and Path(expert).is_dir():
        known["expert_files"] = _digest(Path(expert))
    return known


def _pair_key(pair: Any) -> Any:
    """What stands for `pair` in a key; for one in memory the digest of its vectors, computed once."""
    if pair is None or isinstance(pair, (str, os.PathLike)):
        return str(pair)
    place = id(pair)
    known = _pair_ids.get(place)
    if known is None or known[0]() is not pair:
        known = _pair_ids[place] = (weakref.ref(pair, lambda _: _pair_ids.pop(place, None)), pair.id)
    return known[1], pair.alpha, pair.plausibility, pair.contrast_tokens


def _expert_key(expert: Any) -> str | None:
    """What stands for `expert` in a key; for one in memory the digest of its weights, which it computes once."""
    return None if expert is None else str(getattr(expert, "id", expert))


_pair_ids: dict[int, tuple[weakref.ref[Any], str]] = {}  # by identity: `==` on vectors compares elements


def profile(model: str, pair: Any, lm: ContrastiveLM | None) -> ModelProfile | None:
    """What LangChain may know of the model, from its files alone; None for one that is not here yet."""
    structured = importlib.util.find_spec("llguidance") is not None
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
        found["max_input_tokens"] = lm.max_input_tokens
        tools = lm.supports_tools
    else:
        folder = on_disk.model_folder(model)
        if folder is None:
            return None
        positions = on_disk.context_length(folder)
        if positions is not None:
            found["max_input_tokens"] = positions - _soft_length(pair)
        tools = on_disk.mentions_tools(folder) is not False
    found["tool_calling"] = tools
    found["tool_call_streaming"] = tools
    found["tool_choice"] = tools and structured
    return found


def _soft_length(pair: Any) -> int:
    """Positions that the vectors of a pair take, from its files; 0 for a textual pair and for one that is not here."""
    if pair is None:
        return 0
    if not isinstance(pair, (str, os.PathLike)):
        return int(pair.length)
    folder = on_disk.pair_folder(pair)
    return on_disk.pair_length(folder) if folder is not None else 0


def check_tools(model: str, lm: ContrastiveLM | None) -> None:
    """Raise TemplateError if it is plain already that the model's template ignores tools. Loads nothing; the call
    itself checks again, by rendering."""
    folder = on_disk.model_folder(model)
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


def _digest(folder: Path) -> str:
    """A digest over the contents of a pair, read again only when a file has changed."""
    return _contents(str(folder), _stats(folder)[1])


def _stats(folder: Path) -> tuple[list[Path], str]:
    inside = [folder] if folder.is_file() else folder.rglob("*")  # a GGUF file is all there is of its model
    files = sorted(path for path in inside if path.is_file() and path.suffix != ".md")
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return files, digest.hexdigest()[:16]


@functools.lru_cache(maxsize=64)
def _contents(folder: str, state: str) -> str:
    digest = hashlib.sha256()
    for path in _stats(Path(folder))[0]:
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1)
def _version() -> str:
    try:
        return metadata.version("acd-integrations")
    except metadata.PackageNotFoundError:
        return "unknown"
