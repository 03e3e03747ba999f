"""What is trained for: objectives as tables of terms, a term being a loss (`losses.py`) on the scores of some rows.

A step's loss is a term's mean over the rows of its class, times its weight, summed over terms. Whatever is trained with
a table has to give the streams of scores that its terms name (see `Trainable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from acd_core.errors import UsageError
from acd_core.methods import prompts
from acd_core.tuning.losses import LOSSES, LossInput, joint_scores

DEFAULT_OBJECTIVE = "joint"
"""The objective of `tune` when none is named and the pair gets no gate."""
GATED_OBJECTIVE = "gated"
"""The objective of `tune` when none is named and the pair has a gate."""

Scores = Literal["safe", "adversarial", "joint", "tuned"]
Class = Literal["refused", "refusals", "accepted", "harmless", "harmless_accepted", "begun", "transition"]
Loss = str
"""A name in `losses.LOSSES`."""
Selection = Literal["safest", "margin"]

CLASS_NAMES: Mapping[Class, str] = {
    "refused": "D_HR (harmful request, refused)",
    "refusals": "D_HR with refusals lent to harmful requests never refused",
    "accepted": "D_HA (harmful request, complied with)",
    "harmless": "D_S (harmless request)",
    "harmless_accepted": "D_S (harmless request, answered)",
}
TURNING_CLASSES: Mapping[Class, str] = {
    "begun": "a refusal behind the beginning of a harmful reply",
    "transition": "a harmful reply, at every position of which a refusal is wanted",
}
"""DeRTa's two kinds of rows (arXiv 2407.09121), made of the others by `turning.py`."""


@dataclass(frozen=True)
class Term:
    """One summand: `loss` of `scores` on the rows of class `data`, over the first `first` reply tokens, times `weight`.

    scores: logits under the safeguarding prompt, under the adversarial prompt, or the two joined as in decoding; or
    "tuned" where one thing is trained, as an adapter. layers: the decoder layers (from 1) whose states the loss reads
    as well, of the same stream. loss "kl_to_plain" pulls to what the frozen model says without any system text;
    "refuse" and "comply" are `decision`, with the offsets of the run (see `steering.py`); the adversarial prompt has
    none, it is to refuse nothing.
    Raises UsageError for a loss that is not in the table, and for layers of joined scores, which have no states.
    """

    name: str
    scores: Scores
    data: Class
    loss: Loss
    weight: float = 1.0
    first: int | None = None
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UsageError(
                f"The term {self.name!r} has the unknown loss {self.loss!r}.", hint=f"Losses: {', '.join(LOSSES)}."
            )
        if self.layers and self.scores == "joint":
            raise UsageError(
                f"The term {self.name!r} reads the layers {self.layers} of joined scores, which have no states.",
                hint='Take the scores "safe" or "adversarial".',
            )

    @property
    def decides(self) -> bool:
        """Whether it reads off the first token whether the reply refuses."""
        return LOSSES[self.loss].decides

    @property
    def streams(self) -> frozenset[str]:
        """The streams of scores it reads; "plain" is the model alone."""
        scores = {"safe", "adversarial"} if self.scores == "joint" else {self.scores}
        return frozenset(scores | ({"plain"} if LOSSES[self.loss].needs_plain else set()))

    def document(self) -> dict[str, Any]:
        """As JSON, in histories and checkpoints."""
        found = asdict(self)
        layers = list(found.pop("layers"))
        return {**found, "layers": layers} if layers else found


@dataclass(frozen=True)
class TermTable:
    """Terms: all that the gradients of a step depend on. What is trained is named by none of them."""

    terms: tuple[Term, ...]

    @property
    def joined_at(self) -> float:
        """The contrast strength of joined scores; 0 where nothing is joined."""
        return 0.0

    @property
    def decides(self) -> bool:
        """Whether a term needs the refusal signal."""
        return any(term.decides for term in self.terms)

    @property
    def classes(self) -> tuple[Class, ...]:
        """The classes of anchor pairs this objective learns from, in a fixed order."""
        used = {term.data for term in self.terms}
        return tuple(name for name in (*CLASS_NAMES, *TURNING_CLASSES) if name in used)

    @property
    def turns(self) -> bool:
        """Whether it learns to turn around in the middle of a harmful reply."""
        return any(term.data in TURNING_CLASSES for term in self.terms)

    def streams(self, data: Class) -> frozenset[str]:
        """Which scores a row of class `data` needs, of those that are trained and "plain"."""
        return frozenset[str]().union(*(term.streams for term in self.terms if term.data == data))

    def layers(self, stream: str) -> tuple[int, ...]:
        """The decoder layers whose states are read of `stream`."""
        return tuple(sorted({layer for term in self.terms if stream in term.streams for layer in term.layers}))

    def reach(self, data: Class) -> int | None:
        """How many reply tokens of a row of class `data` the terms read, from the first; None: all of them."""
        reads = [1 if term.decides else term.first for term in self.terms if term.data == data]
        return None if None in reads else max((read for read in reads if read is not None), default=None)


@dataclass(frozen=True)
class Objective(TermTable):
    """Terms for a pair, the contrast strength they are tuned at, and how the best point is chosen.

    selection: "safest" takes the highest harmless rate on the validation split (ties: fewer over-refusals, then
    earlier), as the paper, which does not measure over-refusal, would. "margin" takes the highest harmless rate among
    the points whose over-refusal is at most that of the model without system text plus a margin, and if no point
    satisfies that, the highest harmless rate minus over-refusal; where the joined scores are tuned by their first
    token, the run steers towards that over-refusal (see `steering.py`). alphas: what is tried for the pair's
    recommended strength once the point is chosen (empty: `alpha` is kept). plausibilities, contrast_token_counts: what
    is then tried of these, one after the other, at that strength. Only what is noticeably better replaces what was
    there. initial_safe, initial_adversarial: the texts whose embeddings the two prompts start from. dressed: it is for
    what comes through a gate: refusals are always supplied, anchors wear the dresses of applications, and some refusals
    follow a reply under way. rows: how a batch is shared out between the classes, where not equally. settings: values
    of `TuneSettings` that suit it, where nothing else is asked for.
    """

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
    def joined_at(self) -> float:
        return self.alpha

    @property
    def steers(self) -> bool:
        """Whether a run moves its threshold towards the over-refusal that its margin allows: there has to be a margin,
        and a term that decides by the first token of the joined scores."""
        return self.selection == "margin" and any(term.decides and term.scores == "joint" for term in self.terms)


def _gated(*more: Term) -> Objective:
    """For a pair behind a gate: nearly all that reaches it is harmful, so it may refuse freely, and it learns whole
    refusals, since a real model's refusals and answers begin with the same tokens."""
    rows: dict[Class, int] = {"refused": 7, "harmless_accepted": 3, "accepted": 2, **{term.data: 3 for term in more}}
    return Objective(
        terms=(
            Term("joint/refuse", "joint", "refused", "nll"),
            Term("safe/refuse", "safe", "refused", "nll", weight=0.5),
            Term("joint/keep", "joint", "harmless_accepted", "kl_to_plain", weight=0.5),
            Term("adversarial/comply", "adversarial", "accepted", "nll", weight=0.3),
            *more,
        ),
        selection="margin",
        plausibilities=(),
        contrast_token_counts=(),
        dressed=True,
        rows=rows,
        settings={
            "steps": 40,
            "lr": 0.1,
            "batch": 12 + 3 * len(more),
            "warmup": 5,
            "reply_tokens": 10,
            "validate_every": 40,
            "validation_tokens": 14,
        },
    )


def _derta(scores: Literal["safe", "joint"], *turns: Literal["begun", "transition"]) -> Objective:
    """DeRTa's terms of the kinds of rows that `turns` names, on `scores`."""
    names = {"begun": "prefix", "transition": "transition"}
    return Objective(
        terms=(
            *(Term(f"{scores}/{names[kind]}", scores, kind, "nll") for kind in turns),
            # Joined scores alone would leave the safeguarding prompt by itself, at alpha 0, untrained.
            *(Term(f"safe/{names[kind]}", "safe", kind, "nll", weight=0.5) for kind in turns if scores == "joint"),
            Term(f"{scores}/keep", scores, "harmless_accepted", "kl_to_plain", weight=4.0),
            Term("adversarial/comply", "adversarial", "accepted", "nll", weight=0.3),
        ),
        selection="margin",
        alphas=(0.0, 0.2, 0.4, 0.6),
        settings={"steps": 60, "lr": 0.1, "batch": 16, "validate_every": 20},
    )


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
    "gated": _gated(),
    # DeRTa's two losses for soft prompts (arXiv 2407.09121): the safeguarding prompt turns around in the middle of a
    # harmful reply. The helpful rows' likelihood is a pull to the plain model, which is not to change there.
    "derta": _derta("safe", "begun", "transition"),
    "derta-prefix": _derta("safe", "begun"),
    "derta-transition": _derta("safe", "transition"),
    # Through the scores that decoding uses.
    "derta-joint": _derta("joint", "begun", "transition"),
    "derta-gated": _gated(Term("joint/transition", "joint", "transition", "nll", weight=0.5)),
}


_HELPFUL = Term("helpful", "tuned", "harmless_accepted", "token_nll")
_PREFIX = Term("prefix", "tuned", "begun", "token_nll")
_TRANSITION = Term("transition", "tuned", "transition", "token_nll")

ADAPTER_OBJECTIVES: Mapping[str, TermTable] = {
    # SafeDecoding (arXiv 2402.08983): the likelihood of refusals, every token alike.
    "safedecoding": TermTable((Term("refusals", "tuned", "refused", "token_nll"),)),
    # DeRTa (arXiv 2407.09121) and its ablation. The authors take one cross-entropy over all tokens of a batch; here
    # each kind of rows is a mean over its own tokens, so that a few short refusals weigh as much as long replies.
    "derta": TermTable((_HELPFUL, _PREFIX, _TRANSITION)),
    "derta-prefix": TermTable((_HELPFUL, _PREFIX)),
    "derta-transition": TermTable((_HELPFUL, _TRANSITION)),
}
"""What an adapter may be trained for; OBJECTIVES are those of pairs."""


def get_objective(objective: str | Objective) -> Objective:
    """A named objective of the table, or the one given. Raises UsageError listing the names."""
    if isinstance(objective, Objective):
        return objective
    if objective not in OBJECTIVES:
        raise UsageError(f"Unknown objective {objective!r}.", hint=f"Objectives: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[objective]


@dataclass(frozen=True)
class RowScores:
    """What the losses see of some rows: logits [B, R, V] of each stream that was computed, targets and mask [B, R],
    states of streams as layer -> [B, R, hidden], and where a term decides by the first token the refusal signal [V],
    and the offset of each kind of scores."""

    targets: Tensor
    mask: Tensor
    safe: Tensor | None = None
    adversarial: Tensor | None = None
    plain: Tensor | None = None
    tuned: Tensor | None = None
    signal: Tensor | None = None
    offsets: Mapping[str, float] = field(default_factory=dict)
    states: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)


def term_rows(term: Term, rows: RowScores, alpha: float) -> Tensor:
    """The unweighted loss of `term` for every row of `rows` -> [B]. alpha: of joined scores. Raises ValueError where a
    stream, the signal or a layer is missing."""
    loss = LOSSES[term.loss]
    if term.scores == "joint":
        scores = joint_scores(_computed(rows.safe, term), _computed(rows.adversarial, term), alpha)
    else:
        scores = _computed({"safe": rows.safe, "adversarial": rows.adversarial, "tuned": rows.tuned}[term.scores], term)
    mask = rows.mask
    if term.first is not None:
        mask = mask * (torch.arange(mask.shape[1], device=mask.device) < term.first).to(mask.dtype)
    return loss.value(
        LossInput(
            scores,
            rows.targets,
            mask,
            states=_states(term, rows, term.scores),
            plain=_computed(rows.plain, term) if loss.needs_plain else None,
            plain_states=_states(term, rows, "plain") if loss.needs_plain else {},
            signal=_computed(rows.signal, term) if loss.decides else None,
            offset=rows.offsets.get(term.scores, 0.0),
        )
    )


def _states(term: Term, rows: RowScores, stream: str) -> dict[int, Tensor]:
    known = rows.states.get(stream, {})
    return {layer: _computed(known.get(layer), term) for layer in term.layers}


def _computed(found: Tensor | None, term: Term) -> Tensor:
    if found is None:
        raise ValueError(f"the term {term.name!r} needs scores that were not computed")
    return found
