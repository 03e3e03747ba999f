"""A LoRA adapter of a model, as SafeDecoding's expert is: on disk in PEFT's layout; an intervention on rows.

The user's model is never changed: (x A^T) B^T * scale is added to the output of its target modules, for the rows that
ask for it only (`model/interventions.py`).

On disk: `adapter_config.json` and `adapter_model.safetensors`, as `peft.PeftModel.from_pretrained` reads them, and
`expert.json` (format and library version, base model with fingerprint, training figures, digests of the two), which an
adapter from elsewhere lacks. Only safetensors and JSON are read. A version is replaced as a whole (`files.saving`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as as_safetensors

from acd_core.artifacts.learnt_folder import check_document
from acd_core.artifacts.lora_fusion import How, fused
from acd_core.artifacts.pair import library_version
from acd_core.errors import ExpertError
from acd_core.files.reading import as_object, as_tensors, read_bytes, reason_of
from acd_core.files.saving import (
    MixedError,
    check_folder,
    digest_of,
    digests,
    failing_as,
    has_version,
    read_folder,
    save_folder,
)
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import another_model, fields, read_fields
from acd_core.model.interventions import Change
from acd_core.model.on_disk import not_found

FORMAT_VERSION = 1
MAIN, CONFIG, WEIGHTS = "expert.json", "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_MAKE = "Make one: acd expert --model M --out my-expert"
_FUSE = "acd expert fuse A B --weights 0.7 0.3 --out C, for two adapters of one model"
# Settings of LoraConfig that change what the adapter computes, with the values under which it is plain LoRA.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none", None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
}


@dataclass(frozen=True, eq=False)
class Expert:
    """LoRA weights of some linear modules of one model.

    weights: module name -> (A [rank, inputs], B [outputs, rank]), float32 on the CPU. scale: lora_alpha / rank (over
    its root for rank-stabilised LoRA). fingerprint: the model they were trained on, None if the adapter does not say.
    metrics: what training measured. digest: of the files it was loaded from (`lora.digest`); None for one in memory.
    """

    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    rank: int
    lora_alpha: float
    rank_stabilised: bool = False
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = field(default=None, init=False, repr=False)
    _placed: dict[Any, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rank < 1 or not math.isfinite(self.lora_alpha):
            raise ExpertError(
                f"The expert has rank {self.rank!r} and lora_alpha {self.lora_alpha!r}; the one must be at least 1 and "
                "the other a finite number.",
                hint=_MAKE,
            )

    @property
    def scale(self) -> float:
        return self.lora_alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    @lazy
    def id(self) -> str:
        """A hash of the weights and the scale: what a cache key must hold."""
        digest = hashlib.sha256(repr(self.scale).encode())
        for name, pair in sorted(self.weights.items()):
            digest.update(name.encode())
            for tensor in pair:
                digest.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def of(cls, given: str | os.PathLike[str] | Expert | None, backbone: Backbone) -> Expert | None:
        """`given` itself, or the expert in the folder it names, checked for `backbone`; None for None."""
        if given is None:
            return None
        expert = given if isinstance(given, Expert) else cls.load(given)
        expert.check(backbone)
        return expert

    @classmethod
    def fused(cls, parts: Sequence[tuple[Expert, float]], how: How = "cat", rank: int | None = None) -> Expert:
        """Adapters of one model as one: sum_i w_i Delta_i, as PEFT's `add_weighted_adapter` combines them.

        parts: (adapter, weight), such as a task adapter and a safety adapter; a weight below 0 takes one away. how: see
        `lora_fusion`; "cat" is exact. rank: of "svd", at least 1; None: the largest of the parts'.
        Raises ExpertError for no parts, weights that are not finite, adapters of different models, modules that differ
        in size, and different ranks with "linear".
        """
        ranks, models = [part.rank for part, _ in parts], {part.fingerprint for part, _ in parts} - {None}
        if how not in ("cat", "svd", "linear"):
            raise ExpertError(f"Unknown fusion {how!r}.", hint="Fusions: cat (exact), svd, linear.")
        if not parts or not all(math.isfinite(weight) for _, weight in parts):
            raise ExpertError(f"Adapters cannot be fused by the weights {[weight for _, weight in parts]}.", hint=_FUSE)
        if len(models) > 1:
            made_for = ", ".join(repr(part.base_model) for part, _ in parts)
            raise ExpertError(f"The adapters were made for different models: {made_for}.", hint=_FUSE)
        sizes: dict[str, tuple[int, int]] = {}
        for name, (down, up) in ((name, pair) for part, _ in parts for name, pair in part.weights.items()):
            size = int(down.shape[1]), int(up.shape[0])
            if sizes.setdefault(name, size) != size:
                raise ExpertError(f"The adapters change {name!r} in sizes {sizes[name]} and {size}.", hint=_FUSE)
        if how == "linear" and len(set(ranks)) > 1:
            raise ExpertError(f"Adapters of the ranks {ranks} have no linear combination.", hint="Fuse by cat or svd.")
        if rank is not None and (how != "svd" or rank < 1):
            raise ExpertError(f"rank is {rank!r} with {how!r}; svd alone takes one, at least 1.", hint=_FUSE)
        wanted = {"cat": sum(ranks), "linear": ranks[0], "svd": rank or max(ranks)}[how]
        weights = fused([(part.weights, weight * part.scale) for part, weight in parts], how, wanted)
        made_of = [{"id": part.id, "weight": weight} for part, weight in parts]
        base = next((part.base_model for part, _ in parts if part.base_model), None)
        return cls(weights, wanted, float(wanted), False, base, models.pop() if models else None,
                   {"fused": how, "of": made_of})  # fmt: skip

    def check(self, backbone: Backbone) -> None:
        """Raise ExpertError unless these weights fit the modules of `backbone`, can be computed with in its dtype, and
        were trained on it if known."""
        hint = f"Make one for this model: acd expert --model {backbone.model_id} --out my-expert"
        wrong = another_model(self.fingerprint, self.base_model, backbone)
        if wrong is not None:
            raise ExpertError(f"The expert was {wrong}.", hint=hint)
        modules = dict(backbone.model.named_modules())
        for name, (down, up) in self.weights.items():
            found = linear_size(modules.get(name))
            if found is None:
                raise ExpertError(f"The model {backbone.model_id!r} has no linear module {name!r}.", hint=hint)
            if found != (int(down.shape[1]), int(up.shape[0])):
                raise ExpertError(
                    f"The expert changes {name!r} from {down.shape[1]} to {up.shape[0]} dimensions, but in "
                    f"{backbone.model_id!r} it maps {found[0]} to {found[1]}.",
                    hint=hint,
                )
            self._check_size(name, backbone.dtype)

    def _check_size(self, name: str, dtype: torch.dtype) -> None:
        """Raise ExpertError where an entry of the change scale * B A may not be a finite number of `dtype`.

        By a bound: no entry is larger than the scale times the longest row of B times the longest column of A.
        """
        down, up = self.weights[name]
        held = [tensor.to(dtype).double() for tensor in (down, up)]
        most = float(held[0].norm(dim=0).max() * held[1].norm(dim=1).max())
        bound = abs(self.scale) * most if most else 0.0
        if not bound <= torch.finfo(dtype).max or not abs(self.scale) <= torch.finfo(dtype).max:
            raise ExpertError(
                f"The expert's change of {name!r} reaches {bound:g} (lora_alpha {self.lora_alpha:g}, scale "
                f"{self.scale:g}), beyond what {str(dtype).removeprefix('torch.')} can hold.",
                hint="Correct lora_alpha in adapter_config.json, or load the model with dtype='float32'.",
            )

    def delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """(x A^T) B^T * scale of the module `name`, in the dtype and on the device of x [..., inputs]."""
        key = (name, x.device, x.dtype)
        placed = self._placed.get(key)
        if placed is None:
            down, up = self.weights[name]
            placed = self._placed[key] = (down.to(x.device, x.dtype), up.to(x.device, x.dtype))
        return lora(x, *placed, self.scale)

    def changes(self, model: Any) -> Mapping[str, Change]:
        """What becomes of its modules' output: x W^T + (x A^T) B^T * scale."""

        def adding(name: str) -> Change:
            return lambda x, output: output + self.delta(name, x).to(output.device, output.dtype)

        return {name: adding(name) for name in self.weights}

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the expert to `directory`, replacing one of ours that is there as a whole; other files there stay.

        A process killed at any moment leaves the old expert or the new one. Raises ExpertError where something else
        stands in the way, somebody else is saving there, or the disk does not take it; then the old expert is there.
        """
        target = Path(directory)
        files = self._files()
        with failing_as(ExpertError, f"The expert cannot be saved to {str(target)!r}", "an adapter of ours"):
            save_folder(target, MAIN, files, _names)
        return target

    def _files(self) -> dict[str, bytes]:
        """The whole content of a folder, made before anything on disk changes."""
        tensors = {}
        for name, (down, up) in self.weights.items():
            tensors[_PREFIX + name + _DOWN], tensors[_PREFIX + name + _UP] = down.contiguous(), up.contiguous()
        adapter = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "base_model_name_or_path": self.base_model,
            "r": self.rank,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.rank_stabilised,
            "bias": "none",
            "target_modules": sorted(self.weights),
        }
        files = {WEIGHTS: as_safetensors(tensors, metadata={"format": "pt"}), CONFIG: _json(adapter)}
        document = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            "base_model": self.base_model,
            **fields(self.fingerprint),
            "metrics": dict(self.metrics),
            "files": digests(files),
        }
        files[MAIN] = _json(document)
        _own_document(files[MAIN])  # what could not be read again is not written
        return files

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Expert:
        """Read an expert, or any plain LoRA adapter in PEFT's layout, from a local folder.

        Raises ExpertError for a missing, damaged or unsuitable one.
        """
        folder = Path(source)
        if not os.path.isdir(folder):
            raise not_found("expert", os.fspath(source))
        files, wrong = _read_files(folder)
        config = as_object(files[CONFIG], repr(str(folder / CONFIG)), ExpertError, _MAKE) if CONFIG in files else {}
        for name, plain in _PLAIN.items():
            if config.get(name, plain[-1]) not in plain:
                raise ExpertError(
                    f"The adapter {str(source)!r} has {name} {config[name]!r}; only plain LoRA can be an expert.",
                    hint=_MAKE,
                )
        own = _own_document(files[MAIN]) if MAIN in files else {}
        weights = _weights(files[WEIGHTS], folder / WEIGHTS) if WEIGHTS in files else {}
        rank, strength = config.get("r"), config.get("lora_alpha")
        if not isinstance(rank, int) or not isinstance(strength, (int, float)) or bool in (type(rank), type(strength)):
            raise ExpertError(f"adapter_config.json of {str(source)!r} has r {rank!r}, lora_alpha {strength!r}.")
        if any((down.shape[0], up.shape[1]) != (rank, rank) for down, up in weights.values()):
            raise ExpertError(
                f"The weights in {str(source)!r} are not of the rank {rank} its config gives.", hint=_MAKE
            )
        if wrong:  # told last: what is wrong with a part says more
            raise ExpertError(
                f"{wrong} in {str(source)!r} is not the one that its {MAIN} was saved with.",
                hint=f"Get the folder again from where it came; without {MAIN} it is read as anybody's adapter.",
            )
        base = own.get("base_model") or config.get("base_model_name_or_path")
        expert = cls(
            weights,
            rank,
            float(strength),
            bool(config.get("use_rslora")),
            base if isinstance(base, str) else None,
            read_fields(own, MAIN, ExpertError, _MAKE),
            own.get("metrics") or {},
        )
        object.__setattr__(expert, "digest", digest_of(files))  # frozen, and of this very content only
        return expert


def digest(source: str | os.PathLike[str]) -> str | None:
    """What stands for the expert saved in the folder `source` now: `Expert.digest` of one loaded from these files. None
    for what is no whole expert."""
    try:
        files, wrong = _read_files(Path(source))
    except ExpertError:
        return None
    return None if wrong else digest_of(files)


def check_target(target: Path) -> None:
    """Raise ExpertError unless an expert could be saved to the folder `target` now: before anything takes long."""
    with failing_as(ExpertError, f"An expert cannot be saved to {str(target)!r}", "an adapter of ours"):
        check_folder(target, MAIN, _names, (MAIN, CONFIG, WEIGHTS))


def linear_size(module: Any) -> tuple[int, int] | None:
    """(inputs, outputs) of a linear module (torch's, transformers' Conv1D, or a quantised one), else None."""
    if isinstance(getattr(module, "in_features", None), int) and isinstance(getattr(module, "out_features", None), int):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":
        return int(module.nx), int(module.nf)
    return None


def lora(x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    """(x A^T) B^T * scale (Hu et al. 2021, section 4.1). x [..., inputs], A [rank, inputs], B [outputs, rank]."""
    return torch.nn.functional.linear(torch.nn.functional.linear(x, down), up) * scale


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, default=str) + "\n").encode()


def _own_document(data: bytes) -> dict[str, Any]:
    """`expert.json`. Raises ExpertError for anything that is none."""
    own = as_object(data, MAIN, ExpertError, _MAKE)
    check_document(own, own.get("format_version", 1), MAIN, _MAKE, FORMAT_VERSION)
    return own


def _names(data: bytes) -> set[str]:
    """The files that were saved with `expert.json` (`data`). Raises ExpertError for one that is not ours."""
    try:
        own = as_object(data, MAIN, ExpertError)
    except ExpertError as error:
        own = {"why": error.message}
    if type(own.get("format_version")) is not int:
        raise ExpertError(
            f"The {MAIN} in the folder is not an expert's, and will not be overwritten: "
            f"{own.get('why', 'it gives no format_version').rstrip('.')}.",
            hint="Choose another folder, or remove that file first.",
        )
    return {MAIN, CONFIG, WEIGHTS}


def _parts(data: bytes) -> dict[str, str | None]:
    known = _own_document(data).get("files") or {}
    return {name: found if isinstance(found := known.get(name), str) else None for name in (WEIGHTS, CONFIG)}


def _read_files(folder: Path) -> tuple[dict[str, bytes], str]:
    """The files of an expert, all of one version, or those of anybody's adapter; and which one does not belong to the
    others ("" for none). Raises ExpertError."""
    try:
        if not has_version(folder, MAIN):
            foreign = {name: read_bytes(folder / name) for name in (CONFIG, WEIGHTS)}
            if not has_version(folder, MAIN):  # else one of ours was saved meanwhile
                return foreign, ""
        return read_folder(folder, MAIN, _parts), ""
    except MixedError as error:  # beside the right weights, another config is one that a person corrected
        return error.found, "" if error.wrong == CONFIG else error.wrong
    except FileNotFoundError as error:
        name = Path(str(error.filename)).name
        if name == CONFIG:
            raise ExpertError(f"{str(folder)!r} holds no {CONFIG}, so it is not an expert.", hint=_MAKE) from None
        raise ExpertError(f"{str(folder)!r} lacks {name}.", hint=_MAKE) from None
    except (OSError, ValueError) as error:
        raise ExpertError(f"The expert {str(folder)!r} cannot be read: {reason_of(error)}.", hint=_MAKE) from error


def _weights(data: bytes, path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    tensors = as_tensors(data, repr(str(path)), ExpertError, _MAKE).tensors
    names = {key.removeprefix(_PREFIX).removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)}
    odd = [key for key in tensors if key.removeprefix(_PREFIX).removesuffix(_DOWN).removesuffix(_UP) not in names]
    named = all(key.startswith(_PREFIX) for key in tensors)
    if not names or odd or len(tensors) != 2 * len(names) or not named:
        raise ExpertError(f"{str(path)!r} does not hold pairs of LoRA matrices: {(odd or sorted(tensors))[:3]}.")
    weights = {}
    for name in sorted(names):
        pair = tuple(tensors[_PREFIX + name + end].float() for end in (_DOWN, _UP))
        if any(tensor.ndim != 2 or not bool(torch.isfinite(tensor).all()) for tensor in pair):
            raise ExpertError(f"The weights of {name!r} in {str(path)!r} are no finite matrices.", hint=_MAKE)
        weights[name] = (pair[0], pair[1])
    return weights
