"""DeRTa as training: a LoRA adapter that refuses at any position of a reply (Yuan et al., arXiv 2407.09121).

Three kinds of rows, as in the authors' data: helpful ones (the model's replies to harmless anchors), a harmful prefix
of random length and then a refusal, and a harmful reply with a refusal wanted at every position (`turning.py`). The
harmful replies are the model's own to the anchors, and lie in the folder of the run only.
Departures: a LoRA of small rank on hundreds of rows instead of 66 000; each kind of rows weighs alike in a step; the
refusal token is the first of the refusals in use; requests wear the model's own chat format.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from acd_core.artifacts.lora import Expert, check_target
from acd_core.chat import Chat
from acd_core.errors import TuningError
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.adapter_run import AdapterRun, own_replies
from acd_core.tuning.anchors import AnchorPair, AnchorSplit, Instruction
from acd_core.tuning.examples import Batches, Encoder, Row
from acd_core.tuning.lora_adapter import ALL_TARGETS, targets_of
from acd_core.tuning.objectives import ADAPTER_OBJECTIVES, Class
from acd_core.tuning.refusals import refuses_little, supplied
from acd_core.tuning.runs import alone_in, work_folder
from acd_core.tuning.settings import DertaSettings, made_from
from acd_core.tuning.turning import TurningSplit, turning

OBJECTIVE_OF: Mapping[str, str] = {"both": "derta", "prefix": "derta-prefix", "transition": "derta-transition"}
"""The adapter objective of each of `settings.KINDS`."""
MEASURED = 24
"""Rows of each kind on which the losses are read before the steps and after them."""


def train_derta(
    model: str | Backbone,
    anchors: str | os.PathLike[str] | Sequence[AnchorPair] | None = None,
    *,
    safe: Sequence[Instruction] | None = None,
    unsafe: Sequence[Instruction] | None = None,
    refusals: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    judge: Any = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Expert:
    """Train a DeRTa adapter of `model` and, with `out`, save it there as an expert's folder.

    anchors: pairs or a file of pairs, as `acd tune` makes them. None has the model answer `safe` and `unsafe` (default:
    the bundled instructions) without a system text; the replies are kept in `<out>.training/replies.jsonl`. refusals:
    texts to refuse with; empty for the model's own, or ours where it hardly refuses. judge: default RefusalJudge.
    resume: continue a killed run with the same settings, anchors and model. settings: see DertaSettings.
    Raises TuningError (too few harmful replies or harmless ones, divergence, another run towards `out`), ExpertError
    (`out` is something else, or cannot be written to) and UsageError (impossible settings).
    """
    chosen = made_from(DertaSettings, settings, "Unknown setting {} of a DeRTa adapter.")
    target = Path(out) if out is not None else None
    work = work_folder(target, "training") if target is not None else None
    kept = work / "replies.jsonl" if work is not None and anchors is None else None
    with alone_in(work) if work is not None else nullcontext():
        if target is not None:
            check_target(target)
        if isinstance(anchors, (str, os.PathLike)):
            anchors = anchor_data.load_pairs(anchors)
        if anchors is not None:
            rows_of(anchors, chosen, refusals)  # too few are told before a model is loaded
        backbone = Backbone.load(model) if isinstance(model, str) else model
        modules = targets_of(backbone, ALL_TARGETS if chosen.modules == "all" else None)
        pairs = (
            anchors
            if anchors is not None
            else own_replies(
                backbone,
                safe=safe,
                unsafe=unsafe,
                prompts={"null": anchor_data.MANUAL_PROMPTS["null"]},
                out=kept,
                judge=judge,
                max_tokens=chosen.reply_tokens,
                seed=chosen.seed,
                progress=progress,
            )
        )
        run = DertaRun(backbone, modules, rows_of(pairs, chosen, refusals), chosen, work)
        return run.trained("Training the DeRTa adapter", {"method": "derta"}, target, resume, progress)


def rows_of(pairs: Sequence[AnchorPair], settings: DertaSettings, refusals: Sequence[str] = ()) -> TurningSplit:
    """The rows to learn from: of at most `most` harmful replies, drawn by seed, one row of either kind an epoch, and
    `helpful` harmless rows for each. Raises TuningError for too few."""
    split = anchor_data.split_pairs(pairs)
    if refusals or refuses_little(split):
        split = supplied(split, refusals)
    rng = random.Random(f"{settings.seed}/rows")
    accepted = rng.sample(split.accepted, min(settings.most, len(split.accepted)))
    answered = [pair for pair in split.harmless if pair.label == "accepted"]
    answered = rng.sample(answered, min(len(answered), math.ceil(settings.helpful * len(accepted))))
    if len(answered) < min(anchor_data.MIN_CLASS, len(accepted)):
        raise TuningError(
            f"There are {len(answered)} answers to harmless requests to keep; at least {anchor_data.MIN_CLASS} are "
            "needed.",
            hint="Add harmless instructions (--safe), and look at the labels of their replies.",
        )
    # Where one kind of rows is left out, the other is drawn twice as often: as many harmful rows either way.
    draws = settings.epochs * (1 if settings.kinds == "both" else 2)
    chosen = replace(split, accepted=tuple(accepted), harmless=tuple(answered))
    return turning(chosen, settings.seed, draws=draws, kept=settings.kept)


class DertaRun(AdapterRun):
    """One run of `train_derta`: each kind's loss before the steps and after them."""

    def __init__(
        self,
        backbone: Backbone,
        modules: Sequence[str],
        split: TurningSplit,
        settings: DertaSettings,
        work: Path | None,
    ) -> None:
        """split: all epochs' rows of the harmful kinds. work: where a checkpoint is kept, if anywhere."""
        name = OBJECTIVE_OF[settings.kinds]
        plan = ADAPTER_OBJECTIVES[name]
        encoder = Encoder(backbone, Chat(backbone.tokenizer))
        examples = encoder.classes(split, plan, settings.reply_tokens)
        examples["harmless_accepted"] *= settings.epochs
        counts: dict[Class, int] = {data: len(rows) for data, rows in examples.items()}
        # Every class in the batch by its share of all rows, so that each is run through once.
        batches = Batches(examples, settings.batch, settings.seed, counts)
        super().__init__(
            backbone,
            plan,
            settings,
            modules,
            learnt=sum(counts.values()),
            measured=[Row(data, example, 1.0) for data, rows in examples.items() for example in rows[:MEASURED]],
            rows=batches.rows,
            steps=math.ceil(sum(counts.values()) / settings.batch),
            identity={"objective": name, "learnt_from": _digest(split)},
            work=work,
        )


def _digest(split: AnchorSplit) -> str:
    return anchor_data.digest((*split.refused, *split.accepted, *split.harmless))
