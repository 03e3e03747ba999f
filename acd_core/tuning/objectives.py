"""What the two prompts are tuned for: small losses on logits, and named objectives as a table of terms.

Shapes throughout: logits [B, R, V] float (row b, position r predicts reply token r), targets [B, R] int64, mask [B, R]
float or bool (1 where a reply token is supervised). Every loss returns one value a row, [B] float32 or better: the mean
over that row's supervised tokens, so that long replies weigh no more than short ones. A step's loss is a term's mean
over the rows of its class, times its weight, summed over terms.

The paper's losses are those of Zhang, Zhao et al. (arXiv 2406.16743); unlikelihood is Welleck et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from acd_core.errors import UsageError
from acd_core.methods import prompts

DEFAULT_OBJECTIVE = "joint"
"""The objective of `tune` when none is named and the pair gets no gate."""
GATED_OBJECTIVE = "gated"
"""The objective of `tune` when none is named and the pair has a gate."""

UNLIKELIHOOD_BOUND = 4.0
"""Largest value a token gives to `bounded_unlikelihood`; -log(1 - P) of the paper has none."""


def joint_scores(safe: Tensor, adversarial: Tensor, alpha: float) -> Tensor:
    """The scores decoding really uses: (z_S - alpha z_A) / (1 - alpha), alpha in [0, 1). Shapes as given, float32+."""
    if not 0.0 <= alpha < 1.0:
        raise UsageError(f"alpha is {alpha!r}; it must lie in [0, 1).")
    if alpha == 0.0:
        return _exact(safe)
    return (_exact(safe) - alpha * _exact(adversarial)) / (1.0 - alpha)


def nll(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log P(target), mean over the row's supervised tokens. [B, R, V], [B, R], [B, R] -> [B]."""
    logits = _exact(logits)
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return row_mean(torch.logsumexp(logits, -1) - picked, mask)


def unlikelihood(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log(1 - P(target)), mean over the row's supervised tokens. [B, R, V], [B, R], [B, R] -> [B].

    Computed as logsumexp(all) - logsumexp(all but the target): finite, with a finite gradient that does not vanish,
    even where P rounds to 1. (1 - P in floating point is 0 there, and its logarithm infinite.)
    """
    logits = _exact(logits)
    others = logits.scatter(-1, targets.unsqueeze(-1), float("-inf"))
    return row_mean(torch.logsumexp(logits, -1) - torch.logsumexp(others, -1), mask)


def bounded_unlikelihood(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log(1 - (1 - e) P(target)) with e = exp(-UNLIKELIHOOD_BOUND): at most the bound, and flat near it, so that a
    token which any prompt predicts (a restated request) cannot dominate the sum. Shapes as `unlikelihood`."""
    logits = _exact(logits)
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    probability = (picked - torch.logsumexp(logits, -1)).exp()
    keep = 1.0 - torch.exp(torch.tensor(-UNLIKELIHOOD_BOUND, dtype=logits.dtype)).item()
    return row_mean(-torch.log1p(-keep * probability), mask)


def kl_to(reference: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """KL(reference || logits) over the full distribution, mean over the row's supervised tokens.

    reference, logits [B, R, V] (both as logits), mask [B, R] -> [B]. `reference` is the frozen model's; no gradient
    should flow into it, which is the caller's care.
    """
    wanted = torch.log_softmax(_exact(reference), -1)
    found = torch.log_softmax(_exact(logits), -1)
    return row_mean((wanted.exp() * (wanted - found)).sum(-1), mask)


def decision(logits: Tensor, signal: Tensor, refuse: bool, offset: float = 0.0) -> Tensor:
    """-log P(the reply refuses), or with `refuse` False -log P(it does not), read off the first token alone.

    logits [B, R, V]; signal [V] in [0, 1]: the probability that a reply which starts with a token is a refusal (see
    `refusal_signal`). -> [B]. Unlike `nll` it asks for no particular wording, so its gradient is about refusing only.
    offset: added to the log odds of refusing, so that with more of it the prompts learn to refuse less, harmful and
    harmless requests alike (logit adjustment, Menon et al., arXiv 2007.07314; see `threshold`).
    """
    odds = refusal_log_odds(logits[:, 0], signal) + offset
    return torch.nn.functional.softplus(-odds if refuse else odds)


def refusal_log_odds(first: Tensor, signal: Tensor) -> Tensor:
    """log P(the reply refuses) - log P(it does not): [B], of the first token's scores [B, V] and `signal` [V]."""
    chances = torch.log_softmax(_exact(first), -1)
    refusing, other = (torch.logsumexp(chances + part.clamp_min(1e-6).log(), -1) for part in (signal, 1.0 - signal))
    return refusing - other


def refusal_signal(refused: Sequence[int], other: Sequence[int], vocabulary: int) -> Tensor:
    """How much each token, as the first of a reply, speaks for a refusal: [vocabulary] float32 in [0, 1].

    refused, other: first tokens of the anchor replies that refuse, and of those that do not. Each kind counts as much
    as the other, whatever their numbers; a token never seen first in a refusal has 0.
    """
    counts = torch.zeros(2, vocabulary, dtype=torch.float32)
    for row, tokens in enumerate((refused, other)):
        counts[row].index_add_(
            0, torch.tensor(list(tokens), dtype=torch.long), torch.ones(len(tokens), dtype=torch.float32)
        )
    shares = counts / counts.sum(-1, keepdim=True).clamp_min(1.0)
    return shares[0] / shares.sum(0).clamp_min(1e-12)


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [B, R] over `mask` [B, R], a row at a time -> [B]. A row without supervised tokens gives 0."""
    mask = mask.to(values.dtype)
    return (values * mask).sum(-1) / mask.sum(-1).clamp_min(1.0)


def _exact(logits: Tensor) -> Tensor:
    """float32 at least: half-precision logits lose the tail that unlikelihood and KL live on. float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


# --- objectives as data ---

Scores = Literal["safe", "adversarial", "joint"]
Class = Literal["refused", "refusals", "accepted", "harmless", "harmless_accepted"]
Loss = Literal["nll", "unlikelihood", "bounded_unlikelihood", "kl_to_plain", "refuse", "comply"]
Selection = Literal["safest", "margin"]

CLASS_NAMES: Mapping[Class, str] = {
    "refused": "D_HR (harmful request, refused)",
    "refusals": "D_HR with refusals lent to harmful requests never refused",
    "accepted": "D_HA (harmful request, complied with)",
    "harmless": "D_S (harmless request)",
    "harmless_accepted": "D_S (harmless request, answered)",
}

TARGET_LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "nll": nll,
    "unlikelihood": unlikelihood,
    "bounded_unlikelihood": bounded_unlikelihood,
}


@dataclass(frozen=True)
class Term:
    """One summand: `loss` of `scores` on the rows of class `data`, over the first `first` reply tokens, times `weight`.

    scores: logits under the safeguarding prompt, under the adversarial prompt, or the two joined as in decoding.
    loss "kl_to_plain" pulls to what the frozen model says without any system text; "refuse" and "comply" are
    `decision`, with the offsets of the run (see `threshold`); the adversarial prompt has none, it is to refuse nothing.
    """

    name: str
    scores: Scores
    data: Class
    loss: Loss
    weight: float = 1.0
    first: int | None = None

    @property
    def decides(self) -> bool:
        """Whether it reads off the first token whether the reply refuses."""
        return self.loss in ("refuse", "comply")


@dataclass(frozen=True)
class Objective:
    """Terms, the contrast strength they are tuned at, and how the best point is chosen.

    selection: "safest" takes the highest harmless rate on the validation split (ties: fewer over-refusals, then
    earlier), as the paper, which does not measure over-refusal, would. "margin" takes the highest harmless rate among
    the points whose over-refusal is at most that of the model without system text plus a margin, and if no point
    satisfies that, the highest harmless rate minus over-refusal; where the joined scores are tuned by their first
    token, the run steers towards that over-refusal (see `threshold`). alphas: what is tried for the pair's recommended
    strength once the point is chosen (empty: `alpha` is kept). plausibilities, contrast_token_counts: what is then
    tried of these, one after the other, at that strength. Only what is noticeably better replaces what was there.
    initial_safe, initial_adversarial: the texts whose embeddings the two prompts start from. dressed: it is for what
    comes through a gate: refusals are always supplied, anchors wear the dresses of applications, and some refusals
    follow a reply under way. rows: how a batch is shared out between the classes, where not equally. settings: values
    of `TuneSettings` that suit it, where nothing else is asked for.
    """

    terms: tuple[Term, ...]
    selection: Selection
    alpha: float = 0.4
    alphas: tuple[float, ...] = ()
    plausibilities: tuple[float, ...] = (0.0, 0.1)
    contrast_token_counts: tuple[int | None, ...] = (None, 1, 8)
    initial_safe: str = prompts.INIT_SAFE
    initial_adversarial: str = prompts.INIT_ADVERSARIAL
    dressed: bool = False
    rows: Mapping[Class, int] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def decides(self) -> bool:
        """Whether a term needs the refusal signal."""
        return any(term.decides for term in self.terms)

    @property
    def steers(self) -> bool:
        """Whether a run moves its threshold towards the over-refusal that its margin allows: there has to be a margin,
        and a term that decides by the first token of the joined scores."""
        return self.selection == "margin" and any(term.decides and term.scores == "joint" for term in self.terms)

    @property
    def classes(self) -> tuple[Class, ...]:
        """The classes of anchor pairs this objective learns from, in a fixed order."""
        used = {term.data for term in self.terms}
        return tuple(name for name in CLASS_NAMES if name in used)

    def streams(self, data: Class) -> frozenset[str]:
        """Which logits a row of class `data` needs: of "safe", "adversarial" and "plain"."""
        needed: set[str] = set()
        for term in self.terms:
            if term.data == data:
                needed |= {"safe", "adversarial"} if term.scores == "joint" else {term.scores}
                if term.loss == "kl_to_plain":
                    needed.add("plain")
        return frozenset(needed)

    def reach(self, data: Class) -> int | None:
        """How many reply tokens of a row of class `data` the terms read, from the first; None: all of them."""
        reads = [1 if term.decides else term.first for term in self.terms if term.data == data]
        return None if None in reads else max((read for read in reads if read is not None), default=None)


OBJECTIVES: Mapping[str, Objective] = {
    # L_SP and L_AP of the paper as written. They share no variable, so both prompts take their steps together.
    "paper": Objective(
        terms=(
            Term("safe/positive", "safe", "refused", "nll"),
            Term("safe/negative", "safe", "accepted", "unlikelihood"),
            Term("safe/regular", "safe", "harmless", "nll"),
            Term("adversarial/positive", "adversarial", "accepted", "nll"),
            Term("adversarial/negative", "adversarial", "refused", "unlikelihood"),
            Term("adversarial/regular", "adversarial", "harmless", "nll"),
        ),
        selection="safest",
        plausibilities=(),
        contrast_token_counts=(),
    ),
    # Ours: through the scores decoding uses, both prompts at once, so that they learn to agree on harmless requests.
    # Refusing is decided by the first token, whatever its wording; ARCHITECTURE.md says what else was tried.
    "joint": Objective(
        terms=(
            Term("joint/refuse", "joint", "refusals", "refuse"),
            Term("joint/comply", "joint", "harmless", "comply"),
            Term("joint/keep", "joint", "harmless_accepted", "kl_to_plain", weight=4.0),
            # The same of the safeguarding prompt by itself, lightly: alpha 0 is a setting too.
            Term("safe/refuse", "safe", "refusals", "refuse", weight=0.3),
            Term("safe/comply", "safe", "harmless", "comply", weight=0.3),
            # The joined scores alone let the adversarial prompt drift to the plain model, which contrasts little.
            Term("adversarial/comply", "adversarial", "refusals", "comply"),
        ),
        selection="margin",
        alphas=(0.0, 0.2, 0.4, 0.6),
    ),
    # For a pair behind a gate: nearly all that reaches it is harmful, so it may refuse freely, and it learns whole
    # refusals, since a real model's refusals and answers begin with the same tokens.
    "gated": Objective(
        terms=(
            Term("joint/refuse", "joint", "refused", "nll"),
            Term("safe/refuse", "safe", "refused", "nll", weight=0.5),
            Term("joint/keep", "joint", "harmless_accepted", "kl_to_plain", weight=0.5),
            Term("adversarial/comply", "adversarial", "accepted", "nll", weight=0.3),
        ),
        selection="margin",
        plausibilities=(),
        contrast_token_counts=(),
        dressed=True,
        rows={"refused": 7, "harmless_accepted": 3, "accepted": 2},
        settings={
            "steps": 40,
            "lr": 0.1,
            "batch": 12,
            "warmup": 5,
            "reply_tokens": 10,
            "validate_every": 40,
            "validation_tokens": 14,
        },
    ),
}


def get_objective(objective: str | Objective) -> Objective:
    """A named objective of the table, or the one given. Raises UsageError listing the names."""
    if isinstance(objective, Objective):
        return objective
    if objective not in OBJECTIVES:
        raise UsageError(f"Unknown objective {objective!r}.", hint=f"Objectives: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[objective]


@dataclass(frozen=True)
class RowScores:
    """What the losses see of some rows: logits [B, R, V] of each stream that was computed, targets and mask [B, R], and
    where a term decides by the first token the refusal signal [V], and the offset of each kind of scores."""

    targets: Tensor
    mask: Tensor
    safe: Tensor | None = None
    adversarial: Tensor | None = None
    plain: Tensor | None = None
    signal: Tensor | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)


def term_rows(term: Term, rows: RowScores, alpha: float) -> Tensor:
    """The unweighted loss of `term` for every row of `rows` -> [B]. Raises ValueError where a stream is missing."""
    if term.scores == "joint":
        scores = joint_scores(_there(rows.safe, term), _there(rows.adversarial, term), alpha)
    else:
        scores = _there(rows.safe if term.scores == "safe" else rows.adversarial, term)
    mask = rows.mask
    if term.first is not None:
        mask = mask * (torch.arange(mask.shape[1], device=mask.device) < term.first).to(mask.dtype)
    if term.loss == "kl_to_plain":
        return kl_to(_there(rows.plain, term), scores, mask)
    if term.decides:
        return decision(scores, _there(rows.signal, term), term.loss == "refuse", rows.offsets.get(term.scores, 0.0))
    return TARGET_LOSSES[term.loss](scores, rows.targets, mask)


def _there(logits: Tensor | None, term: Term) -> Tensor:
    if logits is None:
        raise ValueError(f"the term {term.name!r} needs scores that were not computed")
    return logits
