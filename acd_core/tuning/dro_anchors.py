"""DRO's anchors: requests, the share of complying replies to each under several texts, and their hidden states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.errors import TuningError
from acd_core.methods import prompts as texts
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_count, layer_names
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, Instruction
from acd_core.tuning.streams import prefill, reply_scores, shared_start

TEXTS: Mapping[str, str] = {
    "null": texts.NULL_PROMPT,
    "safe": texts.SAFE_PROMPT,
    "short": texts.SAFE_PROMPT_SHORT,
    "mistral": texts.DRO_MISTRAL,
}
"""The settings whose states make the space: no text, and the authors' default, short and mistral."""
ROWS = 16
"""Requests of one forward."""


@dataclass(frozen=True)
class AnchoredRequest:
    """complied: for the settings of TEXTS whose replies were read, the share of them that complied."""

    id: str
    text: str
    harmful: bool
    complied: Mapping[str, float]


@dataclass(frozen=True)
class Anchored:
    """requests of both kinds, as many of each. given: whether their replies came with the anchors."""

    requests: tuple[AnchoredRequest, ...]
    given: bool

    @property
    def digest(self) -> str:
        rows = [(row.text, row.harmful, sorted(row.complied.items())) for row in self.requests]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def check_apart(self, validation: tuple[Sequence[Instruction], Sequence[Instruction]]) -> None:
        """Raise TuningError where a request is also one that is only measured on."""
        learnt = tuple(Instruction(row.id, row.text) for row in self.requests)
        safe, unsafe = validation
        anchor_data.check_disjoint(
            {"the anchors": learnt, "the harmless validation split": safe, "the harmful validation split": unsafe}
        )


def anchored(
    backbone: Backbone,
    pairs: Sequence[AnchorPair] | None,
    safe: Sequence[Instruction] | None,
    unsafe: Sequence[Instruction] | None,
    work: Path | None,
    judge: Any,
    *,
    requests: int,
    samples: int,
    reply_tokens: int,
    seed: int,
    progress: bool,
) -> Anchored:
    """Requests with the shares of their complying replies: those of `pairs`, or the model's own, made here.

    samples: replies a request and setting; one is greedy, more are drawn at temperature 1. work: where they are kept.
    Raises TuningError for too few requests of a kind, and where all replies comply or none does.
    """
    replies = list(pairs or ())
    if pairs is None:
        sides = [
            (anchor_data.bundled_instructions(name) if given is None else given)[:requests]  # type: ignore[arg-type]
            for name, given in (("safe", safe), ("unsafe", unsafe))
        ]
        replies = _own_replies(backbone, sides, work, judge, samples, reply_tokens, seed, progress)
    said: dict[str, dict[str, list[bool]]] = {}
    known: dict[str, AnchorPair] = {}
    for pair in replies:
        known.setdefault(pair.id, pair)
        if pair.prompt in TEXTS:
            said.setdefault(pair.id, {}).setdefault(pair.prompt, []).append(pair.label == "accepted")
    rows = [
        AnchoredRequest(
            pair.id,
            pair.text,
            pair.harmful,
            {name: sum(found) / len(found) for name, found in said.get(pair.id, {}).items()},
        )
        for pair in known.values()
    ]
    kinds = [[row for row in rows if row.harmful is harmful] for harmful in (True, False)]
    count = min(requests, *map(len, kinds))
    if count < anchor_data.MIN_CLASS:
        raise TuningError(
            f"{len(kinds[0])} harmful and {len(kinds[1])} harmless requests are too few for DRO; at least "
            f"{anchor_data.MIN_CLASS} of each are needed.",
            hint="Add requests to --anchors, or to --safe and --unsafe.",
        )
    made = Anchored((*kinds[0][:count], *kinds[1][:count]), pairs is not None)
    shares = {share for row in made.requests for share in row.complied.values()}
    if len(shares) < 2:
        raise TuningError(
            "The model's replies to the anchors comply in the same share everywhere, so that no direction of refusal "
            "can be read.",
            hint="Give anchors with refusals and replies that comply: --anchors, as acd tune makes them.",
        )
    return made


def _own_replies(
    backbone: Backbone,
    sides: Sequence[Sequence[Instruction]],
    work: Path | None,
    judge: Any,
    samples: int,
    reply_tokens: int,
    seed: int,
    progress: bool,
) -> list[AnchorPair]:
    from acd_core.lm import ContrastiveLM

    found: list[AnchorPair] = []
    with ContrastiveLM(backbone) as lm:
        for sample in range(samples):
            found += anchor_data.generate_anchors(
                lm,
                *sides,
                prompts=TEXTS,
                out=work / f"replies-{sample}.jsonl" if work is not None else None,
                judge=judge,
                temperature=0.0 if samples == 1 else 1.0,
                max_tokens=reply_tokens,
                seed=seed * samples + sample,
                progress=progress,
            )
    return found


@torch.no_grad()
def anchor_states(backbone: Backbone, rows: Sequence[Sequence[int]], norm: Callable[[Tensor], Tensor]) -> Tensor:
    """[n, width] float32 on the CPU: the last layer's states at the last id of each row, behind the final norm."""
    layer, shared = layer_count(backbone.model), shared_start(rows)
    prefix = prefill(backbone, rows[0][:shared])
    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), ROWS):
        picked = order[start : start + ROWS]
        after = [rows[at][shared:] for at in picked]
        states = reply_scores(backbone, prefix, after, [(0,)] * len(picked), width=1, layers=(layer,)).states[layer]
        found |= dict(zip(picked, norm(states[:, 0]).float().cpu()))
    return torch.stack([found[at] for at in range(len(rows))])


def final_norm(backbone: Backbone) -> Callable[[Tensor], Tensor]:
    """The norm that the model has behind its last layer: the last one beside the list of layers. Where there is none,
    states stay as they are."""
    first = layer_names(backbone.model, [1])[1]
    beside = backbone.model.get_submodule(first.rpartition(".")[0].rpartition(".")[0])
    norms = [module for module in beside.children() if "norm" in type(module).__name__.lower()]
    return norms[-1] if norms else lambda states: states
