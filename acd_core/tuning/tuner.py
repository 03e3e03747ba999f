"""Opposite Prompt Optimization: tune the two soft prompts of a pair on a frozen model.

`tune` is the whole recipe: anchor pairs (generated if none are given), initialisation from two manual texts, steps of
AdamW on the prompts alone, a validation curve by decoding, the choice of the best point and of alpha under a stated
rule, and a saved pair. Prompts are float32 whatever the model is. A killed run continues where it was and ends in the
same result; a half-written pair cannot come about.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acd_core.artifacts.gate import Gate
from acd_core.artifacts.pair import check_target
from acd_core.errors import PairError, TuningError
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.objectives import DEFAULT_OBJECTIVE, GATED_OBJECTIVE, Objective, get_objective
from acd_core.tuning.pair_run import PairRun, TuneResult
from acd_core.tuning.preparing import (
    Instructions,
    Model,
    Pairs,
    check_validation,
    more_harmful,
    opened,
    pairs_of,
    split_for,
)
from acd_core.tuning.reading import gate_for
from acd_core.tuning.runs import alone_in, work_folder
from acd_core.tuning.settings import TuneSettings, made_from
from acd_core.tuning.validation import Point

_UNKNOWN = "Unknown tuning setting {}."


def tune(
    model: Model,
    anchors: Pairs = None,
    *,
    objective: str | Objective | None = None,
    gate: bool | Gate | None = None,
    refusals: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    validation: tuple[Instructions, Instructions] | None = None,
    judge: Any = None,
    resume: bool = True,
    progress: bool = True,
    on_point: Callable[[Point], None] | None = None,
    **settings: Any,
) -> TuneResult:
    """Tune a pair for `model` and, with `out`, save it there.

    model: a model id or folder, a Backbone, or a ContrastiveLM (needed only where anchors are generated).
    anchors: pairs, a JSONL file of pairs, or None to generate them from the bundled instructions. They are kept, to be
    inspected and corrected, in `<out>.tuning/anchors.jsonl`. validation: (harmless, harmful) instructions that tuning
    never learns from; default the bundled ones. judge: default RefusalJudge. `settings`: see TuneSettings.
    objective: None takes "gated" where the model has a gate worth the name, else "joint". gate: True learns one first
    (see `reading`), False makes a pair without, a Gate is taken as it is; None learns one unless anchors are given.
    refusals: texts to learn refusing from, instead of ours, where refusals are supplied.
    resume: continue a killed run with the same settings, anchors and model from `<out>.tuning/`.
    on_point: called with every point of the validation curve.
    Raises TuningError (too few anchors, a model that cannot be tuned, divergence, another run towards `out`, an `out`
    that is something else or cannot be written to) and UsageError (impossible settings).
    """
    made_from(
        TuneSettings, settings, _UNKNOWN
    )  # an impossible setting, file or folder fails here, before anything is computed
    if objective is not None:
        get_objective(objective)
    if isinstance(anchors, (str, os.PathLike)):
        anchors = anchor_data.load_pairs(anchors)
    target = Path(out) if out is not None else None
    work = work_folder(target) if target is not None else None
    with alone_in(work) if work is not None else contextlib.nullcontext():
        if target is not None:
            try:
                check_target(target)
            except PairError as error:
                raise TuningError(error.message, hint=error.hint) from error
        backbone, lm = opened(model)
        judge = anchor_data.default_judge() if judge is None else judge
        safe, unsafe = validation or (
            anchor_data.bundled_instructions("validation_safe"),
            anchor_data.bundled_instructions("validation_unsafe"),
        )
        if not safe or not unsafe:
            raise TuningError("The validation split needs harmless and harmful instructions, at least one of each.")
        seed = int(settings.get("seed", 0))
        if isinstance(gate, Gate):
            gate.check(backbone)
        found = gate if isinstance(gate, Gate) else None
        if gate is True or (gate is None and anchors is None):
            found = gate_for(backbone, (safe, unsafe), work if resume else None, seed, progress)
        name = objective if isinstance(objective, str) else "custom"
        if objective is None:
            name = objective = DEFAULT_OBJECTIVE if found is None else GATED_OBJECTIVE
        plan = get_objective(objective)
        chosen = made_from(TuneSettings, {**plan.settings, **settings}, _UNKNOWN)
        pairs = pairs_of(anchors, lm, backbone, work, judge, chosen.seed, progress, plan)
        check_validation(pairs, safe, unsafe)
        more = more_harmful(pairs, (*safe, *unsafe)) if plan.dressed and anchors is None else ()
        split = split_for(pairs, plan, refusals, chosen.seed, more)
        digest = anchor_data.digest(pairs)
        run = PairRun(backbone, plan, chosen, split, (safe, unsafe), judge, work, name, digest, found, on_point)
        return run.go(target, resume, progress)
