"""What a run learns from: the model, its anchors by class, and the gate that a pair is tuned behind."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from acd_core.backbone import Backbone
from acd_core.errors import TuningError
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, AnchorSplit, Instruction
from acd_core.tuning.dresses import dressed
from acd_core.tuning.objectives import Objective
from acd_core.tuning.refusals import refuses_little, supplied

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

Model = Union[str, Backbone, "ContrastiveLM"]
Pairs = Union[str, "os.PathLike[str]", Sequence[AnchorPair], None]
Instructions = Sequence[Instruction]


def split_for(pairs: Sequence[AnchorPair], plan: Objective, own: Sequence[str], seed: int) -> AnchorSplit:
    """The anchors by class, as the objective wants them: refusals supplied where the model has hardly any of its own or
    the objective always takes clean ones, and dressed. own: refusals to supply instead of ours."""
    split = anchor_data.split_pairs(pairs)
    if own or plan.dressed or refuses_little(split):
        split = supplied(split, own)
    if plan.dressed:
        begun = {pair.id: pair.reply for pair in split.accepted}
        split = AnchorSplit(
            dressed(split.refused, begun, seed),
            dressed(split.accepted, {}, seed),
            dressed(split.harmless, {}, seed),
            split.empty,
            split.repeated,
        )
    anchor_data.check_split(split, plan)
    return split


def opened(model: Model) -> tuple[Backbone, ContrastiveLM | None]:
    if isinstance(model, str):
        return Backbone.load(model), None
    if isinstance(model, Backbone):
        return model, None
    return model.backbone, model


def pairs_of(
    anchors: Pairs,
    lm: ContrastiveLM | None,
    backbone: Backbone,
    work: Path | None,
    judge: Any,
    seed: int,
    progress: bool,
    prompts: Mapping[str, str] = anchor_data.MANUAL_PROMPTS,
) -> tuple[AnchorPair, ...]:
    """The anchors given, or the model's own replies to the bundled instructions under `prompts`."""
    if isinstance(anchors, (str, os.PathLike)):
        return anchor_data.load_pairs(anchors)
    if anchors is not None:
        return tuple(anchors)
    from acd_core.lm import ContrastiveLM

    name = "anchors.jsonl" if len(prompts) > 1 else "replies.jsonl"  # jobs of one kind must not find the other's
    out = work / name if work is not None else None
    if lm is not None:
        return anchor_data.generate_anchors(lm, prompts=prompts, out=out, judge=judge, seed=seed, progress=progress)
    with ContrastiveLM(backbone) as own:
        return anchor_data.generate_anchors(own, prompts=prompts, out=out, judge=judge, seed=seed, progress=progress)


def check_validation(pairs: Sequence[AnchorPair], safe: Instructions, unsafe: Instructions) -> None:
    if not safe or not unsafe:
        raise TuningError("The validation split needs harmless and harmful instructions, at least one of each.")
    learnt = tuple({pair.id: Instruction(pair.id, pair.text) for pair in pairs}.values())
    anchor_data.check_disjoint(
        {"the anchors": learnt, "the harmless validation split": safe, "the harmful validation split": unsafe}
    )
