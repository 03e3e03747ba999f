"""How streams' rows of logits become one. Pure functions on float32 scores [n, vocab]; masks come after.

-inf - alpha * (-inf) is NaN and a token masked only in the subtracted row would win with +inf, so whatever forbids
tokens from outside (grammar, plausibility, top-p) comes after a rule.

All rules have one signature and one strength alpha in [0, 1). At 0 the kept row is taken alone: the engine computes no
other row then, and where a single token has the strength 0 it asks no rule. Papers that write an unbounded factor are
served by a change of variable, stated at each rule.
torch itself is not imported: the table of methods must be cheap to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

from acd_core.errors import UsageError

if TYPE_CHECKING:
    import torch

Join = Callable[..., Any]
"""(kept [n, vocab], other [n, vocab], alpha [n, 1], rescale [n, 1] bool) -> scores [n, vocab], all float32."""


@dataclass(frozen=True)
class Rule:
    """How the kept stream and the mix of the others (`mixed`) become one row of scores.

    join: a function such as those of this file. narrows: whether it leaves a few tokens only. Where a grammar or the
    model's own config allows none of them, the kept stream alone decides; scores of other rules are masked as they are.
    most_streams: how many it can join, None for any number.
    """

    name: str
    join: Join
    narrows: bool = False
    most_streams: int | None = None

    def __call__(
        self, kept: torch.Tensor, other: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor
    ) -> torch.Tensor:
        scores: torch.Tensor = self.join(kept, other, alpha, rescale)
        return scores


@dataclass(frozen=True)
class Moment:
    """What is known when a token is to be chosen.

    alpha: the request's own. said: token ids of the reply so far; behind the thought that comes before a forced format
    they are counted anew. kept, others: logits [vocab] float32 of the streams.
    reading: what the request's gate read last, None without a gate.
    """

    alpha: float
    said: Sequence[int]
    kept: torch.Tensor
    others: Sequence[torch.Tensor]
    reading: float | None = None


@dataclass(frozen=True)
class Strength:
    """The alpha of each token.

    at: gives it, a number or a scalar tensor on the logits' device. least, most: the bounds that it is held to, in
    [0, 1); an operator's policy goes by them. id: stands for it in keys of kept replies, so another one for another
    `at`. A token of alpha 0 is the kept stream's own.
    """

    at: Callable[[Moment], Union[float, torch.Tensor]]
    least: float
    most: float
    id: str

    def __post_init__(self) -> None:
        if not 0.0 <= self.least <= self.most < 1.0 or not self.id:
            raise UsageError(
                f"The strength {self.id!r} has the bounds {self.least!r} and {self.most!r}.",
                hint="Give it an id, and bounds with 0 <= least <= most < 1.",
            )


AGREEMENT = 0.9
"""AdaCD's lambda."""
COMMON_TOKENS = 5
"""SafeDecoding's c."""
FLOOR = 1e-8
"""SafeDecoding's least probability of a common token."""
LEAST_REST = 2.0**-24
"""Least 1 - alpha that scores are divided by: an alpha within [0, 1) can be 1 once it is a float32."""


def contrast(kept: torch.Tensor, other: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    """ACD's rule, which is also ROSE's, Instructive Decoding's and Self-CD's: `kept - alpha * other`.

    rescale True divides by (1 - alpha), which leaves greedy decoding as it is and makes temperature honest where the
    branches agree. With alpha = 1 - 1/g the rescaled score is classifier-free guidance at scale g:
    g * kept - (g - 1) * other.

    Self-CD writes y - r * (y - y') with y under a safety prompt, y' without, r = 2.5. That is r * y' - (r - 1) * y:
    this rule, rescaled, with y' kept, y subtracted and r = 1 / (1 - alpha), so alpha = 0.6.
    Sources: arXiv 2406.16743, section 3.2; ROSE, arXiv 2402.11889, equation 2; Instructive Decoding, arXiv 2311.00233;
    Self-CD, arXiv 2401.17633.
    """
    return _rescaled(kept - alpha * other, alpha, rescale)


def adaptive(kept: torch.Tensor, other: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    """AdaCD: toward refusal where plain model and refusing prompt agree, away from it elsewhere.

    z is the plain row (kept), zp the row under "Please refuse to answer me!" (other), p and pp their probabilities:

        zp + r * (zp - z)   if 1 / (rank of argmax zp in z) >= lambda  and  max p >= lambda * max pp,   lambda = 0.9
        zp - r * (zp - z)   else,                                                                       r = 4.5

    Ranks count from 1. With r = 1 / (1 - alpha) (alpha = 1 - 1/4.5) the second is `contrast`, and the first is
    ((2 - alpha) * zp - z) / (1 - alpha). The paper's mask p >= 0.01 * max p is `plausible`, and its ten steps are the
    request's contrast_tokens.
    Source: arXiv 2604.17132, as the authors' code computes it; the paper's own formulas were not at hand.
    """
    best = other.argmax(dim=-1, keepdim=True)
    rank = 1 + (kept > kept.gather(-1, best)).sum(dim=-1, keepdim=True)
    certain = _largest_probability(kept) >= AGREEMENT * _largest_probability(other)
    refuses = (1.0 / rank >= AGREEMENT) & certain
    score = ((2.0 - alpha) * other - kept).where(refuses, kept - alpha * other)
    return _rescaled(score, alpha, rescale)


def intersect(kept: torch.Tensor, other: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    """SafeDecoding: probabilities moved from the model (p, kept) to its expert (p', other), over common tokens only.

        V = top-k(p) intersected with top-k(p'), for the smallest k that leaves at least c = 5 tokens
        P(x) = p(x) + a * (p'(x) - p(x)) for x in V, at least 1e-8;   P normalised over V

    Returns log P, -inf outside V. The authors' a = 3 is a = alpha / (1 - alpha) at alpha 0.75. `rescale` has no say:
    P is a distribution as it stands. The floor is that of the authors' code.
    Source: arXiv 2402.08983.
    """
    del rescale
    first, second = kept.softmax(dim=-1), other.softmax(dim=-1)
    strength = alpha / _rest(alpha)
    moved = (first + strength * (second - first)).clamp_min(FLOOR).log()
    return moved.masked_fill(~common(kept, other), -math.inf).log_softmax(dim=-1)


def common(kept: torch.Tensor, other: torch.Tensor, at_least: int = COMMON_TOKENS) -> torch.Tensor:
    """Bool [n, vocab]: the tokens in both rows' top k, for the smallest k that leaves `at_least` (or the vocabulary).

    A token is in both top-k sets from k = the worse of its two ranks on, so the k sought is the `at_least`-th smallest
    of those. Equal logits rank in order of their ids.
    """
    worse = _ranks(kept).maximum(_ranks(other))
    least = worse.topk(min(at_least, worse.shape[-1]), dim=-1, largest=False).values[..., -1:]
    return worse <= least


CONTRAST = Rule("contrast", contrast)
ADAPTIVE = Rule("adaptive", adaptive, most_streams=2)
INTERSECT = Rule("intersect", intersect, narrows=True, most_streams=2)
RULES: Mapping[str, Rule] = {rule.name: rule for rule in (CONTRAST, ADAPTIVE, INTERSECT)}
"""The rules by name."""


def mixed(others: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The streams that are not kept as one: the mean of their logits by `weights`, which need not add up to one.

    So that two contrasts kept - a * first - b * second are one of alpha = a + b over weights (a, b), and rescaling by
    1 - alpha leaves streams that agree as they are. One stream is itself, bit for bit.
    """
    if len(others) == 1:
        return others[0].float()
    total = sum(weights)
    mix = others[0].float() * (weights[0] / total)
    for weight, other in zip(weights[1:], others[1:]):
        mix = mix + other.float() * (weight / total)
    return mix


def plausible(kept: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Which tokens Contrastive Decoding's head keeps: p_kept >= beta * max p_kept (Li et al. 2023, equation 3).

    kept: [n, vocab] float32 logits, already masked by a grammar if there is one (so that the two never have an empty
    intersection). beta: [n, 1] in [0, 1); 0 keeps everything. Returns bool [n, vocab], never all False in a row.
    """
    best = kept.amax(dim=-1, keepdim=True)
    return (beta == 0) | (kept >= best + beta.clamp_min(1e-30).log())


def divergence(kept: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Total-variation distance in [0, 1] between the next-token distributions of the kept stream
    and of the mix of the others, per row: [n]."""
    return 0.5 * (kept.softmax(dim=-1) - other.softmax(dim=-1)).abs().sum(dim=-1)


def _rescaled(score: torch.Tensor, alpha: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    return (score / _rest(alpha)).where(rescale, score)


def _rest(alpha: torch.Tensor) -> torch.Tensor:
    return (1.0 - alpha).clamp_min(LEAST_REST)


def _largest_probability(logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(dim=-1).amax(dim=-1, keepdim=True)


def _ranks(logits: torch.Tensor) -> torch.Tensor:
    """Int64 [n, vocab]: each token's place, from 0, when the row is sorted downwards."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    return order.argsort(dim=-1)
