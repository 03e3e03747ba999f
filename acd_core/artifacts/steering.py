"""Steering of a model's residual stream: what is learnt for SCANS and AlphaSteer, on disk and as an intervention.

    SCANS       h <- h + sigma strength v     (Cao et al., arXiv 2408.11491, section 3.3): v the refusal vector of a
                layer; sigma = +1 where the request reads as harmful, -1 where it does not
    AlphaSteer  h <- h + strength Delta h     (Sheng et al., arXiv 2506.07022, section 3): Delta = Delta~ P, P the
                projector on the null space of harmless activations, so that Delta h is about 0 for these

All targets of AlphaSteer's regression are one refusal vector r, so Delta = r w^T has rank one, and w and r are kept in
place of a matrix a layer: the same numbers in a thousandth of the room (`tuning/null_space.py` shows it).

Both ask the request once, while it is planned (`for_request`). SCANS reads sigma by one threshold off the transition of
the hidden states over an appended "Sure", and then adds from the end of the instruction on, in the reply too.
AlphaSteer, as its authors' code, reads Delta h at the last token of the prompt and adds that at every token of the
prompt, not in the reply. What is added is then fixed, so a row of a batch is what it is alone.

On disk: `steering.json` (kind, layers, strength, threshold, base model with fingerprint, figures, digests) and
`steering.safetensors`, as `learnt_folder.py` has it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from acd_core.artifacts.learnt_files import STEERING_MAIN
from acd_core.artifacts.learnt_folder import LearntFolder, check_numbers
from acd_core.errors import ExpertError
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import another_model
from acd_core.model.hidden_states import layer_count, layer_names
from acd_core.model.interventions import Change, Intervention, RequestRow

SteeringKind = Literal["scans", "alphasteer"]
MAIN, WEIGHTS = STEERING_MAIN, "steering.safetensors"
AGREEING = "Sure"
"""The compliant start over which SCANS reads the transition (section 3.2)."""
_MAKE = "Make one: acd train scans --model M --out my-steering (or alphasteer)"


@dataclass(frozen=True, eq=False)
class Steering:
    """What is added to the outputs of some decoder layers of one model.

    layers: numbers from 1. vectors: [layers, width], SCANS' v or AlphaSteer's r. strength: alpha (lambda), above 0.
    transitions: SCANS' reference d_harm, [read, width] of the layers `read`. threshold: a request whose mean cosine
    with it lies below is steered away from refusing. readers: AlphaSteer's w, [layers, width]. All float32 on the CPU.
    fingerprint: the model they were learnt on. metrics: what learning measured. digest: of the files it was loaded
    from; None for one in memory.
    """

    kind: SteeringKind
    layers: tuple[int, ...]
    vectors: Tensor
    strength: float
    read: tuple[int, ...] = ()
    transitions: Tensor | None = None
    threshold: float = 0.0
    readers: Tensor | None = None
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    digest: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong is not None:
            raise ExpertError(f"The steering has {wrong}.", hint=_MAKE)

    def _wrong(self) -> str | None:
        """What cannot be of it, in words."""
        if self.kind not in get_args(SteeringKind):
            return f"the kind {self.kind!r}, which is neither scans nor alphasteer"
        if not all(math.isfinite(each) for each in (self.strength, self.threshold)) or self.strength <= 0.0:
            return f"strength {self.strength!r} and threshold {self.threshold!r}; both must be numbers, the one above 0"
        scans = self.kind == "scans"
        if scans != (self.transitions is not None) or scans == (self.readers is not None):
            return f"not the tensors of {self.kind}"
        width = int(self.vectors.shape[-1])
        tensors = [("vectors", self.vectors, self.layers)]
        tensors.append(("transitions", cast(Tensor, self.transitions), self.read) if scans else
                       ("readers", cast(Tensor, self.readers), self.layers))  # fmt: skip
        for name, tensor, layers in tensors:
            if not layers or min(layers) < 1 or tuple(tensor.shape) != (len(layers), width):
                return f"{name} of shape {tuple(tensor.shape)} for the layers {list(layers)}"
            if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
                return f"{name} that are not finite float32"
        return None

    @lazy
    def id(self) -> str:
        """A hash of everything that decides what is added."""
        said = repr((self.kind, self.layers, self.strength, self.read, self.threshold))
        digest = hashlib.sha256(said.encode())
        for tensor in self._tensors().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, Tensor]:
        found = {"vectors": self.vectors, "transitions": self.transitions, "readers": self.readers}
        return {name: tensor.contiguous() for name, tensor in found.items() if tensor is not None}

    def check(self, backbone: Backbone) -> None:
        """Raise ExpertError unless it was learnt on `backbone` and can be computed with in its dtype."""
        hint = f"Make one for this model: acd train {self.kind} --model {backbone.model_id} --out my-steering"
        whose = f"The steering was made for {self.base_model!r}"
        wrong = another_model(self.fingerprint, self.base_model, backbone)
        if wrong is not None:
            raise ExpertError(f"The steering was {wrong}.", hint=hint)
        width = int(getattr(backbone.config, "hidden_size", 0) or backbone.embedding_width)
        deepest, count = max(*self.layers, *self.read, 1), layer_count(backbone.model)
        if int(self.vectors.shape[1]) != width or deepest > count:
            raise ExpertError(
                f"{whose}: its vectors are {int(self.vectors.shape[1])} wide and reach layer {deepest}, but "
                f"{backbone.model_id!r} is {width} wide and has {count} layers.",
                hint=hint,
            )
        largest = self.strength * float(self.vectors.abs().max())
        if not largest <= torch.finfo(backbone.dtype).max:
            raise ExpertError(
                f"What the steering adds reaches {largest:g}, beyond what "
                f"{str(backbone.dtype).removeprefix('torch.')} can hold.",
                hint="Load the model with dtype='float32'.",
            )
        layer_names(backbone.model, self.layers)

    # -- as an intervention -----------------------------------------------------------------------------------------

    def changes(self, model: Any) -> Mapping[str, Change]:
        """What the equation adds at every position, without a request to ask: sigma = +1, Delta h of each position."""

        def adding(at: int) -> Change:
            return lambda _, output: output + self.added(at, output).to(output)

        names = layer_names(model, self.layers)
        return {names[layer]: adding(at) for at, layer in enumerate(self.layers)}

    def added(self, at: int, states: Tensor) -> Tensor:
        """What is added to `states` [..., width] of the layer `layers[at]`: float32 [..., width] or [width]."""
        vector = self.strength * self.vectors[at].to(states.device)
        if self.readers is None:
            return vector
        return (states.float() @ self.readers[at].to(states.device))[..., None] * vector

    def for_request(self, backbone: Backbone, row: RequestRow) -> Intervention:
        """What is added to a row of one request. Runs one forward. Raises ExpertError where AlphaSteer's vector is not
        finite; a transition that is not finite counts as a harmful request's."""
        with torch.inference_mode():
            return self._signed(backbone, row) if self.kind == "scans" else self._read(backbone, row)

    def _signed(self, backbone: Backbone, row: RequestRow) -> AddedVectors:
        score = self.score(backbone, row)
        sign = -1 if score < self.threshold else 1
        vectors = dict(zip(self.layers, sign * self.strength * self.vectors))
        return AddedVectors.of(backbone, f"{self.id}:{sign:+d}:{row.start}", vectors, (row.start, None))

    def score(self, backbone: Backbone, row: RequestRow) -> float:
        """s_q of the request, in [-1, 1]; the larger, the more its transition is that of harmful ones."""
        assert self.transitions is not None
        ids = torch.tensor([[*row.asked, *row.agreeing]], device=backbone.device)
        found = backbone.forward(ids, layers=self.read, only_layers=True).states
        over = torch.stack([found[layer][0, row.asked_start] - found[layer][0, -1] for layer in self.read])
        return transition_score(over.float().cpu(), self.transitions)

    def _read(self, backbone: Backbone, row: RequestRow) -> AddedVectors:
        embeds, reading = row.embeds(), _LastToken(self)
        layers = (max(self.layers),)
        backbone.forward(embeds, layers=layers, only_layers=True, interventions=[(reading, None)])
        stacked = torch.stack([reading.found[layer] for layer in self.layers])
        if not bool(torch.isfinite(stacked).all()):
            raise ExpertError(
                "The hidden states of a request are not finite, so that nothing can be read of them for steering.",
                hint="Load the model with dtype='float32'.",
            )
        length, said = int(embeds.shape[1]), hashlib.sha256(stacked.numpy().tobytes()).hexdigest()[:16]
        return AddedVectors.of(backbone, f"{self.id}:{said}:{length}", reading.found, (0, length))

    # -- files ------------------------------------------------------------------------------------------------------

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """As `LearntFolder.save`."""
        document = {
            "kind": self.kind,
            "base_model": self.base_model,
            "layers": list(self.layers),
            "strength": self.strength,
            "read": list(self.read),
            "threshold": self.threshold,
        }
        return FOLDER.save(directory, self._tensors(), document, self.fingerprint, self.metrics)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Steering:
        """Read what was saved to a local folder. Raises ExpertError for a missing, damaged or unsuitable one."""
        saved = FOLDER.load(source)
        own, tensors = saved.own, saved.tensors
        if "vectors" not in tensors or set(tensors) - {"vectors", "transitions", "readers"}:
            raise ExpertError(f"{str(Path(source) / WEIGHTS)!r} holds {sorted(tensors)[:4]}.", hint=_MAKE)
        found = cls(
            cast(SteeringKind, own.get("kind")),  # checked with all else
            tuple(own["layers"]),
            tensors["vectors"].float(),
            float(own["strength"]),
            tuple(own["read"]),
            tensors["transitions"].float() if "transitions" in tensors else None,
            float(own["threshold"]),
            tensors["readers"].float() if "readers" in tensors else None,
            own.get("base_model"),
            saved.fingerprint,
            own.get("metrics") or {},
        )
        object.__setattr__(found, "digest", saved.digest)  # frozen, and of this very content only
        return found


@dataclass(frozen=True, eq=False)
class AddedVectors:
    """An intervention: vectors added to the outputs of modules, within a span of positions."""

    id: str
    vectors: Mapping[str, Tensor]
    span: tuple[int, int | None]
    _placed: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, backbone: Backbone, id: str, vectors: Mapping[int, Tensor], span: tuple[int, int | None]
    ) -> AddedVectors:
        """vectors: layer -> [width]."""
        names = layer_names(backbone.model, list(vectors))
        return cls(id, {names[layer]: vector.clone() for layer, vector in vectors.items()}, span)

    def check(self, backbone: Backbone) -> None:
        """Nothing: who made it knows its modules."""

    def changes(self, model: Any) -> Mapping[str, Change]:
        def adding(name: str) -> Change:
            return lambda _, output: output + self._vector(name, output)

        return {name: adding(name) for name in self.vectors}

    def _vector(self, name: str, output: Tensor) -> Tensor:
        key = (name, output.device, output.dtype)
        if key not in self._placed:
            self._placed[key] = self.vectors[name].to(output)
        return self._placed[key]


class _LastToken:
    """An intervention: what AlphaSteer reads at the last token of one prompt, added at every one of its tokens, so that
    deeper layers are read behind it, as in the authors' code."""

    id = ""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering
        self.found: dict[int, Tensor] = {}

    def check(self, backbone: Backbone) -> None:
        """Nothing: the steering was checked."""

    def changes(self, model: Any) -> Mapping[str, Change]:
        def adding(at: int, layer: int) -> Change:
            def add(_: Tensor, output: Tensor) -> Tensor:
                vector = self.steering.added(at, output[0, -1])
                self.found[layer] = vector.float().cpu()
                return output + vector.to(output)

            return add

        layers = self.steering.layers
        names = layer_names(model, layers)
        return {names[layer]: adding(at, layer) for at, layer in enumerate(layers)}


def transition_score(over: Tensor, reference: Tensor) -> float:
    """The mean over layers of cos(a_t, d_harm) (SCANS, arXiv 2408.11491, section 3.2). Both [layers, width] float32; a
    layer without a direction counts 0, as in the authors' code. NaN where `over` is not finite."""
    if not bool(torch.isfinite(over).all()):
        return math.nan
    return float(torch.nn.functional.cosine_similarity(over, reference, dim=-1).mean())


def _check_fields(own: Mapping[str, Any]) -> None:
    """What is steering's own in its document. Raises ExpertError."""
    for name in ("layers", "read"):
        if not isinstance(own.get(name), list) or not all(type(each) is int for each in own[name]):
            raise ExpertError(f"{MAIN} has the {name} {str(own.get(name))[:60]!r}, no numbers of layers.", hint=_MAKE)
    check_numbers(own, ("strength", "threshold"), MAIN, _MAKE)


FOLDER = LearntFolder(MAIN, WEIGHTS, "steering", _MAKE, _check_fields)
