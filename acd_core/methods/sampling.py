"""From one row of scores to one token: transformers' own processors, a generator per request.

Order (transformers' own): repetition penalty and what the model's own generation_config asks for, temperature, top-k,
top-p, min-p. Scores are the joined logits, not log-probabilities, so that alpha = 0 is exactly what `generate` does,
repetition penalty (it looks at signs) included.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import cast

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from acd_core.model.model_defaults import ModelDefaults
from acd_core.params import GenerationParams

_NO_DEFAULTS = ModelDefaults()
_ROOM = 256
"""Least places added where ids have outgrown theirs."""
COLD = 1e-3
"""Below this temperature the best score is subtracted first: scores divided by so little would be infinite."""
COLDEST = 1e-30
"""Lower ones are taken for this one, at which no two float32 scores that differ share a chance; they round to 0."""


class Sampler:
    """Picks the tokens of one request. `signature` is equal for requests whose warpers may share one call.

    defaults: what the model's own generation_config asks for; a repetition penalty of the call's own comes before it.
    """

    def __init__(self, params: GenerationParams, device: torch.device, defaults: ModelDefaults = _NO_DEFAULTS) -> None:
        self.greedy = params.temperature == 0.0
        asked = params.repetition_penalty
        self._penalty = float(defaults.repetition_penalty if asked is None else asked)
        self._before, self._after = defaults.before, defaults.after
        processors = (*self._before, *self._after)
        self._looks_at_all = self._penalty != 1.0 or any(not own for own, _ in processors)
        self._looks_at_reply = any(own for own, _ in processors)
        self._seen: _Ids | None = None
        self._said: _Ids | None = None
        self.signature = (params.temperature, params.top_k, params.top_p, params.min_p)
        self.seed = params.seed if params.seed is not None else secrets.randbits(63)
        self.generator: torch.Generator | None = None
        if not self.greedy:
            # Seeded per request: neighbours in the batch cannot shift the draws.
            self.generator = torch.Generator(device=device if device.type != "mps" else "cpu").manual_seed(self.seed)

    @property
    def changes_scores(self) -> bool:
        """Whether `adjusted` does anything."""
        return self._penalty != 1.0 or self.may_forbid

    @property
    def may_forbid(self) -> bool:
        """Whether `adjusted` may rule tokens out."""
        return bool(self._before or self._after)

    def adjusted(
        self, scores: torch.Tensor, prompt: Sequence[int], reply: Sequence[int], begun: int = 0
    ) -> torch.Tensor:
        """scores [1, vocab] after the repetition penalty and the model's own processors. prompt: real token ids, never
        soft vectors, the first `begun` of the reply's included; reply: all ids said so far. Where both are the objects
        of the call before, only what was appended to the reply meanwhile is copied to the device."""
        seen = said = None
        if self._looks_at_all:
            self._seen = _Ids.going_on(self._seen, prompt, reply, begun, scores.device)
            seen = self._seen.all()
        if self._looks_at_reply:
            self._said = _Ids.going_on(self._said, (), reply, 0, scores.device)
            said = self._said.all()
        for own, processor in self._before:
            scores = processor(said if own else seen, scores)
        if self._penalty != 1.0:
            scores = RepetitionPenaltyLogitsProcessor(self._penalty)(seen, scores)
        for own, processor in self._after:
            scores = processor(said if own else seen, scores)
        return scores

    def draw(self, warped: torch.Tensor) -> torch.Tensor:
        """One id (int64 scalar tensor) from warped scores [vocab]."""
        if self.generator is None:
            return warped.argmax(dim=-1)
        probabilities = warped.softmax(dim=-1)
        if self.generator.device != probabilities.device:
            probabilities = probabilities.to(self.generator.device)
        return torch.multinomial(probabilities, 1, generator=self.generator)[0].to(warped.device)


class _Ids:
    """Ids on a device, int64: those of a prompt and of a reply from `begun` on, to which its owner only appends."""

    def __init__(self, prompt: Sequence[int], reply: Sequence[int], begun: int, device: torch.device) -> None:
        self._of = (prompt, reply)
        self._settings = (len(prompt), begun, device)
        self._ids = torch.tensor([[*prompt, *reply[begun:]]], dtype=torch.long, device=device)
        self._said = len(reply)

    @classmethod
    def going_on(
        cls, known: _Ids | None, prompt: Sequence[int], reply: Sequence[int], begun: int, device: torch.device
    ) -> _Ids:
        """`known` where it is of these very sequences and this device, else ids of them made anew."""
        if known is None or known._settings != (len(prompt), begun, device) or known._said > len(reply):
            return cls(prompt, reply, begun, device)
        same = prompt is known._of[0] and reply is known._of[1]
        return known if same else cls(prompt, reply, begun, device)

    def all(self) -> torch.Tensor:
        """All ids by now: a view [1, tokens], not to be written to."""
        (_, reply), (start, begun, device) = self._of, self._settings
        known, length = (start + max(0, said - begun) for said in (self._said, len(reply)))
        if length > self._ids.shape[1]:
            room = torch.zeros((1, length // 4 + _ROOM), dtype=torch.long, device=device)
            self._ids = torch.cat([self._ids[:, :known], room], dim=1)
        if length > known:
            self._ids[0, known:length] = torch.tensor(reply[known - length :], dtype=torch.long)
        self._said = len(reply)
        return self._ids[:, :length]


def warp(scores: torch.Tensor, signature: tuple[float, int, float, float]) -> torch.Tensor:
    """Temperature, top-k, top-p and min-p on scores [n, vocab], all rows with the same settings."""
    temperature, top_k, top_p, min_p = signature
    if temperature == 0.0:
        return scores
    warpers = LogitsProcessorList()
    if temperature < COLD:
        scores = scores - scores.amax(dim=-1, keepdim=True)
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(max(float(temperature), COLDEST)))
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k=top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p=top_p))
    if min_p > 0.0:
        warpers.append(MinPLogitsWarper(min_p=min_p))
    unused = torch.empty((scores.shape[0], 0), dtype=torch.long, device=scores.device)
    warped: torch.Tensor = warpers(cast(torch.LongTensor, unused), scores)
    return warped
