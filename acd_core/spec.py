"""A ContrastiveLM before it is loaded: its settings by name. No torch, no transformers, no network to make one.

Everything that loads a model builds one of these: the adapters, the harness plug-ins, the verbs of the command line. It
loads, it says what is known of the model without its weights, and it is the identity that caches compare.
"""

from __future__ import annotations

import functools
import hashlib
import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, cast

from acd_core.artifacts import pair_files
from acd_core.artifacts.learnt_files import method_for
from acd_core.errors import UsageError
from acd_core.methods.table import own_method_key
from acd_core.model import on_disk
from acd_core.params import shown
from acd_core.reply.policy import Policy

if TYPE_CHECKING:
    from acd_core.artifacts.learnt import LearntForModel
    from acd_core.artifacts.pair import PromptPair
    from acd_core.engine import EngineOptions
    from acd_core.lm import ContrastiveLM
    from acd_core.reply.facts import ModelFacts

CALL_SETTINGS = frozenset(("method", "alpha", "gate", "recheck"))
"""Fields of a spec that every call may name too: a spec's are for the calls that do not."""


@dataclass(frozen=True)
class FileFacts:
    """What the files of a model say at once. context_length: positions, None where they do not say. mentions_tools:
    whether its chat template so much as names tools; None where there is no template to see."""

    context_length: int | None
    mentions_tools: bool | None


@dataclass(frozen=True, eq=False)
class LMSpec:
    """What `ContrastiveLM.from_pretrained` takes, under the same names and with the same meaning.

    Frozen; equal, and of one hash, where it names the same (a pair or an expert in memory counts by its content). It
    can be pickled. recheck None is `from_pretrained`'s default. policy, options: also as dicts of their fields.
    """

    model: str = on_disk.REFERENCE
    pair: Union[str, os.PathLike[str], PromptPair, None] = None
    method: str | None = None
    expert: Union[str, os.PathLike[str], LearntForModel, None] = None
    alpha: float | None = None
    gate: bool | float | None = None
    gate_floor: float | None = None
    recheck: int | None = None
    policy: Union[Policy, Mapping[str, Any], None] = None
    namespace: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    options: Union[EngineOptions, Mapping[str, Any], None] = None
    deterministic: bool = False
    generation_defaults: bool = True
    allow_adversarial: bool = False

    def __post_init__(self) -> None:
        if self.policy is not None:
            object.__setattr__(self, "policy", Policy.of(self.policy))
        object.__setattr__(self, "options", option_fields(self.options))

    @classmethod
    def split(cls, settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """`settings` in two: those that only a spec has, and the rest: a call's, CALL_SETTINGS among them. recheck is
        of both under a gate_floor, which holds calls to the spec's."""
        alone = _FIELDS - CALL_SETTINGS
        if settings.get("gate_floor") is not None:
            alone |= {"recheck"}
        rest = {name: value for name, value in settings.items() if name not in _FIELDS - CALL_SETTINGS}
        return {name: value for name, value in settings.items() if name in alone}, rest

    def replace(self, **changes: Any) -> LMSpec:
        """The same with other values."""
        return replace(self, **changes)

    # -- loading ----------------------------------------------------------------------------------------------------

    def load(self) -> ContrastiveLM:
        """Load it, or share what is loaded already. Raises what `ContrastiveLM.from_pretrained` raises."""
        from acd_core.engine import EngineOptions
        from acd_core.identity import note_weights
        from acd_core.lm import ContrastiveLM

        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.recheck is None:
            del given["recheck"]
        if isinstance(self.options, Mapping):
            known = [field.name for field in fields(EngineOptions)]
            if unknown := sorted(set(self.options) - set(known)):
                raise UsageError(f"options has {unknown[0]!r}, which is none.", hint=f"Known: {', '.join(known)}.")
            given["options"] = EngineOptions(**self.options)
        lm = ContrastiveLM.from_pretrained(**given)
        note_weights(lm.backbone)
        return lm

    def with_artifacts(self) -> LMSpec:
        """The same with its pair and its expert read from their files, so that what is wrong with those is said before
        a model is loaded. Raises PairError and ExpertError."""
        from acd_core.artifacts import learnt
        from acd_core.artifacts.pair import PromptPair

        pair, expert = self.pair, self.expert
        return replace(
            self,
            pair=PromptPair.load(pair) if isinstance(pair, (str, os.PathLike)) else pair,
            expert=learnt.load(expert) if isinstance(expert, (str, os.PathLike)) else expert,
        )

    # -- facts without weights --------------------------------------------------------------------------------------

    @property
    def method_name(self) -> str:
        """The method of calls that name none."""
        return self.method if self.method is not None else method_for(self.pair, self.expert)

    def facts(self) -> ModelFacts:
        """What the loaded model would say of itself, from its config, tokenizer and chat template. Reads no weights.

        Imports torch and transformers. Raises ModelError, TemplateError, PairError and UsageError.
        """
        from acd_core.reply.facts import read_facts

        return read_facts(self.model, self.pair, self.method, expert=self.expert, revision=self.revision)

    def file_facts(self) -> FileFacts | None:
        """What plain files say, without torch or a tokenizer; None for a model that is not here yet."""
        folder = on_disk.model_folder(self.model, self.revision)
        if folder is None:
            return None
        return FileFacts(on_disk.context_length(folder), on_disk.mentions_tools(folder))

    def pair_length(self) -> int:
        """Positions that the pair's vectors take, from its files; 0 for a text pair and for one that is not here."""
        if self.pair is None:
            return 0
        if not isinstance(self.pair, (str, os.PathLike)):
            return int(self.pair.length)
        folder = on_disk.pair_folder(self.pair)
        return pair_files.pair_length(folder) if folder is not None else 0

    # -- identity ---------------------------------------------------------------------------------------------------

    @property
    def key(self) -> tuple[Any, ...]:
        """What specs that name the same share, within this process. Raises UsageError for a pair that is none."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found.update(pair=pair_key(self.pair), expert=expert_key(self.expert))
        found["policy"] = None if self.policy is None else repr(Policy.of(self.policy).key)
        found["options"] = None if self.options is None else repr(sorted(cast(dict[str, Any], self.options).items()))
        return tuple(found.values())

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, LMSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def identity(self, loaded: ContrastiveLM | None = None) -> dict[str, Any]:
        """What decides its replies, as JSON for keys that outlive the process: its settings, and digests of the files
        behind its names where that is cheap. Loads nothing and imports no torch unless `loaded` is given.

        The same before and after loading, unless somebody changes the loaded weights. loaded: the ContrastiveLM that
        was loaded by this spec; the files of its pair and expert count as they were then.
        """
        known: dict[str, Any] = {name: getattr(self, name) for name in _IN_IDENTITY}
        known.update({name: True for name in _IF_SET if getattr(self, name)})
        known["policy"] = None if self.policy is None else Policy.of(self.policy).key
        known["version"] = version()
        if (own := own_method_key(self.method_name)) is not None:
            known["own_method"] = own
        folder = on_disk.model_folder(self.model, self.revision)
        known["model_files"] = _state(self.model, folder)
        base = on_disk.adapter_base(folder) if folder is not None else None
        if base is not None:
            known["base_files"] = _state(base, on_disk.model_folder(base))
        if loaded is not None:
            from acd_core.identity import changed_weights

            if (weights := changed_weights(loaded.backbone, from_adapter=base is not None)) is not None:
                known["weights"] = weights
        return {**known, **self._artifacts(loaded)}

    def _artifacts(self, loaded: ContrastiveLM | None) -> dict[str, Any]:
        """What stands for the pair and the expert in `identity`."""
        known: dict[str, Any] = {}
        if self.pair is None or isinstance(self.pair, (str, os.PathLike)):
            known["pair"] = None if self.pair is None else str(self.pair)
            if self.pair is not None:
                # Of what answers: a folder that was written over since the pair was loaded is another pair.
                held = loaded.pair.digest if loaded is not None and loaded.pair is not None else None
                known["pair_files"] = held or pair_files.pair_digest(self.pair)
        else:
            known["pair"] = pair_key(self.pair)
        known["expert"] = expert_key(self.expert)
        if isinstance(self.expert, (str, os.PathLike)) and Path(self.expert).is_dir():
            held = loaded.expert.digest if loaded is not None and loaded.expert is not None else None
            known["expert_files"] = held or _expert_digest(self.expert)
        return known


_FIELDS = frozenset(field.name for field in fields(LMSpec))
_IF_SET = ("deterministic", "allow_adversarial")
_IN_IDENTITY = tuple(
    field.name for field in fields(LMSpec) if field.name not in {"pair", "expert", "policy", "options", *_IF_SET}
)
_pair_ids: dict[int, tuple[weakref.ref[Any], str]] = {}  # by identity: `==` on vectors compares elements


def option_fields(options: Any) -> dict[str, Any] | None:
    """EngineOptions, or a dict of their fields, as such a dict. Raises UsageError for anything else."""
    if options is None:
        return None
    if is_dataclass(options) and not isinstance(options, type):
        return asdict(options)
    if isinstance(options, Mapping):
        return dict(options)
    raise UsageError(f"options is {shown(options)}.", hint="EngineOptions(max_rows=32), or a dict of its fields.")


def pair_key(pair: Any) -> Any:
    """What stands for `pair` in a key; for one in memory the digest of its vectors, computed once. Raises UsageError
    for what is no pair."""
    if pair is None or isinstance(pair, (str, os.PathLike)):
        return str(pair)
    place = id(pair)
    known = _pair_ids.get(place)
    if known is None or known[0]() is not pair:
        found = getattr(pair, "id", None)
        if not isinstance(found, str):
            raise UsageError(f"pair is {shown(pair)}.", hint="Give a PromptPair, its folder, a hub id, or None.")
        known = _pair_ids[place] = (weakref.ref(pair, lambda _: _pair_ids.pop(place, None)), found)
    return known[1], pair.alpha, pair.plausibility, pair.contrast_tokens


def expert_key(expert: Any) -> str | None:
    """What stands for `expert` in a key; for one in memory the digest of its weights, which it computes once."""
    return None if expert is None else str(getattr(expert, "id", expert))


@functools.lru_cache(maxsize=1)
def version() -> str:
    """The installed version of this package, "unknown" where it is not installed."""
    try:
        return metadata.version("acd-integrations")
    except metadata.PackageNotFoundError:
        return "unknown"


def _expert_digest(folder: str | os.PathLike[str]) -> str | None:
    from acd_core.artifacts import learnt  # torch, not before it is needed

    return learnt.digest(folder)


def _state(name: str, folder: Path | None) -> str | None:
    """What the files of the model `name` are: a digest of names, sizes and times, since weights are too large to read
    for a key; of a hub download the commit it is named by."""
    if folder is None:
        return None
    local = name == on_disk.REFERENCE or Path(name).is_dir() or folder.is_file()
    return _listing_digest(folder) if local else folder.name


def _listing_digest(folder: Path) -> str:
    inside = [folder] if folder.is_file() else folder.rglob("*")  # a GGUF file is all there is of its model
    digest = hashlib.sha256()
    for path in sorted(path for path in inside if path.is_file() and path.suffix != ".md"):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]
