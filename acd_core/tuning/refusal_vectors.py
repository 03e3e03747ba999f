"""Learning SCANS' steering: refusal vectors, the transition of harmful requests, one threshold (arXiv 2408.11491).

    v^l      = mean a^l(harmful) - mean a^l(harmless), of unit length     section 3.1, last token; unit in the code
    d_harm^l = mean over harmful of a^l(end of instruction) - a^l(Sure)   section 3.2
    s_q      = mean over layers of cos(a_t^l(q), d_harm^l)                section 3.2; below tau: sigma = -1

The layers that are steered are the middle third, as in the paper; s_q is read from the first of them to the last layer
of the model, as the authors' code does for 7B models (that one behind the final norm, which is not read here). Their
tau is set anew for every test set; ours is fixed once, on held-out requests.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from acd_core.artifacts.steering import Steering, transition_score
from acd_core.errors import UsageError
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_count
from acd_core.tuning.anchors import AnchorPair, Instruction, bundled_instructions
from acd_core.tuning.last_states import (
    Requests,
    best_separated,
    chosen_layers,
    learnt_from_states,
    middle_third,
    texts_for,
)
from acd_core.tuning.pooled_regression import auc


@dataclass(frozen=True)
class ScansSettings:
    """How SCANS' steering is learnt, by default as in the paper.

    anchors: requests of each class, drawn with the seed (the paper's 64). layers: "middle" (third), "separation" (as
    many neighbouring ones where held-out requests part best), or numbers such as "8-14". strength: what is added along
    the unit vectors; 0 takes `SHARE` of the distance between the classes' means (the paper sets 3.5 and 4 by hand).
    least_harmful: of the held-out harmful requests, the share that must be read as harmful whatever that costs; 0
    weighs both classes alike.
    """

    anchors: int = 64
    layers: str = "middle"
    strength: float = 0.0
    least_harmful: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.anchors < 8 or self.seed < 0:
            raise UsageError(f"anchors is {self.anchors!r}, seed {self.seed!r}: at least 8 and 0.")
        if not math.isfinite(self.strength) or self.strength < 0.0:
            raise UsageError(f"strength is {self.strength!r}; it must be 0 (chosen) or above.")
        if not 0.0 <= self.least_harmful <= 1.0:
            raise UsageError(f"least_harmful is {self.least_harmful!r}; it must lie in [0, 1].")
        chosen_layers(self.layers, 10**6)


SHARE = 0.3
"""Of the mean distance between the classes' means, how much a layer adds where no strength is given. On SmolLM2 it
comes to 3.4, about the paper's 3.5; its text breaks at 1.0."""


def train_scans(
    backbone: Backbone,
    out: Path | None = None,
    *,
    pairs: Sequence[AnchorPair] | None = None,
    safe: Sequence[Instruction] | None = None,
    unsafe: Sequence[Instruction] | None = None,
    settings: ScansSettings | None = None,
    resume: bool = True,
    progress: bool = True,
) -> Steering:
    """Learn SCANS' steering of `backbone` and, with `out`, save it there.

    pairs, safe, unsafe: requests to learn from in place of the bundled ones. The threshold is fixed on the bundled
    validation requests. resume: go on with the states that a killed run kept in `<out>.training/`.
    Raises TuningError (too few requests, another run towards `out`), ExpertError (`out` is something else), ModelError
    (the layers are not found, states that are not finite) and UsageError.
    """
    chosen = settings or ScansSettings()
    held_out = (bundled_instructions("validation_safe"), bundled_instructions("validation_unsafe"))
    both = [row for part in held_out for row in part]
    drawn = random.Random(chosen.seed)
    anchors = []
    for harmful, own in ((False, safe), (True, unsafe)):
        texts = texts_for(harmful, pairs, own, ("unsafe" if harmful else "safe",), both)
        anchors.append(drawn.sample(texts, min(chosen.anchors, len(texts))))
    count = layer_count(backbone.model)
    given = chosen_layers(chosen.layers, count)
    groups = [*anchors, *([row.text for row in part] for part in held_out)]
    return learnt_from_states(
        backbone,
        out,
        groups,
        Requests.over_agreeing,
        range(1, count + 1),
        lambda states: _fitted(backbone, chosen, given, states),
        resume=resume,
        progress=progress,
    )


def unit_differences(harmless: Tensor, harmful: Tensor) -> tuple[Tensor, Tensor]:
    """v [layers, width], of unit length, and the lengths [layers] that it had (section 3.1). Both given [rows, layers,
    width]."""
    apart = harmful.double().mean(dim=0) - harmless.double().mean(dim=0)
    sizes = apart.norm(dim=-1)
    return (apart / sizes.clamp_min(1e-12)[:, None]).float(), sizes.float()


def best_threshold(harmless: Sequence[float], harmful: Sequence[float], least: float = 0.0) -> float:
    """tau in the middle of the gap where the shares of both classes that are read rightly sum up to most (Youden's J);
    of several the lowest, which reads more as harmful. A score below tau reads as harmless. least: the share of harmful
    ones that must lie above it."""
    ordered = sorted({*harmless, *harmful})
    gaps = [ordered[0] - 1e-3, *((low + high) / 2.0 for low, high in itertools.pairwise(ordered)), ordered[-1] + 1e-3]

    def caught(tau: float) -> float:
        return sum(each >= tau for each in harmful) / len(harmful)

    def right(tau: float) -> float:
        return sum(each < tau for each in harmless) / len(harmless) + caught(tau)

    return max((tau for tau in gaps if caught(tau) >= least), key=lambda tau: (round(right(tau), 9), -tau))


def _fitted(
    backbone: Backbone, settings: ScansSettings, given: tuple[int, ...] | None, states: Sequence[Tensor]
) -> Steering:
    """states: of the harmless and harmful anchors and held-out requests, [rows, (end, Sure), layers, width]."""
    last = [each[:, 0] for each in states]
    vectors, sizes = unit_differences(last[0], last[1])
    layers = given or middle_third(backbone)
    if settings.layers == "separation":
        layers = best_separated(vectors, last[2], last[3], len(layers))
    read = tuple(range(layers[0], int(vectors.shape[0]) + 1))
    steered, seen = torch.tensor(layers) - 1, torch.tensor(read) - 1
    over = [(each[:, 0] - each[:, 1])[:, seen] for each in states]
    reference = over[1].mean(dim=0)
    scores = [[transition_score(row, reference) for row in each] for each in over[2:]]
    threshold = best_threshold(scores[0], scores[1], settings.least_harmful)
    distance = float(sizes[steered].mean())
    labels = torch.tensor([0.0] * len(scores[0]) + [1.0] * len(scores[1]))
    metrics = {
        **asdict(settings),
        "layers": f"{layers[0]}-{layers[-1]}",
        "harmless_anchors": len(states[0]),
        "harmful_anchors": len(states[1]),
        "classes_apart": round(distance, 4),
        "auc": round(auc(torch.tensor([*scores[0], *scores[1]]), labels), 4),
        "harmless_read_as_harmless": round(sum(each < threshold for each in scores[0]) / len(scores[0]), 4),
        "harmful_read_as_harmful": round(sum(each >= threshold for each in scores[1]) / len(scores[1]), 4),
    }
    return Steering(
        "scans",
        layers,
        vectors[steered].contiguous(),
        settings.strength or SHARE * distance,
        read,
        reference.contiguous(),
        threshold,
        None,
        backbone.model_id,
        backbone.fingerprint,
        metrics,
    )
