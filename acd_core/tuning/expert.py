"""SafeDecoding's expert: a LoRA adapter fine-tuned on a few refusals of the model's own (arXiv 2402.08983).

The recipe is the authors', in the loop of `loop.py`: their seed questions are our bundled harmful instructions, their
GPT-4 check that a reply refuses is our rule-based judge, and only the reply is supervised, not the request. Requests
carry no system text. A killed run leaves the old expert or none, and goes on from its last checkpoint; the replies made
so far are kept and not made again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from acd_core.artifacts.lora import Expert, check_target
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.methods import prompts as texts
from acd_core.model.backbone import Backbone
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.adapter_run import AdapterRun, own_replies
from acd_core.tuning.anchors import AnchorPair, Instruction
from acd_core.tuning.examples import Encoder, Epochs, Row
from acd_core.tuning.lora_adapter import targets_of
from acd_core.tuning.objectives import ADAPTER_OBJECTIVES
from acd_core.tuning.refusals import refusing_pairs
from acd_core.tuning.runs import alone_in, work_folder
from acd_core.tuning.settings import ExpertSettings, made_from

OBJECTIVE = "safedecoding"

REFUSING_PROMPTS: Mapping[str, str] = {
    "null": texts.NULL_PROMPT,
    "safe": texts.SAFE_PROMPT,
    "refuse": texts.SAFEDECODING_REFUSE,
}
"""System texts under which the model is asked, in order of preference; the authors use the later kind for models that
hardly refuse."""


def train_expert(
    model: str | Backbone,
    anchors: str | os.PathLike[str] | Sequence[AnchorPair] | None = None,
    *,
    unsafe: Sequence[Instruction] | None = None,
    refusals: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    judge: Any = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> Expert:
    """Train an expert of `model` on its own refusals and, with `out`, save it there.

    anchors: pairs or a file of pairs (as `acd tune` makes them), of which the refusals of harmful requests are taken.
    None has the model answer `unsafe` (default: the bundled harmful instructions) under three system texts; the replies
    are kept in `<out>.training/refusals.jsonl`. refusals: texts to learn in place of the model's own (the authors take
    the model's; one that hardly refuses has none); empty for ours, in the request's language. judge: default
    RefusalJudge. resume: continue a killed run with the same settings, refusals and model from `<out>.training/`.
    settings: see ExpertSettings.
    Raises TuningError (too few refusals, no attention projection, divergence, another run towards `out`), ExpertError
    (`out` is something else, or cannot be written to) and UsageError (impossible settings).
    """
    chosen = made_from(ExpertSettings, settings, "Unknown setting {} of an expert.")
    if refusals is not None and anchors is not None:
        raise UsageError("anchors hold replies already, and refusals are to be supplied.", hint="Give one of the two.")
    target = Path(out) if out is not None else None
    work = work_folder(target, "training") if target is not None else None
    with alone_in(work) if work is not None else nullcontext():
        if target is not None:
            check_target(target)
        if isinstance(anchors, (str, os.PathLike)):
            anchors = anchor_data.load_pairs(anchors)
            refusals_of(anchors, chosen)  # too few are told before a model is loaded
        backbone = Backbone.load(model) if isinstance(model, str) else model
        names = targets_of(backbone)
        if refusals is not None:
            asked = anchor_data.bundled_instructions("unsafe") if unsafe is None else unsafe
            pairs: Sequence[AnchorPair] = refusing_pairs(asked, refusals)
        else:
            pairs = (
                anchors
                if anchors is not None
                else own_replies(
                    backbone,
                    safe=(),
                    unsafe=unsafe,
                    prompts=REFUSING_PROMPTS,
                    out=work / "refusals.jsonl" if work is not None else None,
                    judge=judge,
                    temperature=0.8,
                    max_tokens=chosen.reply_tokens,
                    seed=chosen.seed,
                    progress=progress,
                )
            )
        return ExpertRun(backbone, names, refusals_of(pairs, chosen), chosen, work).go(target, resume, progress)


def refusals_of(pairs: Sequence[AnchorPair], settings: ExpertSettings) -> list[AnchorPair]:
    """The rows to learn from: refusals of harmful requests, `per_request` of each and `most` in all, drawn by seed."""
    taken: dict[str, list[AnchorPair]] = {}
    for pair in anchor_data.split_pairs(pairs).refused:
        rows = taken.setdefault(pair.id, [])
        if len(rows) < settings.per_request:
            rows.append(pair)
    found = [pair for rows in taken.values() for pair in rows]
    if len(found) < anchor_data.MIN_CLASS:
        raise TuningError(
            f"Only {len(found)} refusals of harmful requests were found; at least {anchor_data.MIN_CLASS} are needed.",
            hint="Does the model hardly refuse, even when told to? Supply refusals: --refusals ours, with the bundled "
            "requests or as many of your own.",
        )
    random.Random(settings.seed).shuffle(found)
    return found[: settings.most]


class ExpertRun(AdapterRun):
    """One run of `train_expert`: the mean loss on all refusals before its steps and after them."""

    def __init__(
        self,
        backbone: Backbone,
        modules: Sequence[str],
        rows: Sequence[AnchorPair],
        settings: ExpertSettings,
        work: Path | None,
    ) -> None:
        """modules: names of those that are adapted. work: where a checkpoint is kept, if anywhere."""
        self.whose = "supplied" if all(row.prompt == "supplied" for row in rows) else "the model's own"
        plan = ADAPTER_OBJECTIVES[OBJECTIVE]
        (data,) = plan.classes
        encoder = Encoder(backbone, Chat(backbone.tokenizer))
        examples = [encoder.example(pair, settings.reply_tokens) for pair in rows]
        epochs = Epochs(data, examples, settings.batch, settings.seed)
        super().__init__(
            backbone,
            plan,
            settings,
            modules,
            learnt=len(examples),
            measured=[Row(data, example, 1.0) for example in examples],
            rows=epochs.rows,
            steps=epochs.steps * settings.epochs,
            identity={"objective": OBJECTIVE, "learnt_from": anchor_data.digest(rows)},
            work=work,
        )

    def go(self, target: Path | None, resume: bool, progress: bool) -> Expert:
        """Take all steps, and save the expert to `target`."""
        return self.trained("Training the expert", {"refusals": self.whose}, target, resume, progress)
