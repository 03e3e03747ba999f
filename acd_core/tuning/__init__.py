"""Opposite Prompt Optimization: anchor data, losses, and the loop that tunes a pair on a frozen model."""

from acd_core.tuning.anchors import (
    AnchorPair,
    Instruction,
    bundled_instructions,
    generate_anchors,
    load_instructions,
    load_pairs,
    save_pairs,
    split_pairs,
)
from acd_core.tuning.expert import ExpertSettings, train_expert
from acd_core.tuning.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, Objective, Term
from acd_core.tuning.settings import TuneSettings
from acd_core.tuning.tuner import TuneResult, tune

__all__ = [
    "DEFAULT_OBJECTIVE",
    "OBJECTIVES",
    "AnchorPair",
    "ExpertSettings",
    "Instruction",
    "Objective",
    "Term",
    "TuneResult",
    "TuneSettings",
    "bundled_instructions",
    "generate_anchors",
    "load_instructions",
    "load_pairs",
    "save_pairs",
    "split_pairs",
    "train_expert",
    "tune",
]
