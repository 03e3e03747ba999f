"""A LoRA adapter as a trainable: an intervention on the rows of a step, the model left as it is.

PEFT could train one only inside the caller's model (it replaces modules, and which adapter acts is a state of them):
neither for some rows of a forward nor beside another thread's. So training is ours, and the files are PEFT's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.lora import Expert, linear_size, lora
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import Acting, Change
from acd_core.tuning.examples import Row
from acd_core.tuning.streams import Prefix, ReplyScores, reply_scores
from acd_core.tuning.trainable import Ids, ParameterGroup, no_gradient

TARGETS = (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("Wqkv",), ("c_attn",))
"""Last names of attention projections: the first group that the model has is adapted. SafeDecoding adapts q and v."""
ALL_TARGETS = (
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
    ("Wqkv", "out_proj", "fc1", "fc2"),
    ("c_attn", "c_proj", "c_fc"),
)
"""Last names of all projections of the layers, of a group as many as the model has. DeRTa adapts the first group."""

_NO_PREFIX = Prefix(0, (), ())


def targets_of(backbone: Backbone, groups: Sequence[Sequence[str]] | None = None) -> list[str]:
    """Names of the projections to adapt: those of the first of `groups` (None: TARGETS) whose first name the model has.
    Raises TuningError for a model that has none of them."""
    linear = [name for name, module in backbone.model.named_modules() if linear_size(module) is not None]
    for ends in TARGETS if groups is None else groups:
        found = [name for name in linear if name.rpartition(".")[2] in ends]
        if any(name.rpartition(".")[2] == ends[0] for name in found):
            return found
    last = sorted({name.rpartition(".")[2] for name in linear})
    raise TuningError(
        f"{backbone.model_id!r} ({backbone.model_type}) has no attention projection of a known name; the names of its "
        f"linear modules end in {', '.join(last[:12])}.",
        hint="Train a LoRA adapter with PEFT and give its folder as the expert.",
    )


class LoraAdapter:
    """Trainable matrices A [rank, inputs] and B [outputs, rank] of some linear modules, float32."""

    kind = "lora weight"
    streams = ("tuned", "plain")
    repeatable = False  # dropout draws anew, and a layer that runs again in the backward pass is no longer changed
    positions = 0

    def __init__(
        self, backbone: Backbone, modules: Sequence[str], *, rank: int, lora_alpha: float, dropout: float, seed: int
    ) -> None:
        """A uniform, B zero: the adapter starts as no change (Hu et al. 2021, section 4.1, drawn as PEFT does).
        dropout: on the adapters' inputs."""
        self.rank, self.lora_alpha, self.dropout = rank, lora_alpha, dropout
        self.generator = torch.Generator(device="cpu").manual_seed(seed)
        self.tensors: dict[str, Tensor] = {}
        self._modules = tuple(modules)
        known = dict(backbone.model.named_modules())
        for name in modules:
            size = linear_size(known[name])
            assert size is not None
            inputs, outputs = size
            device = known[name].weight.device
            drawn = torch.rand(rank, inputs, generator=self.generator, dtype=torch.float32)
            down = (2.0 * drawn - 1.0) / math.sqrt(inputs)
            up = torch.zeros(outputs, rank, dtype=torch.float32)
            self.tensors[f"{name}.A"] = down.to(device).requires_grad_(True)
            self.tensors[f"{name}.B"] = up.to(device).requires_grad_(True)

    @property
    def groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(tuple(self.tensors))]

    def forwards(
        self, view: Backbone, rows: Sequence[Row], streams: frozenset[str], *, learning: bool = True
    ) -> LoraForwards:
        """Nothing is run for all rows at once: requests stand behind no system text, each by itself."""
        return LoraForwards(self, view, learning)

    def change(self, module: str, x: Tensor, output: Tensor, *, learning: bool) -> Tensor:
        """The output of `module` under the adapter; x [rows, tokens, inputs]."""
        down, up = self.tensors[f"{module}.A"], self.tensors[f"{module}.B"]
        if learning and self.dropout:
            kept = torch.rand(x.shape, generator=self.generator, dtype=torch.float32) >= self.dropout
            x = x * (kept.to(x.device) / (1.0 - self.dropout)).to(x.dtype)
        scale = self.lora_alpha / self.rank
        return output + lora(x.to(down.device), down.to(x.dtype), up.to(x.dtype), scale).to(output)

    def intervention(self, *, learning: bool) -> AdapterInTraining:
        """What acts on the rows of a forward."""
        return AdapterInTraining(self._modules, functools.partial(self.change, learning=learning))

    def artifact(
        self, backbone: Backbone, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any], **settings: Any
    ) -> Expert:
        """An expert: the adapter of this model, on the CPU."""
        weights = {
            name: (tensors[f"{name}.A"].detach().cpu(), tensors[f"{name}.B"].detach().cpu()) for name in self._modules
        }
        return Expert(
            weights, self.rank, self.lora_alpha, False, backbone.model_id, backbone.fingerprint, metrics, **settings
        )


class LoraForwards:
    """Rows under the adapter (stream "tuned"), or under the model alone ("plain")."""

    def __init__(self, adapter: LoraAdapter, view: Backbone, learning: bool) -> None:
        self._view, self._learning = view, learning
        self._acting: list[Acting] = [(adapter.intervention(learning=learning), None)]
        self._names, self.sources = tuple(adapter.tensors), tuple(adapter.tensors.values())

    def scores(
        self, stream: str, rows: Sequence[Row], replies: Sequence[Ids], *, width: int, layers: Sequence[int]
    ) -> ReplyScores:
        """Those of the requests without system text; those of the model alone carry no gradient."""
        tuned = stream == "tuned"
        with torch.set_grad_enabled(tuned and torch.is_grad_enabled()):
            return reply_scores(
                self._view,
                _NO_PREFIX,
                [row.example.request.plain for row in rows],
                replies,
                width=width,
                fast=self._learning,
                interventions=self._acting if tuned else (),
                layers=layers,
            )

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """One of the shape of each matrix."""
        reached = {name: grad for name, grad in zip(self._names, found) if grad is not None}
        if len(reached) < len(self._names):
            raise no_gradient(self._view, LoraAdapter.kind)
        return reached


@dataclass(frozen=True)
class AdapterInTraining:
    """The intervention of an adapter that changes from step to step."""

    modules: tuple[str, ...]
    change: Callable[[str, Tensor, Tensor], Tensor]
    id: str = "in training"  # no cache outlives a forward here

    def check(self, backbone: Backbone) -> None:
        """Its modules are the model's own: they were chosen from them."""

    def changes(self, model: Any) -> Mapping[str, Change]:
        """`change(name, input, output)` at each of its modules."""
        return {name: functools.partial(self.change, name) for name in self.modules}
