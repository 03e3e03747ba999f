"""SafeDecoding's expert: a LoRA adapter fine-tuned on a few refusals of the model's own (arXiv 2402.08983).

The recipe is the authors', with a loop of ours: their seed questions are our bundled harmful instructions, their GPT-4
check that a reply refuses is our rule-based judge, and only the reply is supervised, not the request. Requests carry no
system text. A killed run leaves the old expert or none; the replies made so far are kept and not made again.
"""

from __future__ import annotations

import functools
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.lora import Expert, check_target, linear_size, lora
from acd_core.chat import Chat
from acd_core.errors import TuningError, UsageError
from acd_core.methods import prompts as texts
from acd_core.model.backbone import Backbone
from acd_core.model.interventions import Change, acting
from acd_core.tuning import anchors as anchor_data
from acd_core.tuning.anchors import AnchorPair, Instruction
from acd_core.tuning.examples import Encoder, Example
from acd_core.tuning.progress import Bar
from acd_core.tuning.refusals import refusing_pairs
from acd_core.tuning.runs import alone_in, work_folder
from acd_core.tuning.streams import Prefix, pad_targets, reply_logits, tuning_view

REFUSING_PROMPTS: Mapping[str, str] = {
    "null": texts.NULL_PROMPT,
    "safe": texts.SAFE_PROMPT,
    "refuse": texts.SAFEDECODING_REFUSE,
}
"""System texts under which the model is asked, in order of preference; the authors use the later kind for models that
hardly refuse."""

TARGETS = (("q_proj", "v_proj"), ("query_key_value",), ("qkv_proj",), ("Wqkv",), ("c_attn",))
"""Last names of attention projections: the first group that the model has is adapted. The authors adapt q and v."""

_NO_PREFIX = Prefix(0, (), ())
_LEAST = {"rank": 1, "epochs": 1, "batch": 1, "per_request": 1, "most": 1, "reply_tokens": 1, "seed": 0}


@dataclass(frozen=True)
class ExpertSettings:
    """The authors' settings; they fix the result together with the refusals and the model.

    rank, lora_alpha, dropout (on the adapters' inputs): LoRA. lr falls linearly to 0 after `warmup` (a share of all
    steps). clip: largest gradient norm. batch: rows a step. per_request: refusals of one request at most; most: rows in
    all, drawn with the seed (the authors' data sets hold 61 to 72). reply_tokens: supervised tokens of a refusal.
    """

    rank: int = 16
    lora_alpha: float = 64.0
    dropout: float = 0.1
    lr: float = 2e-3
    epochs: int = 2
    batch: int = 1
    warmup: float = 0.03
    clip: float = 0.3
    per_request: int = 2
    most: int = 72
    reply_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be at least {least}.")
        for name in ("lora_alpha", "lr", "clip"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0.0):
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be above 0.")
        for name in ("dropout", "warmup"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must lie in [0, 1).")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step `step` (from 0) of `steps`."""
        warm = math.ceil(self.warmup * steps)
        return self.lr * ((step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm))


def train_expert(
    model: str | Backbone,
    anchors: str | os.PathLike[str] | Sequence[AnchorPair] | None = None,
    *,
    unsafe: Sequence[Instruction] | None = None,
    refusals: Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    judge: Any = None,
    progress: bool = True,
    **settings: Any,
) -> Expert:
    """Train an expert of `model` on its own refusals and, with `out`, save it there.

    anchors: pairs or a file of pairs (as `acd tune` makes them), of which the refusals of harmful requests are taken.
    None has the model answer `unsafe` (default: the bundled harmful instructions) under three system texts; the replies
    are kept in `<out>.training/refusals.jsonl`. refusals: texts to learn in place of the model's own (the authors take
    the model's; one that hardly refuses has none); empty for ours, in the request's language. judge: default
    RefusalJudge. settings: see ExpertSettings.
    Raises TuningError (too few refusals, no attention projection, divergence, another run towards `out`), ExpertError
    (`out` is something else, or cannot be written to) and UsageError (impossible settings).
    """
    unknown = [name for name in settings if name not in ExpertSettings.__dataclass_fields__]
    if unknown:
        known = ", ".join(ExpertSettings.__dataclass_fields__)
        raise UsageError(f"Unknown setting {unknown[0]!r} of an expert.", hint=f"Settings: {known}.")
    chosen = ExpertSettings(**settings)
    if refusals is not None and anchors is not None:
        raise UsageError("anchors hold replies already, and refusals are to be supplied.", hint="Give one of the two.")
    target = Path(out) if out is not None else None
    with alone_in(work_folder(target, "training")) if target is not None else nullcontext():
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
            pairs = _own_replies(backbone, unsafe, target, judge, chosen, progress) if anchors is None else anchors
        expert = _Training(backbone, names, refusals_of(pairs, chosen), chosen).run(progress)
        if target is not None:
            expert.save(target)
        return expert


def targets_of(backbone: Backbone) -> list[str]:
    """Names of the attention projections to adapt. Raises TuningError for a model that has none of TARGETS."""
    linear = [name for name, module in backbone.model.named_modules() if linear_size(module) is not None]
    for ends in TARGETS:
        found = [name for name in linear if name.rpartition(".")[2] in ends]
        if found:
            return found
    last = sorted({name.rpartition(".")[2] for name in linear})
    raise TuningError(
        f"{backbone.model_id!r} ({backbone.model_type}) has no attention projection of a known name; the names of its "
        f"linear modules end in {', '.join(last[:12])}.",
        hint="Train a LoRA adapter with PEFT and give its folder as the expert.",
    )


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


def _own_replies(
    backbone: Backbone,
    unsafe: Sequence[Instruction] | None,
    target: Path | None,
    judge: Any,
    settings: ExpertSettings,
    progress: bool,
) -> tuple[AnchorPair, ...]:
    from acd_core.lm import ContrastiveLM

    kept = work_folder(target, "training") / "refusals.jsonl" if target is not None else None
    with ContrastiveLM(backbone) as lm:
        return anchor_data.generate_anchors(
            lm,
            safe=(),
            unsafe=unsafe,
            prompts=REFUSING_PROMPTS,
            out=kept,
            judge=judge,
            temperature=0.8,
            max_tokens=settings.reply_tokens,
            seed=settings.seed,
            progress=progress,
        )


class _Training:
    """LoRA weights in float32 beside a frozen model, and the steps that change them."""

    def __init__(
        self, backbone: Backbone, names: Sequence[str], rows: Sequence[AnchorPair], settings: ExpertSettings
    ) -> None:
        self.backbone, self.settings = backbone, settings
        self.whose = "supplied" if all(row.prompt == "supplied" for row in rows) else "the model's own"
        self.view = tuning_view(backbone)
        encoder = Encoder(backbone, Chat(backbone.tokenizer))
        self.examples = [encoder.example(pair, settings.reply_tokens) for pair in rows]
        self.generator = torch.Generator(device="cpu").manual_seed(settings.seed)
        modules = dict(backbone.model.named_modules())
        self.weights = {name: self._start(modules[name]) for name in names}

    def _start(self, module: Any) -> tuple[Tensor, Tensor]:
        """A uniform, B zero: the adapter starts as no change (Hu et al. 2021, section 4.1, drawn as PEFT does)."""
        size = linear_size(module)
        assert size is not None
        inputs, outputs = size
        device = module.weight.device
        drawn = torch.rand(self.settings.rank, inputs, generator=self.generator, dtype=torch.float32)
        down = (2.0 * drawn - 1.0) / math.sqrt(inputs)
        up = torch.zeros(outputs, self.settings.rank, dtype=torch.float32)
        return down.to(device).requires_grad_(True), up.to(device).requires_grad_(True)

    def run(self, progress: bool) -> Expert:
        settings, started = self.settings, time.monotonic()
        per_epoch = math.ceil(len(self.examples) / settings.batch)
        steps = per_epoch * settings.epochs
        parameters = [tensor for pair in self.weights.values() for tensor in pair]
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=0.0)
        before = self._mean_loss()
        with Bar("Training the expert", steps, shown=progress, unit=" steps/s") as bar:
            for step in range(steps):
                epoch, place = divmod(step, per_epoch)
                order = list(self.examples)
                random.Random(f"{settings.seed}/{epoch}").shuffle(order)
                loss = self._loss(order[place * settings.batch : (place + 1) * settings.batch], settings.dropout)
                self._check(float(loss.detach()), f"of step {step + 1}")
                found = torch.autograd.grad(loss, parameters)
                norm = float(torch.stack([grad.square().sum().cpu() for grad in found]).sum().sqrt())
                for tensor, grad in zip(parameters, found):
                    tensor.grad = grad * min(1.0, settings.clip / (norm + 1e-12))
                for group in optimizer.param_groups:
                    group["lr"] = settings.rate(step, steps)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                bar.advance(1, f"loss {float(loss.detach()):.3f}")
        after = self._mean_loss()
        self._check(after, f"after {steps} steps")
        metrics = {
            "refusals": self.whose,
            **asdict(settings),
            "rows": len(self.examples),
            "steps": steps,
            "loss_before": round(before, 4),
            "loss_after": round(after, 4),
            "seconds": round(time.monotonic() - started, 1),
        }
        weights = {name: (down.detach().cpu(), up.detach().cpu()) for name, (down, up) in self.weights.items()}
        backbone = self.backbone
        return Expert(
            weights, settings.rank, settings.lora_alpha, False, backbone.model_id, backbone.fingerprint, metrics
        )

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TuningError(
                f"The loss {where} is {loss}.",
                hint=f"Lower the step size (now --lr {self.settings.lr:g}), or load the model with --dtype float32.",
            )

    def _loss(self, rows: Sequence[Example], dropout: float) -> Tensor:
        """Mean negative log-likelihood of the rows' reply tokens."""
        scale = self.settings.lora_alpha / self.settings.rank

        def change(name: str, x: Tensor, output: Tensor) -> Tensor:
            down, up = self.weights[name]
            if dropout:
                kept = torch.rand(x.shape, generator=self.generator, dtype=torch.float32) >= dropout
                x = x * (kept.to(x.device) / (1.0 - dropout)).to(x.dtype)
            return output + lora(x.to(down.device), down.to(x.dtype), up.to(x.dtype), scale).to(output)

        replies = [row.reply for row in rows]
        width = max(len(reply) for reply in replies)
        after, fast = [row.request.plain for row in rows], torch.is_grad_enabled()
        with acting(self.view.model, [(_Learning(self.weights, change), None)]):
            logits = reply_logits(self.view, _NO_PREFIX, after, replies, width=width, fast=fast)
        targets, mask = pad_targets(replies, logits.device)
        losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        return (losses * mask).sum() / mask.sum()

    @torch.no_grad()
    def _mean_loss(self) -> float:
        """The loss over all rows, without dropout, in the model's own precision."""
        return sum(float(self._loss([row], 0.0)) for row in self.examples) / len(self.examples)


@dataclass(frozen=True)
class _Learning:
    """The intervention that is being trained: `change(name, input, output)` at each of its modules."""

    weights: Mapping[str, Any]
    change: Callable[[str, Tensor, Tensor], Tensor]
    id: str = "in training"  # no cache outlives a forward here

    def check(self, backbone: Backbone) -> None:
        """Its modules are the model's own: they were chosen from them."""

    def changes(self, model: Any) -> Mapping[str, Change]:
        return {name: functools.partial(self.change, name) for name in self.weights}
