"""TSDI's bias: what a safe text adds to the logits whatever is asked, taken away again while decoding.

    z'(S, x, y_<t) = z(S, x, y_<t) - strength b       b [vocab], learnt by `tuning/refusal_bias.py`

Token-level Safety-Debiased Inference (Tran et al., arXiv 2502.02153). As an intervention it acts on the output layer of
its rows; rows beside it stay as they are.

On disk, as `learnt_folder.py` has it: `refusal_bias.json` (strength, base model with fingerprint, figures, digests) and
`refusal_bias.safetensors`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.learnt_files import BIAS_MAIN
from acd_core.artifacts.learnt_folder import LearntFolder, check_numbers
from acd_core.errors import ExpertError
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import another_model
from acd_core.model.interventions import Change

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
        whose = f"The bias was made for {self.base_model!r}"
        wrong = another_model(self.fingerprint, self.base_model, backbone)
        if wrong is not None:
            raise ExpertError(f"The bias was {wrong}.", hint=hint)
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
        """As `LearntFolder.save`."""
        document = {"kind": self.kind, "base_model": self.base_model, "strength": self.strength}
        return FOLDER.save(directory, {"bias": self.bias.contiguous()}, document, self.fingerprint, self.metrics)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> RefusalBias:
        """Read what was saved to a local folder. Raises ExpertError for a missing, damaged or unsuitable one."""
        saved = FOLDER.load(source)
        if set(saved.tensors) != {"bias"}:
            raise ExpertError(f"{str(Path(source) / WEIGHTS)!r} holds {sorted(saved.tensors)[:4]}.", hint=_MAKE)
        own, bias = saved.own, saved.tensors["bias"].float()
        found = cls(bias, float(own["strength"]), own.get("base_model"), saved.fingerprint, own.get("metrics") or {})
        object.__setattr__(found, "digest", saved.digest)  # frozen, and of this very content only
        return found


def output_layer(model: Any) -> str:
    """The name of the module that gives the logits. Raises ExpertError for a model without one of its own."""
    layer = model.get_output_embeddings()
    name = next((name for name, module in model.named_modules() if layer is not None and module is layer), None)
    if name is None:
        raise ExpertError(f"{type(model).__name__} has no output layer that a bias could be taken from.", hint=_MAKE)
    return str(name)


FOLDER = LearntFolder(MAIN, WEIGHTS, "a bias", _MAKE, lambda own: check_numbers(own, ("strength",), MAIN, _MAKE))
