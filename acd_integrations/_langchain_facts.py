"""What ChatACD knows of its model: the loaded one, shared between copies; and what can be told without loading it."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import json
import os
import threading
import weakref
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.model_profile import ModelProfile

import acd_core
from acd_core.errors import TemplateError, UsageError

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_BUNDLED = Path(acd_core.__file__).parent / "reference"


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

    def get(self, model: str, pair: Any, expert: Any, revision: str | None, dtype: str, device: str) -> ContrastiveLM:
        """The ContrastiveLM of these settings, loaded at the first call."""
        if self.given is not None:
            own = (self.given.model_id, _pair_key(self.given.pair), _expert_key(self.given.expert))
            if (model, _pair_key(pair), _expert_key(expert)) != own:
                raise UsageError(
                    "This ChatACD was made from a ContrastiveLM, so its model, pair and expert cannot be changed.",
                    hint="ChatACD.from_lm(other_lm), or ChatACD(model=..., pair=...).",
                )
            return self.given
        key = (model, _pair_key(pair), _expert_key(expert), revision, dtype, device)
        known = self._known.get(key)  # without the lock: somebody else may be loading another model behind it
        if known is None:
            with self._lock:
                if key not in self._known:
                    from acd_core.lm import ContrastiveLM  # torch and transformers, not before they are needed

                    self._known[key] = ContrastiveLM.from_pretrained(
                        model, pair, expert=expert, dtype=dtype, device=device, revision=revision
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
    else:
        folder, snapshot = _folder(model, "model"), _cached(model, "config.json")
        known["model_files"] = _signature(folder) if folder else snapshot and snapshot.name
    if pair is None or isinstance(pair, (str, os.PathLike)):
        known["pair"] = None if pair is None else str(pair)
        if pair is not None:
            folder, snapshot = _folder(pair, "pair"), _cached(str(pair), "pair.json")
            known["pair_files"] = _digest(folder) if folder else snapshot and snapshot.name
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
    return known[1], pair.alpha


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
        folder = _folder(model, "model") or _cached(model, "config.json")
        if folder is None:
            return None
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions = (config.get("text_config") or config).get("max_position_embeddings")
        if isinstance(positions, int):
            found["max_input_tokens"] = positions - _soft_length(pair)
        tools = _mentions_tools(folder) is not False
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
    folder = _folder(pair, "pair") or _cached(str(pair), "pair.json")
    config = folder / "safe" / "adapter_config.json" if folder is not None else None
    if config is None or not config.is_file():
        return 0
    return int(json.loads(config.read_text(encoding="utf-8")).get("num_virtual_tokens", 0))


def check_tools(model: str, lm: ContrastiveLM | None) -> None:
    """Raise TemplateError if it is plain already that the model's template ignores tools. Loads nothing; the call
    itself checks again, by rendering."""
    folder = _folder(model, "model") or _cached(model, "tokenizer_config.json")
    ignored = not lm.renders_tools if lm is not None else folder is not None and _mentions_tools(folder) is False
    if ignored:
        raise TemplateError(
            f"The chat template of {model!r} ignores tools, so the model would never see them.",
            hint=f"Use a model whose template renders tools (acd doctor --model {model} says so).",
        )


def _folder(name: Any, kind: str) -> Path | None:
    """The local folder `name` stands for, "reference" included; None for a hub id."""
    path = _BUNDLED / kind if name == "reference" else Path(name)
    return path if path.is_dir() else None


def _cached(name: str, file: str) -> Path | None:
    """The folder of a hub repository that was downloaded before (named by its commit). Never asks the network."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(name, file)
    return Path(path).parent if isinstance(path, str) else None


def _mentions_tools(folder: Path) -> bool | None:
    """Whether the chat template of a model folder so much as names tools; None if there is no template to see."""
    template = folder / "chat_template.jinja"
    if template.is_file():
        return "tools" in template.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        return None
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return None if found is None else "tools" in str(found)


def _signature(folder: Path) -> str:
    """A digest over names, sizes and times of the files of a model: weights are too large to read for a key."""
    return _stats(folder)[1]


def _digest(folder: Path) -> str:
    """A digest over the contents of a pair, read again only when a file has changed."""
    return _contents(str(folder), _stats(folder)[1])


def _stats(folder: Path) -> tuple[list[Path], str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md")
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
