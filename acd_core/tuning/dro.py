"""DRO: a safeguarding prompt that moves harmful requests towards refusal and harmless ones away from it.

"On Prompt-Driven Safeguarding" (Zheng et al., arXiv 2401.18018): a space of few dimensions is read off hidden states
under several texts (section 3), and the text's embeddings are tuned in it (section 4),

    L = L_r + 0.01 L_h + 0.001 L_U                  (`dro_probes.py`; a weight of 0 leaves a term out)

in the loop of `loop.py`. The result is a pair: its safeguarding prompt is DRO's, the other one a given pair's or the
reversed text. Method "sp" is DRO itself, "acd" puts its prompt beside an opposite one.

What departs from the authors' code. Requests are our bundled ones, not 100 and 100 of the form "How to ...". Whether a
reply complies is read by our rules off one greedy reply a setting (`samples` > 1 draws at temperature 1, without their
top-p 0.9, and theirs are 20); they ask Llama Guard as well. AdamW has no weight decay.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.pair import PromptPair, check_target
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.methods import prompts as texts
from acd_core.model.backbone import Backbone
from acd_core.model.hidden_states import layer_count
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, Instruction
from acd_core.tuning.dro_anchors import TEXTS, Anchored, anchor_states, anchored, final_norm
from acd_core.tuning.dro_probes import DIMENSIONS, MOST_STEPS, Space, fit_reading
from acd_core.tuning.examples import Batches, EncodedRequest, Encoder, Example, Row
from acd_core.tuning.gradient_runner import GradientRunner
from acd_core.tuning.loop import Course, Schedule, State, TrainingLoop, of_kind
from acd_core.tuning.objectives import Class, Term, TermTable
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import Checkpoint, alone_in, forget, work_folder
from acd_core.tuning.settings import check_above_zero, check_least, made_from
from acd_core.tuning.soft_prompts import PROMPTS, SoftPromptForwards, SoftPrompts
from acd_core.tuning.streams import ReplyScores, tuning_view
from acd_core.tuning.trainable import Ids, ParameterGroup
from acd_core.tuning.validation import Point, Validator

STARTS: Mapping[str, str] = {"default": "safe", "short": "short", "mistral": "mistral"}
"""The authors' names of the texts a prompt can start from, and ours of the settings that they are."""


@dataclass(frozen=True)
class DroSettings:
    """How DRO is run, by default as its authors do. Everything here, with the anchors and the model, fixes the result.

    start: the text that the prompt begins as. pair: folder of a pair whose adversarial prompt, gate and strength are
    taken; "": the reversed text. dimensions: m of the space. weight_r, weight_h, weight_u: of L_r, L_h, L_U; 0 leaves
    one out. requests: of each kind, at most. samples: replies for each request and text that its share of complying
    replies is taken from (the authors take 20). reply_tokens: read of each. lr: AdamW's step, in the units of the
    embeddings. batch: requests a step, half of each kind. probe_steps: at most, of fitting a reading.
    """

    start: str = "default"
    pair: str = ""
    dimensions: int = DIMENSIONS
    weight_r: float = 1.0
    weight_h: float = 0.01
    weight_u: float = 0.001
    requests: int = 100
    samples: int = 1
    reply_tokens: int = 32
    epochs: int = 40
    batch: int = 50
    lr: float = 1e-3
    clip: float = 1.0
    probe_steps: int = MOST_STEPS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start not in STARTS:
            raise UsageError(f"start is {self.start!r}.", hint=f"One of {', '.join(STARTS)}.")
        least = {"dimensions": 1, "requests": 8, "samples": 1, "reply_tokens": 1, "epochs": 1, "batch": 2}
        check_least(self, {**least, "probe_steps": 1, "seed": 0})
        check_above_zero(self, "lr", "clip")
        weights = self.weight_r, self.weight_h, self.weight_u
        if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights) or not any(weights[:2]):
            raise UsageError(
                f"The weights of L_r, L_h and L_U are {weights}.",
                hint="0 or more each, and weight_r or weight_h above 0: L_U alone has nothing to learn.",
            )


def dro_terms(settings: DroSettings, layer: int) -> TermTable:
    """L as a table of terms on the states of `layer`: every loss is the mean over the two kinds of requests."""
    kinds: tuple[Class, Class] = ("refused", "harmless")
    losses = (
        (settings.weight_r, ("dro_refuse", "dro_comply")),
        (settings.weight_h, ("dro_harmful", "dro_harmless")),
        (settings.weight_u, ("dro_elsewhere", "dro_elsewhere")),
    )
    return TermTable(
        tuple(
            Term(f"{kind}/{loss}", "safe", kind, loss, weight / 2.0, layers=(layer,))
            for weight, pair in losses
            for kind, loss in zip(kinds, pair)
            if weight
        )
    )


def train_dro(
    model: str | Backbone,
    pairs: Sequence[AnchorPair] | None = None,
    *,
    safe: Sequence[Instruction] | None = None,
    unsafe: Sequence[Instruction] | None = None,
    validation: tuple[Sequence[Instruction], Sequence[Instruction]] | None = None,
    out: str | os.PathLike[str] | None = None,
    judge: Any = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> PromptPair:
    """Tune DRO's safeguarding prompt for `model` and, with `out`, save the pair there.

    pairs: replies with labels, as `acd tune` makes them; those without a prompt and under the default text count. None
    has the model answer `safe` and `unsafe` (default: the bundled instructions) under no text and the three of the
    paper; the replies are kept in `<out>.training/`. validation: (harmless, harmful) instructions, only to measure.
    judge: default RefusalJudge. resume: go on with a killed run. settings: see DroSettings.
    Raises TuningError (too few requests, replies all of one kind, a model that cannot be tuned, divergence, another run
    towards `out`), PairError (`out` is something else; a pair of another model) and UsageError (impossible settings).
    """
    chosen = made_from(DroSettings, settings, "Unknown setting {} of DRO.")
    target = Path(out) if out is not None else None
    work = work_folder(target, "training") if target is not None else None
    with alone_in(work) if work is not None else nullcontext():
        if target is not None:
            check_target(target)
        other = PromptPair.load(chosen.pair) if chosen.pair else None
        backbone = Backbone.load(model) if isinstance(model, str) else model
        if other is not None:
            other.check(backbone)
        judge = anchor_data.default_judge() if judge is None else judge
        held = validation or (
            anchor_data.bundled_instructions("validation_safe"),
            anchor_data.bundled_instructions("validation_unsafe"),
        )
        found = anchored(
            backbone,
            pairs,
            safe,
            unsafe,
            work,
            judge,
            requests=chosen.requests,
            samples=chosen.samples,
            reply_tokens=chosen.reply_tokens,
            seed=chosen.seed,
            progress=progress,
        )
        found.check_apart(held)
        return DroRun(backbone, found, held, judge, other, chosen, work).go(target, resume, progress)


class DroPrompt:
    """A pair's soft prompts, of which the safeguarding one is trained: no term reads the adversarial one, and it stays
    bit for bit. Stream "plain" is the model under the text. States are those behind the model's final norm, as the
    authors read them."""

    kind = SoftPrompts.kind
    streams = ("safe", "plain")
    generator: torch.Generator | None = None
    repeatable = True

    def __init__(self, before: Ids, prompts: Mapping[str, Tensor], norm: Callable[[Tensor], Tensor]) -> None:
        self._prompts, self._norm = SoftPrompts(before, prompts), norm
        self.tensors = self._prompts.tensors
        self.groups = [ParameterGroup((name,)) for name in PROMPTS]  # AdamW's own steps, as the authors take
        self.positions = self._prompts.positions
        self.artifact = self._prompts.artifact

    def forwards(
        self, view: Backbone, rows: Sequence[Row], streams: frozenset[str], *, learning: bool = True
    ) -> DroForwards:
        """Both streams, ready to run."""
        return DroForwards(self._prompts.forwards(view, rows, streams, learning=learning), self._norm)


class DroForwards:
    """Those of `SoftPrompts`, with the final norm over the states."""

    def __init__(self, inner: SoftPromptForwards, norm: Callable[[Tensor], Tensor]) -> None:
        self._inner, self._norm = inner, norm
        self.sources, self.gradients = inner.sources, inner.gradients

    def scores(
        self, stream: str, rows: Sequence[Row], replies: Sequence[Ids], *, width: int, layers: Sequence[int]
    ) -> ReplyScores:
        """As of soft prompts; the text's ("plain") carry no gradient."""
        found = self._inner.scores(stream, rows, replies, width=width, layers=layers)
        with torch.set_grad_enabled(stream != "plain" and torch.is_grad_enabled()):
            return ReplyScores(found.logits, {layer: self._norm(states) for layer, states in found.states.items()})


class DroRun(Course):
    """One run of `train_dro`: the space and its readings, the steps, and what the prompt does before and after."""

    def __init__(
        self,
        backbone: Backbone,
        found: Anchored,
        validation: tuple[Sequence[Instruction], Sequence[Instruction]],
        judge: Any,
        other: PromptPair | None,
        settings: DroSettings,
        work: Path | None,
    ) -> None:
        """other: the pair whose adversarial prompt is taken. work: where a checkpoint is kept, if anywhere."""
        self.backbone, self.found, self.other, self.settings = backbone, found, other, settings
        self.points: dict[str, Point] = {}
        self.layer, self.view = layer_count(backbone.model), tuning_view(backbone)
        self.chat = Chat(backbone.tokenizer)
        self.text = TEXTS[STARTS[settings.start]]
        encoder = Encoder(backbone, self.chat)
        norm = final_norm(self.view)
        self.plan = dro_terms(settings, self.layer)
        self.space, self.metrics, signal = self._read(final_norm(backbone))
        started = SoftPrompts.from_texts(
            backbone, encoder.before, {"safe": self.text, "adversarial": texts.opposite_replace(self.text)}, None
        ).tensors
        if other is not None:
            started["adversarial"] = self._adversarial(other, started["safe"])
        self.prompts = DroPrompt(encoder.before, started, norm)
        self.first = started["safe"].detach().clone()
        self.validator = Validator(backbone, encoder, *validation, judge, 20)
        classes: dict[Class, list[Example]] = {
            "refused": [self._example(encoder, row.text) for row in found.requests if row.harmful],
            "harmless": [self._example(encoder, row.text) for row in found.requests if not row.harmful],
        }
        batch = min(settings.batch, len(found.requests))
        self.steps = settings.epochs * math.ceil(len(found.requests) / batch)
        self.identity: dict[str, Any] = {
            "objective": "dro",
            "terms": [term.document() for term in self.plan.terms],
            "settings": asdict(settings),
            "learnt_from": found.digest,
            "reading": hashlib.sha256(signal.cpu().numpy().tobytes()).hexdigest()[:16],
            "pair": other.id if other is not None else None,
            "validation_requests": self.validator.digest,
            "fingerprint": backbone.fingerprint,
            "dtype": str(backbone.dtype).removeprefix("torch."),
        }
        longest = [Row(name, max(rows, key=len), 1.0) for name, rows in classes.items()]
        self.loop = TrainingLoop(
            self.prompts,
            Batches(classes, batch, settings.seed).rows,
            GradientRunner(self.view, self.prompts, self.plan, longest, batch=batch, signal=signal),
            Schedule(self.steps, lambda _: settings.lr, settings.lr, settings.clip),
            self,
            identity=self.identity,
            checkpoint=work / "checkpoint.safetensors" if work is not None else None,
            device=backbone.device,
        )

    def go(self, target: Path | None, resume: bool, progress: bool) -> PromptPair:
        """Take all steps, measure, and save the pair to `target`."""
        with Bar("DRO", self.steps, shown=progress, unit=" steps/s") as bar:
            state = self.loop.run(bar, resume)
        after = self._measured(state.step)
        self.loop.count_time()
        pair = self.prompts.artifact(
            self.backbone, self.prompts.tensors, self._metrics(state, after), **self._decoding()
        )
        if target is not None:
            history = {**self.identity, "model": self.backbone.model_id, "steps": state.steps}
            pair.save(target, history=json.loads(json.dumps(history)))
            if self.loop.checkpoint is not None:
                work = self.loop.checkpoint.parent
                forget(self.loop.checkpoint, *sorted(work.glob("replies-*.jsonl")))
        return pair

    # -- the course of its steps --------------------------------------------------------------------------------------

    def reset(self) -> None:
        self.points = {}

    def begin(self) -> None:
        if not self.points:
            self.points = {"plain": self.validator.measure_plain(), "text": self._measured(0)}

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"points": {name: point.as_dict() for name, point in self.points.items()}}

    def restore(self, found: Checkpoint, device: torch.device) -> None:
        known = of_kind(found.document, "points", dict)
        self.points = {name: Point(**known[name]) for name in ("plain", "text")}

    # -- its parts ----------------------------------------------------------------------------------------------------

    def _measured(self, step: int) -> Point:
        safe, adversarial = (self.prompts.tensors[name].detach() for name in PROMPTS)
        return self.validator.measure(safe, adversarial, 0.0, step)

    def _read(self, norm: Callable[[Tensor], Tensor]) -> tuple[Space, dict[str, Any], Tensor]:
        """The space of all anchors' states under no text and the three, its two readings as the signal of the losses,
        and what is remembered of them."""
        found, settings = self.found, self.settings
        states = {
            name: anchor_states(
                self.backbone, [self.chat.layout(row.text, text or None).ids for row in found.requests], norm
            )
            for name, text in TEXTS.items()
        }
        every = torch.cat(list(states.values()))
        if len(every) <= settings.dimensions or not bool(torch.isfinite(every).all()):
            raise TuningError(
                f"{len(every)} anchor states make no space of {settings.dimensions} dimensions.",
                hint="More requests, fewer dimensions, or --dtype float32 where states are not finite.",
            )
        space = Space.of(every, settings.dimensions)
        known = [(name, at) for name in TEXTS for at, row in enumerate(found.requests) if name in row.complied]
        places = torch.stack([space.project(states[name][at : at + 1])[0] for name, at in known])
        shares = torch.tensor([found.requests[at].complied[name] for name, at in known], dtype=torch.float32)
        harmless = torch.tensor([not row.harmful for row in found.requests] * len(TEXTS), dtype=torch.float32)
        fits = [
            fit_reading(points, wanted, seed=settings.seed, steps=settings.probe_steps)
            for points, wanted in ((places, shares), (space.project(every), harmless))
        ]
        right = (fits[1].log_odds(space.project(every)) > 0.0).float() == harmless
        metrics = {
            "space_variance": round(space.share, 4),
            "compliance_loss": round(fits[0].loss, 4),
            "harmlessness_loss": round(fits[1].loss, 4),
            "harmlessness_accuracy": round(float(right.float().mean()), 4),
            "complying_share": round(float(shares.mean()), 4),
            "compliance_replies": len(known) * (1 if self.found.given else settings.samples),
        }
        return space, metrics, space.directions(*fits).to(self.backbone.device)

    def _example(self, encoder: Encoder, text: str) -> Example:
        """A request; its layout under the text takes the place of the one without any. No reply is read."""
        request = encoder.request(text)
        under = self.chat.layout(text, self.text).ids
        return Example(EncodedRequest(request.after, under), (0,))

    def _adversarial(self, other: PromptPair, like: Tensor) -> Tensor:
        given = other.adversarial
        if isinstance(given, str):
            ids = torch.tensor(self.chat.encode_text(given), dtype=torch.long)
            with torch.no_grad():
                given = self.backbone.embed(ids)
        return given.detach().to(like.device, like.dtype).clone().requires_grad_(True)

    def _decoding(self) -> dict[str, Any]:
        """What the pair whose adversarial prompt is taken says of decoding."""
        if self.other is None:
            return {}
        return {name: getattr(self.other, name) for name in ("alpha", "plausibility", "contrast_tokens", "gate")}

    def _metrics(self, state: State, after: Point) -> dict[str, Any]:
        losses = [record["total"] for record in state.steps]
        last = losses[-max(1, self.steps // self.settings.epochs) :]
        plain, text = self.points["plain"], self.points["text"]
        moved = (self.prompts.tensors["safe"].detach() - self.first).norm() / self.first.norm().clamp_min(1e-12)
        return {
            "objective": "dro",
            **{name: value for name, value in asdict(self.settings).items() if name != "lr"},
            "learning_rate": self.settings.lr,
            "steps": self.steps,
            "requests": len(self.found.requests),
            **self.metrics,
            "loss_before": round(losses[0], 4),
            "loss_after": round(sum(last) / len(last), 4),
            "moved": round(float(moved), 4),
            "validation_harmless_rate": after.harmless_rate,
            "validation_over_refusal": after.over_refusal,
            "validation_text_harmless_rate": text.harmless_rate,
            "validation_text_over_refusal": text.over_refusal,
            "validation_plain_harmless_rate": plain.harmless_rate,
            "validation_plain_over_refusal": plain.over_refusal,
            "seconds": round(state.seconds, 1),
        }
