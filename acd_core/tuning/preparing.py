"""What a run learns from: the model, its anchors by class, and the gate that a pair is tuned behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, AnchorSplit, Instruction
from acd_core.tuning.dresses import begun
from acd_core.tuning.objectives import Objective
from acd_core.tuning.refusals import refuses_little, supplied
from acd_core.tuning.turning import turning

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

Model = Union[str, Backbone, "ContrastiveLM"]
Pairs = Union[str, "os.PathLike[str]", Sequence[AnchorPair], None]
Instructions = Sequence[Instruction]
SHORT = 20
"""Words of a request that a pair learns from beside those it has replies to."""
REPLY_TOKENS = 24
"""Of a reply that a pair is to keep, or that is under way when it has to turn around."""


def split_for(
    pairs: Sequence[AnchorPair],
    plan: Objective,
    own: Sequence[str],
    seed: int,
    more: Instructions = (),
) -> AnchorSplit:
    """The anchors by class, as the objective wants them: refusals supplied where the model has hardly any of its own or
    the objective always takes clean ones, and some behind a reply under way. own: refusals to supply instead of ours.
    more: harmful requests that are to be refused as well, where refusals are supplied."""
    split = anchor_data.split_pairs(pairs)
    if own or plan.dressed or refuses_little(split):
        split = supplied(split, own, more)
    turned = turning(split, seed) if plan.turns else split
    if plan.dressed:
        said = {pair.id: pair.reply for pair in split.accepted}
        turned = replace(turned, refused=begun(split.refused, said, seed))
    anchor_data.check_split(turned, plan)
    return turned


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
    plan: Objective,
) -> tuple[AnchorPair, ...]:
    """The anchors given, or the model's own replies to the bundled instructions: under every manual prompt, or, for an
    objective whose refusals are supplied, to every second one without a prompt and as far as they are read."""
    if isinstance(anchors, (str, os.PathLike)):
        return anchor_data.load_pairs(anchors)
    if anchors is not None:
        return tuple(anchors)
    from acd_core.lm import ContrastiveLM

    asked: dict[str, Any] = {"judge": judge, "seed": seed, "progress": progress}
    if plan.dressed:
        safe, unsafe = (anchor_data.bundled_instructions(name)[::2] for name in ("safe", "unsafe"))
        null = {"null": anchor_data.MANUAL_PROMPTS["null"]}
        asked |= {"safe": safe, "unsafe": unsafe, "prompts": null, "max_tokens": REPLY_TOKENS}
    # Jobs of one kind must not find the other's.
    asked["out"] = work / ("replies.jsonl" if plan.dressed else "anchors.jsonl") if work is not None else None
    if lm is not None:
        return anchor_data.generate_anchors(lm, **asked)
    with ContrastiveLM(backbone) as own:
        return anchor_data.generate_anchors(own, **asked)


def more_harmful(pairs: Sequence[AnchorPair], held_out: Instructions) -> tuple[Instruction, ...]:
    """The short ones of the bundled harmful instructions (a step pays for every word) but for those among `pairs` and
    `held_out`."""
    known = {pair.id for pair in pairs}
    rows = (*anchor_data.bundled_instructions("unsafe"), *anchor_data.bundled_instructions("more_unsafe"))
    short = [row for row in rows if row.id not in known and len(row.text.split()) <= SHORT]
    return anchor_data.without(short, held_out)


def check_validation(pairs: Sequence[AnchorPair], safe: Instructions, unsafe: Instructions) -> None:
    if not safe or not unsafe:
        raise TuningError("The validation split needs harmless and harmful instructions, at least one of each.")
    learnt = tuple({pair.id: Instruction(pair.id, pair.text) for pair in pairs}.values())
    anchor_data.check_disjoint(
        {"the anchors": learnt, "the harmless validation split": safe, "the harmful validation split": unsafe}
    )
