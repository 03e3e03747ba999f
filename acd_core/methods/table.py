"""The decoding-time methods as rows of one table. A method is data: which prompt is kept, what is contrasted with it
(another prompt, or the same prompt under an expert), by which rule, under which mask, for how many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Union

from acd_core.errors import UsageError
from acd_core.methods import prompts
from acd_core.params import shown


class Slot(Enum):
    """What a branch puts into the system slot, when it is not a fixed text."""

    NOTHING = "nothing of ours"
    PAIR_SAFE = "the pair's safeguarding prompt"
    PAIR_ADVERSARIAL = "the pair's adversarial prompt"


Source = Union[Slot, str]


@dataclass(frozen=True)
class Method:
    """One row. kept / other: what stands in the system slot of the two branches (other None: one row, no contrast).

    source: where the method and its equation come from, z being the logits of a branch and p its probabilities.
    rule: a name of `acd_core.methods.rules.RULES`. alpha, plausibility, contrast_tokens: the method's own values of
    the settings of those names; alpha lies in [0, 1) for every rule, and `source` says what a paper's unbounded factor
    is in terms of it. expert: the other branch runs under the LoRA expert. wrap_user: a text with "{}" laid around the
    last user turn. demonstration: user and assistant turns put before the conversation. guarded: needs
    `allow_adversarial=True`, for the ablation only.
    """

    name: str
    kept: Source
    other: Source | None
    source: str
    alpha: float = 0.0
    rule: str = "contrast"
    plausibility: float = 0.0
    contrast_tokens: int | None = None
    expert: bool = False
    wrap_user: str | None = None
    demonstration: tuple[str, str] | None = None
    guarded: bool = False

    @property
    def needs_pair(self) -> bool:
        return Slot.PAIR_SAFE in (self.kept, self.other) or Slot.PAIR_ADVERSARIAL in (self.kept, self.other)

    @property
    def contrasts(self) -> bool:
        return self.other is not None


_ROSE = "ROSE, arXiv 2402.11889, equation 2: z(safe prompt) - alpha z(reverse prompt)"

_ROWS = (
    Method("none", Slot.NOTHING, None, "the model alone: z"),
    Method("safe-prompt", prompts.SAFE_PROMPT, None, "Llama-2's default system prompt, z(safe prompt); papers' 'Base'"),
    Method(
        "self-reminder",
        Slot.NOTHING,
        None,
        "Xie et al., Nature Machine Intelligence 2023, official Remind template: z(reminder, query, reminder)",
        wrap_user=prompts.SELF_REMINDER_PREFIX + "{}" + prompts.SELF_REMINDER_SUFFIX,
    ),
    Method(
        "self-reminder-system",
        prompts.SELF_REMINDER_SYSTEM.strip(),
        None,
        "Self-Reminder as SafeDecoding and DeepInception run it: prefix in the system slot, suffix after the query",
        wrap_user="{}" + prompts.SELF_REMINDER_SYSTEM_SUFFIX,
    ),
    Method(
        "in-context-defense",
        Slot.NOTHING,
        None,
        "Wei et al., arXiv 2310.06387: z(refused demonstration, query); one demonstration, its text is ours",
        demonstration=(prompts.ICD_DEMONSTRATION.user, prompts.ICD_DEMONSTRATION.assistant),
    ),
    Method(
        "instructive-null",
        prompts.SAFE_PROMPT,
        Slot.NOTHING,
        "Instructive Decoding, arXiv 2311.00233, null instruction: z(safe prompt) - alpha z(no prompt); "
        "nID in arXiv 2406.16743",
        alpha=0.4,
    ),
    Method(
        "instructive-opposite",
        prompts.SAFE_PROMPT,
        prompts.INSTRUCTIVE_OPPOSITE,
        "Instructive Decoding, arXiv 2311.00233: z(prompt) + epsilon z(noisy prompt), epsilon = -alpha = -0.3, "
        "'opposite' noisy instruction",
        alpha=0.3,
    ),
    Method(
        "rose",
        prompts.SAFE_PROMPT,
        prompts.MANUAL_REVERSE,
        f"{_ROSE}, manual-reverse prompt; oID in arXiv 2406.16743",
        alpha=0.5,
    ),
    Method(
        "rose-opposite-replace",
        prompts.SAFE_PROMPT,
        prompts.OPPOSITE_REPLACE,
        f"{_ROSE}, opposite-replace prompt; its text is ours, generated from a table of antonyms",
        alpha=0.5,
    ),
    Method(
        "rose-rand-words",
        prompts.SAFE_PROMPT,
        prompts.RAND_WORDS,
        f"{_ROSE}, rand-words prompt; its text is ours, drawn from our own word list with seed 0",
        alpha=0.5,
    ),
    Method(
        "self-cd",
        Slot.NOTHING,
        prompts.SELF_CD_SAFE,
        "Self-CD, arXiv 2401.17633: y - r (y - y'), y = z(safety prompt), y' = z(no prompt), r = 1 / (1 - alpha) = "
        "2.5; it lowers refusals of every kind",
        alpha=0.6,
    ),
    Method(
        "adacd",
        Slot.NOTHING,
        prompts.ADACD_REFUSE,
        "AdaCD, arXiv 2604.17132 (as the authors' code computes it): zp + r (zp - z) where both branches agree, else "
        "zp - r (zp - z); zp = z(refusing prompt), z = z(no prompt), r = 1 / (1 - alpha) = 4.5, tokens with "
        "p < 0.01 max p dropped, first 10 tokens",
        alpha=1.0 - 1.0 / 4.5,
        rule="adaptive",
        plausibility=0.01,
        contrast_tokens=10,
    ),
    Method(
        "safedecoding",
        Slot.NOTHING,
        Slot.NOTHING,
        "SafeDecoding, arXiv 2402.08983: p + a (p' - p) over the c = 5 or more tokens common to both top k, p' under "
        "the expert, a = alpha / (1 - alpha) = 3, first m = 2 tokens, then the model alone",
        alpha=0.75,
        rule="intersect",
        contrast_tokens=2,
        expert=True,
    ),
    Method("sp", Slot.PAIR_SAFE, None, "the safeguarding prompt alone: z(SP) (ablation of arXiv 2406.16743)"),
    Method(
        "acd",
        Slot.PAIR_SAFE,
        Slot.PAIR_ADVERSARIAL,
        "Adversarial Contrastive Decoding, arXiv 2406.16743, section 3.2: z(SP) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "sp-null",
        Slot.PAIR_SAFE,
        Slot.NOTHING,
        "ablation of arXiv 2406.16743: z(SP) - alpha z(no prompt)",
        alpha=0.4,
    ),
    Method(
        "sp-opposite",
        Slot.PAIR_SAFE,
        prompts.MANUAL_REVERSE,
        "ablation of arXiv 2406.16743: z(SP) - alpha z(opposite prompt)",
        alpha=0.4,
    ),
    Method(
        "safe-ap",
        prompts.SAFE_PROMPT,
        Slot.PAIR_ADVERSARIAL,
        "ablation of arXiv 2406.16743: z(safe prompt) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "null-ap",
        Slot.NOTHING,
        Slot.PAIR_ADVERSARIAL,
        "ablation of arXiv 2406.16743: z(no prompt) - alpha z(AP)",
        alpha=0.4,
    ),
    Method(
        "ap",
        Slot.PAIR_ADVERSARIAL,
        None,
        "the adversarial prompt alone: z(AP) (ablation of arXiv 2406.16743)",
        guarded=True,
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ROWS}


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
