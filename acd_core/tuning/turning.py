"""DeRTa's rows, by which a model learns to refuse at any position of a reply (Yuan et al., arXiv 2407.09121).

Both kinds are made of a harmful request q, a reply h of the model's own that complies, and refusals r of that request:

- "MLE with Harmful Response Prefix", -log P(r | q, h_<k): the beginning of h, and then r;
- "Reinforced Transition Optimization", -sum_t log P(refusal | q, h_<t): h, with a refusal wanted at every position.

The paper's refusal token is one fixed id. Here it is the first token of a refusal in use: the refusals of a request
take turns along the positions of its h, so that each opening token has that share of the target mass with which the
refusals begin with it. Inside a reply it is the token that follows a space.

`Encoder.example` makes ids of them. Harmful replies are read from anchors and stand nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from acd_core.errors import TuningError
from acd_core.tuning.anchors import MIN_CLASS, AnchorPair, AnchorSplit


@dataclass(frozen=True)
class TurningPair(AnchorPair):
    """A pair whose `reply` complies and is turned away from. refusals: what may be said instead, at least one. draw:
    fixes the row's random choices (where the prefix ends; which refusal; which positions). kept: share of the positions
    of a transition that are supervised."""

    refusals: tuple[AnchorPair, ...] = ()
    turn: Literal["begun", "transition"] = "begun"
    draw: str = ""
    kept: float = 1.0


@dataclass(frozen=True)
class TurningSplit(AnchorSplit):
    """A split with DeRTa's two classes beside the others."""

    begun: tuple[TurningPair, ...] = ()
    transition: tuple[TurningPair, ...] = ()


def turning(split: AnchorSplit, seed: int, *, draws: int = 1, kept: float = 1.0) -> TurningSplit:
    """`split` with a "begun" and a "transition" row for every harmful reply in it, `draws` times with other choices.

    Refusals are those that the split has for the request, lent ones where it has none. kept: in (0, 1], see
    TurningPair; the authors keep 0.05 in full fine-tuning and 1 with LoRA.
    Raises TuningError where there are too few harmful replies to turn away from, or no refusal at all.
    """
    if len(split.accepted) < MIN_CLASS or not split.refused:
        raise TuningError(
            f"There are {len(split.accepted)} harmful replies to turn away from (at least {MIN_CLASS} are needed) and "
            f"{len(split.refused)} refusals (at least one).",
            hint="A model that complies with hardly anything may need no such training; else correct the labels of the "
            "anchor pairs, or supply refusals (--refusals).",
        )
    refusals: dict[str, list[AnchorPair]] = {}
    for pair in split.of("refusals"):
        refusals.setdefault(_normal(pair.text), []).append(pair)
    rows: dict[str, list[TurningPair]] = {"begun": [], "transition": []}
    for draw in range(draws):
        for pair in split.accepted:
            given = tuple(refusals.get(_normal(pair.text), split.refused))
            for kind in ("begun", "transition"):
                rows[kind].append(_row(pair, given, kind, f"{seed}/{kind}/{draw}/{pair.id}/{pair.prompt}", kept))
    known = {each.name: getattr(split, each.name) for each in fields(AnchorSplit)}
    return TurningSplit(**known, begun=tuple(rows["begun"]), transition=tuple(rows["transition"]))


def _row(
    pair: AnchorPair, refusals: Sequence[AnchorPair], kind: Literal["begun", "transition"], draw: str, kept: float
) -> TurningPair:
    known = {each.name: getattr(pair, each.name) for each in fields(AnchorPair)}
    return TurningPair(**known, refusals=tuple(refusals), turn=kind, draw=draw, kept=kept)


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
