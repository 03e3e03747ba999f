"""A LoRA expert of a model: SafeDecoding's second stream, on disk in PEFT's layout, applied to some rows of a forward.

The user's model is never changed. While a forward runs whose rows ask for an expert, hooks on its target modules add
(x A^T) B^T * scale to the output of those rows; they act on the thread that asked only, and are gone afterwards.

On disk: `adapter_config.json` and `adapter_model.safetensors`, as `peft.PeftModel.from_pretrained` reads them, and
`expert.json` (format and library version, base model with fingerprint, training figures), which an adapter from
elsewhere lacks. Only safetensors and JSON are read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from acd_core.backbone import Backbone
from acd_core.errors import ExpertError
from acd_core.pair import library_version

FORMAT_VERSION = 1
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_MAKE = "Make one: acd expert --model M --out my-expert"
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
    metrics: what training measured.
    """

    weights: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    rank: int
    lora_alpha: float
    rank_stabilised: bool = False
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    _placed: dict[Any, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, init=False, repr=False)

    @property
    def scale(self) -> float:
        return self.lora_alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)

    @cached_property
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

    def check(self, backbone: Backbone) -> None:
        """Raise ExpertError unless these weights fit the modules of `backbone`, and were trained on it if known."""
        hint = f"Make one for this model: acd expert --model {backbone.model_id} --out my-expert"
        if self.fingerprint is not None and self.fingerprint != backbone.fingerprint:
            raise ExpertError(
                f"The expert was made for {self.base_model!r} (fingerprint {self.fingerprint[:12]}), not for "
                f"{backbone.model_id!r} (fingerprint {backbone.fingerprint[:12]}).",
                hint=hint,
            )
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

    def delta(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """(x A^T) B^T * scale of the module `name`, in the dtype and on the device of x [..., inputs]."""
        key = (name, x.device, x.dtype)
        placed = self._placed.get(key)
        if placed is None:
            down, up = self.weights[name]
            placed = self._placed[key] = (down.to(x.device, x.dtype), up.to(x.device, x.dtype))
        return lora(x, *placed, self.scale)

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the expert to `directory`, replacing an adapter that is there; another kind of folder is refused.

        Everything is written beside and renamed at the end, so a killed process leaves the old expert or the new one.
        """
        target = Path(directory)
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        outer = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            fresh = outer / "new"
            fresh.mkdir()
            self._write(fresh)
            if target.exists():
                os.rename(target, outer / "old")
            os.rename(fresh, target)
        finally:
            if (outer / "old").exists() and not target.exists():
                os.rename(outer / "old", target)
            shutil.rmtree(outer, ignore_errors=True)
        return target

    def _write(self, folder: Path) -> None:
        tensors = {}
        for name, (down, up) in self.weights.items():
            tensors[_PREFIX + name + _DOWN], tensors[_PREFIX + name + _UP] = down.contiguous(), up.contiguous()
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
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
        document = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            "base_model": self.base_model,
            "fingerprint": self.fingerprint,
            "metrics": dict(self.metrics),
        }
        (folder / "adapter_config.json").write_text(json.dumps(adapter, indent=2) + "\n")
        (folder / "expert.json").write_text(json.dumps(document, indent=2, default=str) + "\n")

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Expert:
        """Read an expert, or any plain LoRA adapter in PEFT's layout, from a local folder.

        Raises ExpertError for a missing, damaged or unsuitable one.
        """
        folder = Path(source)
        if not folder.is_dir():
            raise ExpertError(f"There is no expert at {str(source)!r}.", hint=_MAKE)
        config = _read_json(folder / "adapter_config.json")
        for name, plain in _PLAIN.items():
            if config.get(name, plain[-1]) not in plain:
                raise ExpertError(
                    f"The adapter {str(source)!r} has {name} {config[name]!r}; only plain LoRA can be an expert.",
                    hint=_MAKE,
                )
        own = _read_json(folder / "expert.json") if (folder / "expert.json").exists() else {}
        if not isinstance(own.get("format_version", 1), int) or own.get("format_version", 1) > FORMAT_VERSION:
            raise ExpertError(
                f"{str(source)!r} has format version {own['format_version']!r}; this library reads up to "
                f"{FORMAT_VERSION}.",
                hint="pip install --upgrade acd-integrations",
            )
        weights = _read_weights(folder / "adapter_model.safetensors")
        rank, strength = config.get("r"), config.get("lora_alpha")
        if not isinstance(rank, int) or not isinstance(strength, (int, float)):
            raise ExpertError(f"adapter_config.json of {str(source)!r} has r {rank!r}, lora_alpha {strength!r}.")
        if any((down.shape[0], up.shape[1]) != (rank, rank) for down, up in weights.values()):
            raise ExpertError(
                f"The weights in {str(source)!r} are not of the rank {rank} its config gives.", hint=_MAKE
            )
        return cls(
            weights,
            rank,
            float(strength),
            bool(config.get("use_rslora")),
            own.get("base_model") or config.get("base_model_name_or_path"),
            own.get("fingerprint"),
            own.get("metrics") or {},
        )


def check_target(target: Path) -> None:
    """Raise ExpertError if something other than an adapter or an empty folder stands where one is to be written."""
    if target.is_dir() and ((target / "adapter_config.json").is_file() or not any(target.iterdir())):
        return
    if target.exists():
        raise ExpertError(
            f"{str(target)!r} exists and is not an adapter; it will not be overwritten.",
            hint="Choose another --out folder.",
        )


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


@contextmanager
def applied(model: Any, experts: Sequence[Expert | None]) -> Iterator[bool]:
    """Within, row i of the first dimension of this thread's forwards of `model` runs under experts[i].

    None is the model alone. Gives whether any row has an expert. Other threads may use the model meanwhile.
    """
    rows: dict[int, list[int]] = {}
    for index, expert in enumerate(experts):
        if expert is not None:
            rows.setdefault(id(expert), []).append(index)
    if not rows:
        yield False
        return
    groups = [(expert, indices) for indices in rows.values() if (expert := experts[indices[0]]) is not None]

    def change(name: str, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        for expert, indices in groups:
            if name in expert.weights:
                at = torch.tensor(indices, device=output.device)
                delta = expert.delta(name, x[at.to(x.device)])
                output = output.index_add(0, at, delta.to(output.device, output.dtype))
        return output

    with changed(model, {name for expert, _ in groups for name in expert.weights}, change):
        yield True


@contextmanager
def changed(
    model: Any, names: set[str], change: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """Within, the output of each module of `names` is `change(name, input, output)`, on this thread only."""
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor | None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor | None:
            return change(name, inputs[0], output) if threading.get_ident() == thread else None

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            if name in names:
                handles.append(module.register_forward_hook(hook_for(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExpertError(f"{str(path.parent)!r} holds no {path.name}, so it is not an expert.", hint=_MAKE) from None
    except (OSError, ValueError) as error:
        raise ExpertError(f"{str(path)!r} cannot be read: {' '.join(str(error).split())[:160]}", hint=_MAKE) from error
    if not isinstance(document, dict):
        raise ExpertError(f"{str(path)!r} is a JSON {type(document).__name__}, not an object.", hint=_MAKE)
    return document


def _read_weights(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    try:
        tensors = load_file(str(path))
    except FileNotFoundError:
        raise ExpertError(f"{str(path.parent)!r} lacks {path.name}.", hint=_MAKE) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ExpertError(f"{str(path)!r} is damaged: {' '.join(str(error).split())[:160]}", hint=_MAKE) from error
    names = {key.removeprefix(_PREFIX).removesuffix(_DOWN) for key in tensors if key.endswith(_DOWN)}
    odd = [key for key in tensors if key.removeprefix(_PREFIX).removesuffix(_DOWN).removesuffix(_UP) not in names]
    if not names or odd or len(tensors) != 2 * len(names):
        raise ExpertError(f"{str(path)!r} does not hold pairs of LoRA matrices: {(odd or sorted(tensors))[:3]}.")
    weights = {}
    for name in sorted(names):
        pair = tuple(tensors[_PREFIX + name + end].float() for end in (_DOWN, _UP))
        if any(tensor.ndim != 2 or not bool(torch.isfinite(tensor).all()) for tensor in pair):
            raise ExpertError(f"The weights of {name!r} in {str(path)!r} are no finite matrices.", hint=_MAKE)
        weights[name] = (pair[0], pair[1])
    return weights
