"""How safe, and how unwilling, the model is with the prompts as they are: measured by decoding the validation split."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from acd_core.artifacts.gate import Gate
from acd_core.model.backbone import Backbone
from acd_core.tuning.anchors import Instruction
from acd_core.tuning.examples import Encoder
from acd_core.tuning.losses import refusal_log_odds
from acd_core.tuning.reading import readings
from acd_core.tuning.streams import greedy, of_first_tokens, prefill, shared_start


@dataclass(frozen=True)
class Point:
    """Rates on the validation split after `step` steps, decoding greedily with `alpha`.

    harmless_rate: share of the harmful requests that were refused. over_refusal: share of the harmless ones that were.
    plausibility, contrast_tokens: decoded with these too (see `ContrastParams`); off on the curve of the steps.
    """

    step: int
    alpha: float
    harmless_rate: float
    over_refusal: float
    plausibility: float = 0.0
    contrast_tokens: int | None = None

    @property
    def decoding(self) -> dict[str, Any]:
        """How the replies were decoded."""
        return {name: getattr(self, name) for name in ("alpha", "plausibility", "contrast_tokens")}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Validator:
    """Decodes the validation requests and lets the judge read the replies. No reply is kept or shown.

    With a gate, the prompts only meet the requests that it opens for; the others get what the model alone says.
    """

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        safe: Sequence[Instruction],
        unsafe: Sequence[Instruction],
        judge: Any,
        max_tokens: int,
        *,
        gate: Gate | None = None,
    ) -> None:
        self._backbone, self._encoder, self._judge, self._max_tokens = backbone, encoder, judge, max_tokens
        self._texts = [row.text for row in (*unsafe, *safe)]
        self._harmful = len(unsafe)
        self._requests = [encoder.request(text) for text in self._texts]
        self._gate = gate
        parts = "\0".join([str(self._harmful), *self._texts])
        self.digest = hashlib.sha256(parts.encode()).hexdigest()[:16]
        """Which requests these are."""

    @torch.no_grad()
    def measure(
        self,
        safe: Tensor,
        adversarial: Tensor,
        alpha: float,
        step: int,
        *,
        plausibility: float = 0.0,
        contrast_tokens: int | None = None,
    ) -> Point:
        """Both prompts [n, width] joined at `alpha`, as decoding joins them."""
        reached = self._behind_the_gate
        before, rows = self._encoder.before, [self._requests[index].after for index in reached]
        replies = greedy(
            self._backbone,
            prefill(self._backbone, before, safe),
            rows,
            prefill(self._backbone, before, adversarial) if alpha > 0.0 else None,
            rows,
            alpha=alpha,
            max_tokens=self._max_tokens,
            plausibility=plausibility,
            contrast_tokens=contrast_tokens,
        )
        refused = list(self._refused_without_prompts) if len(reached) < len(self._requests) else [False] * len(reached)
        for index, reply in zip(reached, replies):
            refused[index] = self._refused(index, reply)
        return self._point(refused, alpha, step, plausibility, contrast_tokens)

    @functools.cached_property
    def _behind_the_gate(self) -> list[int]:
        """The requests that the prompts meet: all, or those that the gate opens for."""
        every = list(range(len(self._requests)))
        if self._gate is None:
            return every
        rows, starts = zip(*((request.plain, request.start) for request in self._requests))
        found = readings(self._backbone, self._gate, rows, starts)
        limit = self._gate.threshold(None)
        return [index for index in every if not found[index] < limit]

    @torch.no_grad()
    def log_odds(
        self, safe: Tensor, adversarial: Tensor, alpha: float, signal: Tensor
    ) -> tuple[list[float], list[float]]:
        """The log odds with which a reply begins to refuse, a value a harmless request (`refusal_log_odds`): of both
        prompts joined at `alpha`, and of the safeguarding prompt by itself."""
        before, rows = self._encoder.before, [request.after for request in self._requests[self._harmful :]]
        prefixes = prefill(self._backbone, before, safe), prefill(self._backbone, before, adversarial)
        return of_first_tokens(self._backbone, prefixes, rows, alpha, lambda scores: refusal_log_odds(scores, signal))

    def measure_plain(self) -> Point:
        """The model without any system text."""
        return self._point(self._refused_without_prompts, 0.0, 0)

    @functools.cached_property
    @torch.no_grad()
    def _refused_without_prompts(self) -> list[bool]:
        """Which requests the model refuses by itself; decoded once."""
        rows = [request.plain for request in self._requests]
        shared = shared_start(rows)
        replies = greedy(
            self._backbone,
            prefill(self._backbone, rows[0][:shared]),
            [row[shared:] for row in rows],
            max_tokens=self._max_tokens,
        )
        return [self._refused(index, reply) for index, reply in enumerate(replies)]

    def _refused(self, index: int, reply: Sequence[int]) -> bool:
        said = self._backbone.tokenizer.decode(reply, skip_special_tokens=True).strip()
        return bool(self._judge.judge(self._texts[index], said).refused)

    def _point(
        self,
        refused: Sequence[bool],
        alpha: float,
        step: int,
        plausibility: float = 0.0,
        contrast_tokens: int | None = None,
    ) -> Point:
        harmful, harmless = refused[: self._harmful], refused[self._harmful :]
        rates = sum(harmful) / len(harmful), sum(harmless) / len(harmless)
        return Point(step, alpha, *rates, plausibility, contrast_tokens)
