"""The two soft prompts of a pair, as a trainable: vectors in front of every request, run once a step.

The keys and values of a prompt are computed once for all rows of a step. The rows' backward passes end in copies of
them, cut off the graph (`Prefix.leaves`); one pass at the end carries the sums on to the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.pair import PromptPair
from acd_core.chat import Chat
from acd_core.model.backbone import Backbone
from acd_core.tuning.examples import Row
from acd_core.tuning.streams import Prefix, ReplyScores, prefill, reply_scores, shared_start
from acd_core.tuning.trainable import Ids, ParameterGroup, no_gradient

PROMPTS = ("safe", "adversarial")
SHARED = 16
"""Ids that rows must have in common before they are run once for all: bare requests share a few, and no more."""


class SoftPrompts:
    """Trainable prompts {"safe", "adversarial"}: [n, width], float32 (float64 for a float64 model)."""

    kind = "prompt"
    streams = (*PROMPTS, "plain")
    generator: torch.Generator | None = None
    repeatable = True

    def __init__(self, before: Ids, prompts: Mapping[str, Tensor], plain: Prefix | None = None) -> None:
        """before: ids that every layout has in front of the prompt. plain: the start that all layouts without a prompt
        of ours have in common; None where each step runs that of its own rows."""
        self.tensors = dict(prompts)
        self.groups = [
            ParameterGroup((name,), float(prompt.detach().square().mean().sqrt())) for name, prompt in prompts.items()
        ]
        self._before, self._plain = before, plain

    @classmethod
    def from_texts(cls, backbone: Backbone, before: Ids, texts: Mapping[str, str], plain: Prefix | None) -> SoftPrompts:
        """Start from the embeddings of `texts`, by the prompts' names."""
        return cls(before, {name: _embedded(backbone, text) for name, text in texts.items()}, plain)

    @property
    def positions(self) -> int:
        return len(self._before) + max(len(prompt) for prompt in self.tensors.values())

    def forwards(
        self, view: Backbone, rows: Sequence[Row], streams: frozenset[str], *, learning: bool = True
    ) -> SoftPromptForwards:
        """Run both prompts, with what all rows have behind them, once."""
        behind = _alike([row.example.request.after for row in rows])
        prefixes = {
            name: prefill(view, self._before, self.tensors[name], behind, fast=learning)
            for name in PROMPTS
            if name in streams
        }
        plain = self._plain
        if plain is None and "plain" in streams:
            starts = [row.example.request.plain for row in rows]
            with torch.no_grad():
                plain = prefill(view, starts[0][: shared_start(starts)], fast=learning)
        return SoftPromptForwards(view, self.tensors, prefixes, len(behind), plain, learning)

    def artifact(
        self, backbone: Backbone, tensors: Mapping[str, Tensor], metrics: Mapping[str, Any], **settings: Any
    ) -> PromptPair:
        """A pair. settings: the gate and the recommended decoding (see `PromptPair.from_tensors`)."""
        safe, adversarial = (tensors[name] for name in PROMPTS)
        return PromptPair.from_tensors(safe, adversarial, backbone=backbone, metrics=dict(metrics), **settings)


class SoftPromptForwards:
    """The prompts' prefixes of one step, and rows behind them."""

    def __init__(
        self,
        view: Backbone,
        prompts: Mapping[str, Tensor],
        prefixes: Mapping[str, Prefix],
        known: int,
        plain: Prefix | None,
        learning: bool,
    ) -> None:
        """known: ids behind the prompt that the prefixes hold already."""
        self._view, self._prompts, self._prefixes = view, prompts, prefixes
        self._known, self._plain, self._learning = known, plain, learning
        self.sources = [leaf for prefix in prefixes.values() for leaf in prefix.leaves]

    def scores(
        self, stream: str, rows: Sequence[Row], replies: Sequence[Ids], *, width: int, layers: Sequence[int]
    ) -> ReplyScores:
        """Those of one prompt; those of the model alone (stream "plain") carry no gradient."""
        if stream != "plain":
            after = [row.example.request.after[self._known :] for row in rows]
            prefix = self._prefixes[stream]
            return reply_scores(self._view, prefix, after, replies, width=width, fast=self._learning, layers=layers)
        if self._plain is None:
            raise ValueError("a term pulls to the plain model, but its prefix was not given")
        with torch.no_grad():
            after = [row.example.request.plain[self._plain.length :] for row in rows]
            return reply_scores(
                self._view, self._plain, after, replies, width=width, fast=self._learning, layers=layers
            )

    def gradients(self, found: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """[n, width] for each prompt; zeros for one that no row of the step ran behind."""
        result: dict[str, Tensor] = {}
        first = 0
        for name in PROMPTS:
            prefix = self._prefixes.get(name)
            if prefix is None:
                result[name] = torch.zeros_like(self._prompts[name])
                continue
            given = found[first : first + len(prefix.leaves)]
            first += len(prefix.leaves)
            reached = [(root, grad) for root, grad in zip(prefix.roots, given) if grad is not None]
            if not reached or not all(root.requires_grad for root, _ in reached):
                raise no_gradient(self._view, SoftPrompts.kind)
            (result[name],) = torch.autograd.grad(
                [root for root, _ in reached], [self._prompts[name]], [grad.to(root.dtype) for root, grad in reached]
            )
        return result


def _embedded(backbone: Backbone, text: str) -> Tensor:
    """The embeddings of `text`, to be trained: float32, or float64 as the model's."""
    ids = torch.tensor(Chat(backbone.tokenizer).encode_text(text), dtype=torch.long)
    with torch.no_grad():
        vectors = backbone.embed(ids)
    precision = torch.float64 if vectors.dtype == torch.float64 else torch.float32
    return vectors.detach().to(precision).clone().requires_grad_(True)


def _alike(rows: Sequence[Ids]) -> tuple[int, ...]:
    """The ids that all rows start with, where they are worth running once for all of them."""
    shared = shared_start(rows) if len(rows) > 1 else 0
    return tuple(rows[0][:shared]) if shared >= SHARED else ()
