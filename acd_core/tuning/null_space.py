"""Learning AlphaSteer's steering: a linear map that leaves harmless states and turns harmful ones to refusal.

Sheng et al., arXiv 2506.07022, section 3, and src/calc_steering_matrix.py of the authors' code. With the states h of
the last tokens of harmless prompts as rows of H_b and of harmful ones as rows of H_m:

    P       = Q Q^T, Q the share of the eigenvectors of H_b^T H_b with the smallest eigenvalues   utility preservation
    Delta~  = argmin ||H_m P Delta~^T - 1 r^T||^2 + gamma ||P Delta~^T||^2                        safety enhancement
    Delta   = Delta~ P,   h <- h + lambda Delta h

Every target is the same r, so the solution is Delta = r w^T with w = Q (Q^T H_m^T H_m Q + gamma I)^-1 Q^T H_m^T 1: a
vector that reads a state. It lies in the null space itself, where the matrices of the code come there by cancelling.
All of it in float64 on the CPU.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.steering import Steering
from acd_core.errors import UsageError
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_count
from acd_core.tuning.anchors import AnchorPair, Instruction, bundled_instructions
from acd_core.tuning.last_states import Requests, chosen_layers, learnt_from_states, middle_third, texts_for
from acd_core.tuning.progress import Bar
from acd_core.tuning.settings import check_above_zero


@dataclass(frozen=True)
class AlphaSteerSettings:
    """How AlphaSteer's steering is learnt, by default as in the authors' code.

    share: of all directions, how many count as the null space (their 0.3 to 0.6 by layer). ridge: gamma. strength:
    lambda (theirs is 0.1 to 0.5, by model). layers: "middle" (third) or numbers such as "8-14". harmless, harmful: how
    many requests are read at most, drawn with the seed.
    """

    share: float = 0.6
    ridge: float = 10.0
    strength: float = 0.5
    layers: str = "middle"
    harmless: int = 2000
    harmful: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(f"share is {self.share!r}; it must lie between 0 and 1.")
        check_above_zero(self, "ridge", "strength")
        if min(self.harmless, self.harmful) < 8 or self.seed < 0:
            raise UsageError(f"harmless is {self.harmless!r}, harmful {self.harmful!r}, seed {self.seed!r}: 8, 8, 0.")
        if self.layers == "separation":
            raise UsageError("layers is 'separation'.", hint="middle, or numbers such as 8-14.")
        chosen_layers(self.layers, 10**6)


def train_alphasteer(
    backbone: Backbone,
    out: Path | None = None,
    *,
    pairs: Sequence[AnchorPair] | None = None,
    safe: Sequence[Instruction] | None = None,
    unsafe: Sequence[Instruction] | None = None,
    settings: AlphaSteerSettings | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Steering:
    """Learn AlphaSteer's steering of `backbone` and, with `out`, save it there. Arguments and errors are those of
    `refusal_vectors.train_scans`; the bundled validation requests only measure."""
    chosen = settings or AlphaSteerSettings()
    held_out = (bundled_instructions("validation_safe"), bundled_instructions("validation_unsafe"))
    both = [row for part in held_out for row in part]
    drawn = random.Random(chosen.seed)
    learnt = []
    for harmful, own, most in ((False, safe, chosen.harmless), (True, unsafe, chosen.harmful)):
        texts = texts_for(harmful, pairs, own, ("unsafe", "more_unsafe") if harmful else ("safe", "more_safe"), both)
        learnt.append(drawn.sample(texts, min(most, len(texts))))
    layers = chosen_layers(chosen.layers, layer_count(backbone.model)) or middle_third(backbone)
    groups = [*learnt, *([row.text for row in part] for part in held_out)]
    return learnt_from_states(
        backbone,
        out,
        groups,
        Requests.at_last_token,
        layers,
        lambda states: _fitted(backbone, chosen, layers, [each[:, 0] for each in states], progress),
        resume=resume,
        progress=progress,
    )


def null_space(harmless: Tensor, share: float) -> Tensor:
    """Q [width, k] float64, orthonormal: the `share` of all directions along which `harmless` [rows, width] reaches
    least; at least one."""
    states = harmless.double()
    directions: Tensor = torch.linalg.eigh(states.T @ states)[1]  # eigenvalues ascend
    return directions[:, : max(1, int(states.shape[1] * share))]


def reader(harmful: Tensor, basis: Tensor, ridge: float) -> Tensor:
    """w [width] float64, within `basis` [width, k]: w . h is about 1 for the rows of `harmful` [rows, width] (ridge
    regression, arXiv 2506.07022, the closed form of section 3)."""
    inside = harmful.double() @ basis
    gram = inside.T @ inside + ridge * torch.eye(basis.shape[1], dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(gram, inside.sum(dim=0))
    return basis @ solved


def _fitted(
    backbone: Backbone,
    settings: AlphaSteerSettings,
    layers: tuple[int, ...],
    states: Sequence[Tensor],
    progress: bool,
) -> Steering:
    """states: of harmless and harmful requests to learn from and held out, [rows, layers, width]."""
    harmless, harmful = states[0], states[1]
    vectors = harmful.double().mean(dim=0) - harmless.double().mean(dim=0)
    readers = []
    with Bar("Solving layers", len(layers), shown=progress) as bar:
        for at in range(len(layers)):
            readers.append(reader(harmful[:, at], null_space(harmless[:, at], settings.share), settings.ridge))
            bar.advance()
    made = Steering(
        "alphasteer",
        layers,
        vectors.float().contiguous(),
        settings.strength,
        readers=torch.stack(readers).float().contiguous(),
        base_model=backbone.model_id,
        fingerprint=backbone.fingerprint,
    )
    metrics: dict[str, Any] = {
        **asdict(settings),
        "layers": f"{layers[0]}-{layers[-1]}",
        "harmless": len(harmless),
        "harmful": len(harmful),
    }
    for name, group in zip(("harmless", "harmful", "held_out_harmless", "held_out_harmful"), states):
        read = torch.einsum("rlw,lw->rl", group, made.readers)
        metrics[f"{name}_read"] = round(float(read.mean()), 4)  # 1: all of r is added, 0: nothing
    return Steering(
        made.kind, layers, made.vectors, made.strength, readers=made.readers, base_model=made.base_model,
        fingerprint=made.fingerprint, metrics=metrics,
    )  # fmt: skip
