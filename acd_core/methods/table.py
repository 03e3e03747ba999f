"""The decoding-time methods as rows of one table. A method is data: its streams, a rule that joins them, a strength.

A stream is the conversation under one prompt and perhaps under interventions (a LoRA adapter, a steering vector). Each
is a row of every forward; the first one is kept, the others are contrasted with it. To add a method, add a row.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Union

from acd_core.errors import UsageError
from acd_core.methods import prompts, rules
from acd_core.methods.rules import Rule, Strength
from acd_core.params import shown

if TYPE_CHECKING:
    from acd_core.model.interventions import Intervention


class Slot(Enum):
    """What a stream puts into the system slot, when it is not a fixed text."""

    NOTHING = "nothing of ours"
    PAIR_SAFE = "the pair's safeguarding prompt"
    PAIR_ADVERSARIAL = "the pair's adversarial prompt"


class Learnt(Enum):
    """What a stream runs under, when it is given with the model."""

    EXPERT = "the LoRA expert"


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
    conversation. guarded: needs `allow_adversarial=True`, for the ablation only.
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


_ROSE = "ROSE, arXiv 2402.11889, equation 2: z(safe prompt) - alpha z(reverse prompt)"

_ROWS = (
    Method(
        "none",
        (Stream(),),
        "the model alone: z",
    ),
    Method(
        "safe-prompt",
        (Stream(prompts.SAFE_PROMPT),),
        "Llama-2's default system prompt, z(safe prompt); papers' 'Base'",
    ),
    Method(
        "self-reminder",
        (Stream(),),
        "Xie et al., Nature Machine Intelligence 2023, official Remind template: z(reminder, query, reminder)",
        wrap_user=prompts.SELF_REMINDER_PREFIX + "{}" + prompts.SELF_REMINDER_SUFFIX,
    ),
    Method(
        "self-reminder-system",
        (Stream(prompts.SELF_REMINDER_SYSTEM.strip()),),
        "Self-Reminder as SafeDecoding and DeepInception run it: prefix in the system slot, suffix after the query",
        wrap_user="{}" + prompts.SELF_REMINDER_SYSTEM_SUFFIX,
    ),
    Method(
        "in-context-defense",
        (Stream(),),
        "Wei et al., arXiv 2310.06387: z(refused demonstration, query); one demonstration, its text is ours",
        demonstration=(prompts.ICD_DEMONSTRATION.user, prompts.ICD_DEMONSTRATION.assistant),
    ),
    Method(
        "instructive-null",
        (Stream(prompts.SAFE_PROMPT), Stream()),
        "Instructive Decoding, arXiv 2311.00233, null instruction: z(safe prompt) - alpha z(no prompt); "
        "nID in arXiv 2406.16743",
        alpha=0.4,
    ),
    Method(
        "instructive-opposite",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.INSTRUCTIVE_OPPOSITE)),
        "Instructive Decoding, arXiv 2311.00233: z(prompt) + epsilon z(noisy prompt), epsilon = -alpha = -0.3, "
        "'opposite' noisy instruction",
        alpha=0.3,
    ),
    Method(
        "rose",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.MANUAL_REVERSE)),
        f"{_ROSE}, manual-reverse prompt; oID in arXiv 2406.16743",
        alpha=0.5,
    ),
    Method(
        "rose-opposite-replace",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.OPPOSITE_REPLACE)),
        f"{_ROSE}, opposite-replace prompt; its text is ours, generated from a table of antonyms",
        alpha=0.5,
    ),
    Method(
        "rose-rand-words",
        (Stream(prompts.SAFE_PROMPT), Stream(prompts.RAND_WORDS)),
        f"{_ROSE}, rand-words prompt; its text is ours, drawn from our own word list with seed 0",
        alpha=0.5,
    ),
    Method(
        "self-cd",
        (Stream(), Stream(prompts.SELF_CD_SAFE)),
        "Self-CD, arXiv 2401.17633: y - r (y - y'), y = z(safety prompt), y' = z(no prompt), r = 1 / (1 - alpha) = "
        "2.5; it lowers refusals of every kind",
        alpha=0.6,
    ),
    Method(
        "adacd",
        (Stream(), Stream(prompts.ADACD_REFUSE)),
        "AdaCD, arXiv 2604.17132 (as the authors' code computes it): zp + r (zp - z) where both branches agree, else "
        "zp - r (zp - z); zp = z(refusing prompt), z = z(no prompt), r = 1 / (1 - alpha) = 4.5, tokens with "
        "p < 0.01 max p dropped, first 10 tokens",
        alpha=1.0 - 1.0 / 4.5,
        rule=rules.ADAPTIVE,
        plausibility=0.01,
        contrast_tokens=10,
    ),
    Method(
        "safedecoding",
        (Stream(), Stream(under=(Learnt.EXPERT,))),
        "SafeDecoding, arXiv 2402.08983: p + a (p' - p) over the c = 5 or more tokens common to both top k, p' under "
        "the expert, a = alpha / (1 - alpha) = 3, first m = 2 tokens, then the model alone",
        alpha=0.75,
        rule=rules.INTERSECT,
        contrast_tokens=2,
    ),
    Method(
        "sp",
        (Stream(Slot.PAIR_SAFE),),
        "the safeguarding prompt alone: z(SP) (ablation of arXiv 2406.16743)",
    ),
    Method(
        "acd",
        (Stream(Slot.PAIR_SAFE), Stream(Slot.PAIR_ADVERSARIAL)),
        "Adversarial Contrastive Decoding, arXiv 2406.16743, section 3.2: z(SP) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "sp-null",
        (Stream(Slot.PAIR_SAFE), Stream()),
        "ablation of arXiv 2406.16743: z(SP) - alpha z(no prompt)",
        alpha=0.4,
    ),
    Method(
        "sp-opposite",
        (Stream(Slot.PAIR_SAFE), Stream(prompts.MANUAL_REVERSE)),
        "ablation of arXiv 2406.16743: z(SP) - alpha z(opposite prompt)",
        alpha=0.4,
    ),
    Method(
        "safe-ap",
        (Stream(prompts.SAFE_PROMPT), Stream(Slot.PAIR_ADVERSARIAL)),
        "ablation of arXiv 2406.16743: z(safe prompt) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "null-ap",
        (Stream(), Stream(Slot.PAIR_ADVERSARIAL)),
        "ablation of arXiv 2406.16743: z(no prompt) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "ap",
        (Stream(Slot.PAIR_ADVERSARIAL),),
        "the adversarial prompt alone: z(AP) (ablation of arXiv 2406.16743)",
        guarded=True,
    ),
)

_known: dict[str, Method] = {method.name: method for method in _ROWS}
METHODS: Mapping[str, Method] = MappingProxyType(_known)
"""All methods by name."""


def own_method_key(name: str | None) -> str | None:
    """`Method.key` of a method that was added to the table; None for one of this file, whose name is enough."""
    method = _known.get(name or "")
    return None if method is None or method in _ROWS else method.key


def add_method(method: Method) -> Method:
    """Add a method of one's own to this process's table; from then on its name can be given wherever a method's can.

    Raises UsageError for a name that is taken.
    """
    if method.name in _known:
        raise UsageError(
            f"There is a method {method.name!r} already: {_known[method.name].source}.", hint="Choose another name."
        )
    _known[method.name] = method
    return method


def method_named(name: str, *, allow_adversarial: bool = False) -> Method:
    """The row called `name`. Raises UsageError for an unknown name, and for a guarded one without the explicit flag."""
    method = METHODS.get(name)
    if method is None:
        raise UsageError(f"Unknown method {shown(name)}.", hint=f"Methods: {', '.join(METHODS)}.")
    if method.guarded and not allow_adversarial:
        raise UsageError(
            f"The method {name!r} decodes under the adversarial prompt alone, which makes the model less safe.",
            hint="It exists for the ablation: acd evaluate --allow-adversarial.",
        )
    return method
