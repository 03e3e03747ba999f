"""What a method is: streams, a rule that joins them, a strength; and how far it is its paper's.

A stream is the conversation under one prompt and perhaps under interventions (a LoRA adapter, a steering vector). Each
is a row of every forward; the first one is kept, the others are contrasted with it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, Union

from acd_core.errors import UsageError
from acd_core.methods import rules
from acd_core.methods.rules import Rule, Strength

if TYPE_CHECKING:
    from acd_core.model.interventions import Intervention


class Slot(Enum):
    """What a stream puts into the system slot, when it is not a fixed text."""

    NOTHING = "nothing of ours"
    PAIR_SAFE = "the pair's safeguarding prompt"
    PAIR_ADVERSARIAL = "the pair's adversarial prompt"


class Learnt(Enum):
    """What a stream runs under, when it is given with the model."""

    EXPERT = "the LoRA expert, or the steering, given with the model"


class Fidelity(Enum):
    """How far a row is what its source describes."""

    FAITHFUL = "equation, texts and constants are the source's"
    SIMPLIFIED = "something of the source is left out"
    VARIANT = "something is otherwise than in the source"


Source = Union[Slot, str]


@dataclass(frozen=True)
class Stream:
    """The conversation under one prompt: one row of every forward.

    prompt: what stands in the system slot. under: what acts on the row in every forward, in order. weight: its share in
    the mix of the streams that are not kept (`rules.mixed`).
    """

    prompt: Source = Slot.NOTHING
    under: tuple[Learnt | Intervention, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Method:
    """One row of the table.

    streams: the kept one first; with no other there is no contrast. source: where the method and its equation come
    from, z being the logits of a stream and p its probabilities. rule: how the streams' logits become one row. alpha,
    plausibility, contrast_tokens: the method's own values of the settings of those names. alpha lies in [0, 1) for
    every rule, and `source` says what a paper's unbounded factor is in terms of it; a pair's own takes its place where
    the method uses the pair. strength: the alpha of each token, made of what is known there; None: the same for all.
    wrap_user: a text with "{}" laid around the last user turn. demonstration: user and assistant turns put before the
    conversation. guarded: needs `allow_adversarial=True`, for the ablation only. expert_kind: what a stream under
    `Learnt.EXPERT` needs: a LoRA adapter, or something of that kind (`artifacts/learnt_files.py`). fidelity: how far it
    is what `source` describes; None for a method of one's own. departs: what departs and where (section, file), for all
    but a faithful one. What departs in every row stands in docs/methods.md.
    """

    name: str
    streams: tuple[Stream, ...]
    source: str
    alpha: float = 0.0
    rule: Rule = rules.CONTRAST
    strength: Strength | None = None
    plausibility: float = 0.0
    contrast_tokens: int | None = None
    wrap_user: str | None = None
    demonstration: tuple[str, str] | None = None
    guarded: bool = False
    expert_kind: Literal["lora", "scans", "alphasteer", "tsdi"] = "lora"
    fidelity: Fidelity | None = None
    departs: str = ""

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong is not None:
            raise UsageError(f"The method {self.name!r} has {wrong}.")

    def _wrong(self) -> str | None:
        """What cannot be of this row, in words."""
        count, most = len(self.streams), self.rule.most_streams
        if not count or (most is not None and count > most):
            joins = "one or more" if most is None else f"1 to {most}"
            return f"{count} streams; the rule {self.rule.name!r} joins {joins}"
        if not (0.0 < self.alpha < 1.0 if count > 1 else self.alpha == 0.0 and self.strength is None):
            return f"alpha {self.alpha!r} with {count} streams: between 0 and 1 for a contrast, 0 without one"
        if not 0.0 <= self.plausibility < 1.0:
            return f"plausibility {self.plausibility!r}, which lies in [0, 1)"
        if self.contrast_tokens is not None and self.contrast_tokens < 1:
            return f"contrast_tokens {self.contrast_tokens!r}: one or more, or None for all"
        weights = [stream.weight for stream in self.streams[1:]]
        if self.streams[0].weight != 1.0 or not all(map(math.isfinite, weights)) or (weights and sum(weights) <= 0.0):
            given = [stream.weight for stream in self.streams]
            return f"the weights {given}: 1 for the kept stream, a sum above 0 for the others"
        if self.streams[0].prompt is Slot.PAIR_ADVERSARIAL and not self.guarded:
            return "the adversarial prompt in its kept stream, and is not guarded"
        if bool(self.departs) != (self.fidelity in (Fidelity.SIMPLIFIED, Fidelity.VARIANT)):
            stated = "none" if self.fidelity is None else self.fidelity.name
            return f"the fidelity {stated} and the departures {self.departs!r}: the two go together"
        return None

    @property
    def key(self) -> str:
        """What decides its replies, as a digest: the name of a method that was added by `add_method` says nothing."""
        said = [
            *(
                (str(each.prompt), each.weight, *(getattr(act, "id", str(act)) for act in each.under))
                for each in self.streams
            ),
            (self.rule.name, self.alpha, self.strength and self.strength.id, self.plausibility, self.contrast_tokens),
            (self.wrap_user, self.demonstration),
        ]
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    @property
    def needs_pair(self) -> bool:
        return any(stream.prompt in (Slot.PAIR_SAFE, Slot.PAIR_ADVERSARIAL) for stream in self.streams)

    @property
    def needs_expert(self) -> bool:
        return any(Learnt.EXPERT in stream.under for stream in self.streams)

    @property
    def contrasts(self) -> bool:
        return len(self.streams) > 1
