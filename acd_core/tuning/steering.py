"""How a run moves the threshold between refusing and answering to the over-refusal that was asked for.

Weights cannot hold a limit on over-refusal: harmless anchors are soon answered with certainty, their losses vanish, and
no weight brings them back, while requests that the anchors do not resemble are still refused. What can be moved is the
log odds of refusing at which a loss calls a reply even: an offset added to them (logit adjustment, Menon et al., arXiv
2007.07314) shifts every request's odds by about as much the other way, whatever the anchors' losses are.

From the first point of the validation curve on the offsets move every few steps, as far as the log odds of the harmless
validation requests say that the threshold is too low or too high: one offset for the joined scores, and one for the
safeguarding prompt by itself, which would else drift anywhere while the joined scores stay at their threshold. So the
validation split sets two numbers, and no gradient sees it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

STEER_EVERY = 5
"""Least steps between moves: the prompts take some to follow."""

AIM = 0.9
"""How much of the allowance a run steers for: its points scatter, and those beyond the limit are lost."""

ALONE = 0.5
"""How much of it the safeguarding prompt may use up by itself. The rest is left to the contrast: with all of it gone
the adversarial prompt would have nothing to add, and alpha would change nothing."""

GAIN, MOST = 0.5, 2.5
"""How much of the way is gone at a time, and the largest move, in log odds: the prompts overshoot after larger ones."""

BOUND = 14.0
"""Largest offset. `refusal_log_odds` lies within 13.8 of even, so a larger one would say no more, and take moves to
come back from."""


def aim(share: float, requests: int) -> int:
    """How many refusals of `requests` a run steers for where `share` of them are allowed: at least one if one is."""
    limit = min(requests, int(share * requests + 1e-6))
    return max(min(1, limit), min(requests, int(AIM * share * requests + 1e-6)))


def threshold_for(log_odds: Sequence[float], count: int) -> float:
    """Return the log odds of refusing above which `count` of the requests lie; half a unit beyond where all or none do.

    The judge reads whole replies, so refusals need not begin at even odds: with the number of replies that it called
    refusals, this is where they do begin.
    """
    ranked = sorted(log_odds, reverse=True)
    if count <= 0:
        return ranked[0] + 0.5
    if count >= len(ranked):
        return ranked[-1] - 0.5
    return (ranked[count - 1] + ranked[count]) / 2.0


def shift(log_odds: Sequence[float], wanted: int, begins: float) -> float:
    """Return by how much refusing should become less likely (log odds) so that `wanted` of the requests are refused,
    where refusals begin at log odds `begins`: GAIN of the way, and at most MOST."""
    return max(-MOST, min(MOST, GAIN * (threshold_for(log_odds, wanted) - begins)))


def may_move_again(last: Mapping[str, float], step: int) -> bool:
    """Tell whether a move after `step` steps is far enough from the last one."""
    return step - last["step"] >= STEER_EVERY


def steer(
    last: Mapping[str, float],
    step: int,
    joint: Sequence[float],
    alone: Sequence[float],
    wanted: int,
    refused: int | None,
    *,
    only_less: bool = False,
) -> dict[str, float]:
    """Say after which step the offsets were last moved ("step"), where refusals begin ("begins"), and the offsets of
    the scores ("joint", "safe"). `last` is what this said before, or empty.

    joint, alone: log odds of refusing, a value a harmless request, of the joined scores and of the safeguarding prompt
    by itself. wanted: refusals that the joined scores are to have. refused: those that the judge counted with them,
    where it has just been asked; between such counts refusals are taken to begin where they did. only_less: refuse
    less, if anything. Log odds that are not finite move nothing.
    """
    if not all(map(math.isfinite, (*joint, *alone))):
        return dict(last)
    begins = [last["begins"]] if last else []
    if refused is not None:  # a few requests decide this, so half of what was known stays
        begins.append(threshold_for(joint, refused))
    start = sum(begins) / len(begins)
    if last and not may_move_again(last, step):
        return {**last, "begins": start}
    moves = {"joint": shift(joint, wanted, start), "safe": shift(alone, int(ALONE * wanted), start)}
    least = 0.0 if only_less else -MOST
    offsets = {name: last.get(name, 0.0) + max(least, move) for name, move in moves.items()}
    return {
        "step": float(step),
        "begins": start,
        **{name: max(-BOUND, min(BOUND, value)) for name, value in offsets.items()},
    }
