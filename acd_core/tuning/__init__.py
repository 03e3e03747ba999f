"""Training on a frozen model: anchor data, objectives, what is trained (a pair, an adapter), and one loop for all."""

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
from acd_core.tuning.expert import train_expert
from acd_core.tuning.objectives import DEFAULT_OBJECTIVE, OBJECTIVES, Objective, Term
from acd_core.tuning.pair_run import TuneResult
from acd_core.tuning.settings import ExpertSettings, TuneSettings
from acd_core.tuning.tuner import tune

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
