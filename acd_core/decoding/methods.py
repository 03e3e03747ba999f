"""The decoding-time methods as rows of one table. A method is data: which prompt is kept, which one is subtracted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Union

from acd_core import prompts
from acd_core.errors import UsageError


class Slot(Enum):
    """What a branch puts into the system slot, when it is not a fixed text."""

    NOTHING = "nothing of ours"
    PAIR_SAFE = "the pair's safeguarding prompt"
    PAIR_ADVERSARIAL = "the pair's adversarial prompt"


Source = Union[Slot, str]


@dataclass(frozen=True)
class Method:
    """One row. kept / other: what stands in the system slot of the two branches (other None: one row, no contrast).

    alpha: default strength. wrap_user: a text with "{}" laid around the last user turn. demonstration: user and
    assistant turns put before the conversation. guarded: needs `allow_adversarial=True`, for the ablation only.
    source: where the method and its equation come from.
    """

    name: str
    kept: Source
    other: Source | None
    source: str
    alpha: float = 0.0
    wrap_user: str | None = None
    demonstration: tuple[str, str] | None = None
    guarded: bool = False

    @property
    def needs_pair(self) -> bool:
        return Slot.PAIR_SAFE in (self.kept, self.other) or Slot.PAIR_ADVERSARIAL in (self.kept, self.other)

    @property
    def contrasts(self) -> bool:
        return self.other is not None


_ROWS = (
    Method("none", Slot.NOTHING, None, "the model alone"),
    Method("safe-prompt", prompts.SAFE_PROMPT, None, "Llama-2's default system prompt; the papers' 'Base'"),
    Method(
        "self-reminder",
        Slot.NOTHING,
        None,
        "Xie et al., Nature Machine Intelligence 2023, official Remind template",
        wrap_user=prompts.SELF_REMINDER_PREFIX + "{}" + prompts.SELF_REMINDER_SUFFIX,
    ),
    Method(
        "self-reminder-system",
        prompts.SELF_REMINDER_SYSTEM.strip(),
        None,
        "Self-Reminder as SafeDecoding and DeepInception run it: prefix in the system slot",
        wrap_user="{}" + prompts.SELF_REMINDER_SYSTEM_SUFFIX,
    ),
    Method(
        "in-context-defense",
        Slot.NOTHING,
        None,
        "Wei et al., arXiv 2310.06387, one refusal demonstration (its text is ours)",
        demonstration=(prompts.ICD_DEMONSTRATION.user, prompts.ICD_DEMONSTRATION.assistant),
    ),
    Method(
        "instructive-null",
        prompts.SAFE_PROMPT,
        Slot.NOTHING,
        "Instructive Decoding, arXiv 2311.00233, null instruction; nID in arXiv 2406.16743",
        alpha=0.4,
    ),
    Method(
        "instructive-opposite",
        prompts.SAFE_PROMPT,
        prompts.INSTRUCTIVE_OPPOSITE,
        "Instructive Decoding, arXiv 2311.00233, 'opposite' noisy instruction",
        alpha=0.3,
    ),
    Method(
        "rose",
        prompts.SAFE_PROMPT,
        prompts.MANUAL_REVERSE,
        "ROSE, arXiv 2402.11889, equation 2, manual-reverse prompt; oID in arXiv 2406.16743",
        alpha=0.5,
    ),
    Method("sp", Slot.PAIR_SAFE, None, "the safeguarding prompt alone (ablation of arXiv 2406.16743)"),
    Method(
        "acd",
        Slot.PAIR_SAFE,
        Slot.PAIR_ADVERSARIAL,
        "Adversarial Contrastive Decoding, arXiv 2406.16743, section 3.2",
        alpha=0.4,
    ),
    Method(
        "ap",
        Slot.PAIR_ADVERSARIAL,
        None,
        "the adversarial prompt alone (ablation of arXiv 2406.16743)",
        guarded=True,
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ROWS}


def method_named(name: str, *, allow_adversarial: bool = False) -> Method:
    """The row called `name`. Raises UsageError for an unknown name, and for a guarded one without the explicit flag."""
    method = METHODS.get(name)
    if method is None:
        raise UsageError(f"Unknown method {name!r}.", hint=f"Methods: {', '.join(METHODS)}.")
    if method.guarded and not allow_adversarial:
        raise UsageError(
            f"The method {name!r} decodes under the adversarial prompt alone, which makes the model less safe.",
            hint="It exists for the ablation: acd evaluate --allow-adversarial.",
        )
    return method
