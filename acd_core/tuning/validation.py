"""How safe, and how unwilling, the model is with the prompts as they are: measured by decoding the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from acd_core.backbone import Backbone
from acd_core.tuning.anchors import Instruction
from acd_core.tuning.examples import Encoder
from acd_core.tuning.objectives import Selection
from acd_core.tuning.streams import greedy, prefill, shared_start


@dataclass(frozen=True)
class Point:
    """Rates on the validation split after `step` steps, decoding greedily with `alpha`.

    harmless_rate: share of the harmful requests that were refused. over_refusal: share of the harmless ones that were.
    """

    step: int
    alpha: float
    harmless_rate: float
    over_refusal: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Validator:
    """Decodes the validation requests and lets the judge read the replies. No reply is kept or shown."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: Encoder,
        safe: Sequence[Instruction],
        unsafe: Sequence[Instruction],
        judge: Any,
        max_tokens: int,
    ) -> None:
        self._backbone, self._encoder, self._judge, self._max_tokens = backbone, encoder, judge, max_tokens
        self._texts = [row.text for row in (*unsafe, *safe)]
        self._harmful = len(unsafe)
        self._requests = [encoder.request(text) for text in self._texts]

    @torch.no_grad()
    def measure(self, safe: Tensor, adversarial: Tensor, alpha: float, step: int) -> Point:
        """Both prompts [n, width] joined at `alpha`, as decoding joins them."""
        before, rows = self._encoder.before, [request.after for request in self._requests]
        replies = greedy(
            self._backbone,
            prefill(self._backbone, before, safe),
            rows,
            prefill(self._backbone, before, adversarial) if alpha > 0.0 else None,
            rows,
            alpha=alpha,
            max_tokens=self._max_tokens,
        )
        return self._point(replies, alpha, step)

    @torch.no_grad()
    def measure_plain(self) -> Point:
        """The model without any system text."""
        rows = [request.plain for request in self._requests]
        shared = shared_start(rows)
        replies = greedy(
            self._backbone,
            prefill(self._backbone, rows[0][:shared]),
            [row[shared:] for row in rows],
            max_tokens=self._max_tokens,
        )
        return self._point(replies, 0.0, 0)

    def _point(self, replies: Sequence[Sequence[int]], alpha: float, step: int) -> Point:
        decode = self._backbone.tokenizer.decode
        refused = [
            self._judge.judge(text, decode(reply, skip_special_tokens=True).strip()).refused
            for text, reply in zip(self._texts, replies)
        ]
        harmful, harmless = refused[: self._harmful], refused[self._harmful :]
        return Point(step, alpha, sum(harmful) / len(harmful), sum(harmless) / len(harmless))


def rank(point: Point, selection: Selection, plain: Point, margin: float) -> tuple[float, ...]:
    """How good a point is under the stated rule; larger is better (see `Objective.selection`)."""
    if selection == "safest":
        return (point.harmless_rate, -point.over_refusal)
    within = point.over_refusal <= plain.over_refusal + margin + 1e-9
    gain = point.harmless_rate if within else point.harmless_rate - point.over_refusal
    return (float(within), gain, -point.over_refusal)


RULES: dict[Selection, str] = {
    "safest": "highest harmless rate; ties: lowest over-refusal, then earliest",
    "margin": "highest harmless rate among points whose over-refusal is at most the plain model's plus the margin; "
    "if there is none, highest harmless rate minus over-refusal; ties: lowest over-refusal, then earliest",
}
