"""TSDI's bias: what a safe text adds to the logits whatever is asked, taken away again while decoding.

    z'(S, x, y_<t) = z(S, x, y_<t) - strength b       b [vocab], learnt by `tuning/refusal_bias.py`

Token-level Safety-Debiased Inference (Tran et al., arXiv 2502.02153). As an intervention it acts on the output layer of
its rows; rows beside it stay as they are.

On disk: `refusal_bias.json` (strength, base model with fingerprint, figures, digests) and `refusal_bias.safetensors`.
Only safetensors and JSON are read. A version is replaced as a whole (`files.saving`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as as_safetensors
from torch import Tensor

from acd_core.artifacts.learnt_files import BIAS_MAIN
from acd_core.artifacts.pair import library_version
from acd_core.errors import ExpertError
from acd_core.files.reading import as_object, as_tensors, reason_of
from acd_core.files.saving import MixedError, check_folder, digest_of, digests, failing_as, read_folder, save_folder
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import difference, fields, read_fields
from acd_core.model.interventions import Change
from acd_core.model.on_disk import not_found

FORMAT_VERSION = 1
MAIN, WEIGHTS = BIAS_MAIN, "refusal_bias.safetensors"
_MAKE = "Make one: acd train tsdi --model M --out my-bias"


@dataclass(frozen=True, eq=False)
class RefusalBias:
    """What is subtracted from the logits of one model under the safe text.

    bias: b [vocab], float32 on the CPU, of mean 0. strength: how much of it. fingerprint: the model it was learnt on.
    metrics: what learning measured. digest: of the files it was loaded from; None for one in memory.
    """

    bias: Tensor
    strength: float = 1.0
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = field(default=None, init=False, repr=False)
    kind: str = field(default="tsdi", init=False)
    _placed: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        finite = self.bias.dtype == torch.float32 and bool(torch.isfinite(self.bias).all())
        if self.bias.ndim != 1 or not len(self.bias.shape) or not finite:
            raise ExpertError(f"The bias {tuple(self.bias.shape)} is no vector of finite float32.", hint=_MAKE)
        if not math.isfinite(self.strength):
            raise ExpertError(f"The bias has strength {self.strength!r}, no number.", hint=_MAKE)

    @lazy
    def id(self) -> str:
        """A hash of everything that decides what is subtracted."""
        digest = hashlib.sha256(repr(("tsdi", self.strength)).encode())
        digest.update(self.bias.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, backbone: Backbone) -> None:
        """Raise ExpertError unless it was learnt on `backbone`, and what it does there is the equation: a model that
        caps or scales its logits behind the output layer would make something else of it. Runs two short forwards."""
        hint = f"Make one for this model: acd train tsdi --model {backbone.model_id} --out my-bias"
        known, whose = self.fingerprint, f"The bias was made for {self.base_model!r}"
        other = None if known is None else difference(known, backbone.fingerprint)
        if known is not None and other is not None:
            raise ExpertError(
                f"{whose} (fingerprint {known[:12]}), not for {backbone.model_id!r} (fingerprint "
                f"{backbone.fingerprint[:12]}): {other}.",
                hint=hint,
            )
        ids = torch.tensor([[0, 1]], device=backbone.device)
        with torch.inference_mode():
            plain = backbone.forward(ids, last=1).logits[0, -1].float().cpu()
            if plain.shape != self.bias.shape:
                raise ExpertError(
                    f"{whose}: it is of {len(self.bias)} tokens, the logits of {backbone.model_id!r} of {len(plain)}.",
                    hint=hint,
                )
            found = backbone.forward(ids, last=1, interventions=[(self, None)]).logits[0, -1].float().cpu()
        wanted = plain - self.strength * self.bias
        room = 4.0 * torch.finfo(backbone.dtype).eps * float(torch.cat([plain, wanted]).abs().max()) + 1e-5
        if not float((found - wanted).abs().max()) <= room:
            raise ExpertError(
                f"{backbone.model_id!r} ({backbone.model_type}) makes something else of its output layer's logits "
                "(a cap or a scale), so that a bias cannot be taken from them.",
                hint="Use another method for this model, such as self-cd.",
            )

    def changes(self, model: Any) -> Mapping[str, Change]:
        """The output layer's output less the bias."""

        def subtracting(_: Tensor, output: Tensor) -> Tensor:
            key = (output.device, output.dtype)
            if key not in self._placed:
                self._placed[key] = (self.strength * self.bias).to(output)
            return output - self._placed[key]

        return {output_layer(model): subtracting}

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write it to `directory`, replacing one that is there as a whole; other files there stay.

        A process killed at any moment leaves the old one or the new one. Raises ExpertError where something else stands
        in the way, somebody else is saving there, or the disk does not take it.
        """
        target = Path(directory)
        files = {WEIGHTS: as_safetensors({"bias": self.bias.contiguous()}, metadata={"format": "pt"})}
        document = {
            "format_version": FORMAT_VERSION,
            "library_version": library_version(),
            "kind": self.kind,
            "base_model": self.base_model,
            **fields(self.fingerprint),
            "strength": self.strength,
            "metrics": dict(self.metrics),
            "files": digests(files),
        }
        files[MAIN] = (json.dumps(document, indent=2, default=str) + "\n").encode()
        _document(files[MAIN])  # what could not be read again is not written
        with failing_as(ExpertError, f"The bias cannot be saved to {str(target)!r}", "a bias of ours"):
            save_folder(target, MAIN, files, _names)
        return target

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> RefusalBias:
        """Read what was saved to a local folder. Raises ExpertError for a missing, damaged or unsuitable one."""
        folder = Path(source)
        if not os.path.isdir(folder):
            raise not_found("expert", os.fspath(source))
        files = _read_files(folder)
        own = _document(files[MAIN])
        tensors = as_tensors(files[WEIGHTS], repr(str(folder / WEIGHTS)), ExpertError, _MAKE).tensors
        if set(tensors) != {"bias"}:
            raise ExpertError(f"{str(folder / WEIGHTS)!r} holds {sorted(tensors)[:4]}.", hint=_MAKE)
        found = cls(
            tensors["bias"].float(),
            float(own["strength"]),
            own.get("base_model"),
            read_fields(own, MAIN, ExpertError, _MAKE),
            own.get("metrics") or {},
        )
        object.__setattr__(found, "digest", digest_of(files))  # frozen, and of this very content only
        return found


def output_layer(model: Any) -> str:
    """The name of the module that gives the logits. Raises ExpertError for a model without one of its own."""
    layer = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if layer is not None and module is layer), None)
    if name is None:
        raise ExpertError(f"{type(model).__name__} has no output layer that a bias could be taken from.", hint=_MAKE)
    return str(name)


def digest(source: str | os.PathLike[str]) -> str | None:
    """What stands for the bias saved in the folder `source` now: `RefusalBias.digest` of one loaded from these files.
    None for what is not whole."""
    try:
        return digest_of(_read_files(Path(source)))
    except ExpertError:
        return None


def check_target(target: Path) -> None:
    """Raise ExpertError unless a bias could be saved to the folder `target` now: before anything takes long."""
    with failing_as(ExpertError, f"A bias cannot be saved to {str(target)!r}", "a bias of ours"):
        check_folder(target, MAIN, _names, (MAIN, WEIGHTS))


def _document(data: bytes) -> dict[str, Any]:
    """`refusal_bias.json`. Raises ExpertError for anything that is none."""
    own = as_object(data, MAIN, ExpertError, _MAKE)
    version = own.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ExpertError(
            f"{MAIN} has format version {version!r}; this library reads up to {FORMAT_VERSION}.",
            hint="pip install --upgrade acd-integrations",
        )
    if type(own.get("strength")) not in (int, float):
        raise ExpertError(f"{MAIN} has the strength {str(own.get('strength'))[:60]!r}, no number.", hint=_MAKE)
    for name, kind in (("base_model", str), ("fingerprint", str), ("metrics", dict), ("files", dict)):
        if not isinstance(own.get(name), (kind, type(None))):
            raise ExpertError(f"{MAIN} has the {name} {str(own[name])[:60]!r}, no {kind.__name__}.", hint=_MAKE)
    return own


def _names(data: bytes) -> set[str]:
    """The files that were saved with `refusal_bias.json` (`data`). Raises ExpertError for one that is not ours."""
    try:
        _document(data)
    except ExpertError as error:
        raise ExpertError(
            f"The {MAIN} in the folder is not ours, and will not be overwritten: {error.message}",
            hint="Choose another folder, or remove that file first.",
        ) from None
    return {MAIN, WEIGHTS}


def _parts(data: bytes) -> dict[str, str | None]:
    known: Any = (_document(data).get("files") or {}).get(WEIGHTS)
    return {WEIGHTS: known if isinstance(known, str) else None}


def _read_files(folder: Path) -> dict[str, bytes]:
    try:
        return read_folder(folder, MAIN, _parts)
    except MixedError as error:
        raise ExpertError(
            f"{error.wrong} in {str(folder)!r} is not the one that its {MAIN} was saved with.", hint=_MAKE
        ) from None
    except FileNotFoundError as error:
        raise ExpertError(f"{str(folder)!r} lacks {Path(str(error.filename)).name}.", hint=_MAKE) from None
    except (OSError, ValueError) as error:
        raise ExpertError(f"The bias {str(folder)!r} cannot be read: {reason_of(error)}.", hint=_MAKE) from error
