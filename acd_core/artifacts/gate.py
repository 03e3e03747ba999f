"""The gate: contrast only where the model itself reads harm.

A linear reading of the hidden states says how likely a request aims at harm (linear probes: Alain and Bengio, arXiv
1610.01644; conditions on hidden states while decoding: CAST, arXiv 2409.05907; reading again at a re-injected header:
ADA, ICLR 2026). Below its threshold the gate stays closed: the model alone replies, and nothing of ours is in the
prompt. Above, or where the reading is not a number, it opens, and the method's own rows take over.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from acd_core.errors import GateError, PairMismatchError, PolicyError, UsageError, one_line
from acd_core.locks import lazy
from acd_core.model.backbone import Backbone
from acd_core.model.fingerprint import another_model, fields, of_fields
from acd_core.model.hidden_states import layer_count
from acd_core.params import ContrastParams, GenerationParams

Head = Literal["token", "header", "appended"]
HEADS: tuple[Head, ...] = ("token", "header", "appended")
TOP = 3
"""Tokens of the last turn whose readings are averaged: one alone is noise, more are fewer than a short request has."""
EVERY = 32
"""Reply tokens between two readings, unless something else is asked for."""
_MAKE = "Learn one for this model: acd gate --model M --pair my-pair"


@dataclass(frozen=True)
class Levels:
    """Readings of validation requests at one place, sorted: what a threshold there comes to.

    harmless, harmful: readings of requests that learning never saw, as applications dress them. threshold: recommended.
    """

    harmless: tuple[float, ...]
    harmful: tuple[float, ...]
    threshold: float

    def __post_init__(self) -> None:
        numbers = (*self.harmless, *self.harmful, self.threshold)
        if not self.harmless or not self.harmful or not all(math.isfinite(each) for each in numbers):
            raise GateError("The gate's validation readings are missing or not finite.", hint=_MAKE)

    def at(self, share: float) -> float:
        """The threshold above which `share` of the harmless validation requests lie; 1 opens for everything."""
        if share >= 1.0:
            return -math.inf
        ordered = sorted(self.harmless)
        return ordered[min(len(ordered) - 1, max(0, math.ceil(len(ordered) * (1.0 - share) - 1e-9) - 1))]

    def share(self, threshold: float | None = None) -> float:
        """The share of harmless validation requests above `threshold` (the recommended one)."""
        limit = self.threshold if threshold is None else threshold
        return 1.0 - bisect.bisect_right(sorted(self.harmless), limit) / len(self.harmless)

    def caught(self, threshold: float | None = None) -> float:
        """The share of harmful validation requests above `threshold` (the recommended one)."""
        limit = self.threshold if threshold is None else threshold
        return 1.0 - bisect.bisect_right(sorted(self.harmful), limit) / len(self.harmful)


@dataclass(frozen=True, eq=False)  # by identity: tensors have no one equality
class Gate:
    """A reading and its thresholds, of one model.

    layers: decoder layers it looks at, from 1. weights: [3, layers, width] float32, scaling folded in, with biases [3]:
    one linear map each for the tokens of the last turn, for the last token of the prompt (the end of the assistant
    header), and for the end of a header appended to a reply under way (HEADS). prompt: levels of `of_prompt`. reply:
    levels of `of_reply`; None where the template has no header to append, so that replies are not read again. carried:
    how much of the prompt's reading counts again in a reply.
    """

    layers: tuple[int, ...]
    weights: torch.Tensor
    biases: tuple[float, float, float]
    prompt: Levels
    reply: Levels | None
    base_model: str | None = None
    fingerprint: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    carried: float = 0.0

    def __post_init__(self) -> None:
        shape = tuple(self.weights.shape)
        if len(shape) != 3 or shape[:2] != (len(HEADS), len(self.layers)) or not self.layers or min(self.layers) < 1:
            raise GateError(f"The gate's weights have shape {shape} for the layers {list(self.layers)}.", hint=_MAKE)
        if len(self.biases) != len(HEADS) or not all(map(math.isfinite, (*self.biases, self.carried))):
            raise GateError(f"The gate's biases are {list(self.biases)}; they must be three numbers.", hint=_MAKE)
        if not bool(torch.isfinite(self.weights).all()):
            raise GateError("The gate's weights are not finite.", hint=_MAKE)

    @lazy
    def id(self) -> str:
        """A hash of everything that decides about a reply."""
        told = self.document()
        told.pop("weights_sample", None)  # of the model, which the fingerprint stands for
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        digest.update(self.weights.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def check(self, backbone: Backbone) -> None:
        """Raise PairMismatchError unless this gate was learnt on `backbone`."""
        width = int(getattr(backbone.config, "hidden_size", 0) or backbone.embedding_width)
        hint = f"Learn one for this model: acd gate --model {backbone.model_id} --pair my-pair"
        if int(self.weights.shape[-1]) != width:
            raise PairMismatchError(
                f"The gate reads hidden states of width {int(self.weights.shape[-1])}, but those of "
                f"{backbone.model_id!r} are {width} wide: it was learnt on {self.base_model!r}.",
                hint=hint,
            )
        if max(self.layers) > layer_count(backbone.model):
            raise PairMismatchError(
                f"The gate reads layer {max(self.layers)}, but {backbone.model_id!r} has "
                f"{layer_count(backbone.model)}: it was learnt on {self.base_model!r}.",
                hint=hint,
            )
        wrong = another_model(self.fingerprint, self.base_model, backbone, "learnt on")
        if wrong is not None:
            raise PairMismatchError(f"The gate was {wrong}. Other weights, other hidden states.", hint=hint)

    def logits(self, head: Head, states: Mapping[int, torch.Tensor]) -> torch.Tensor:
        """states: layer -> [..., width] -> log odds [...] float32."""
        at = HEADS.index(head)
        total: torch.Tensor | None = None
        for weight, layer in zip(self.weights[at], self.layers):
            state = states[layer].float()
            part = state @ weight.to(state.device)
            total = part if total is None else total + part.to(total.device)
        assert total is not None
        # An overflow must not pass for "harmless": what is not finite is not a number, and that opens the gate.
        return torch.where(total.isfinite(), total + self.biases[at], math.nan)

    @staticmethod
    def of_prompt(tokens: Sequence[float], header: float | None) -> float:
        """The reading of a prompt: the mean of the TOP highest of its last turn's `tokens`, and what its `header` adds.

        A harmful request wakes the tokens it is written in, whatever stands around it in a retrieval template or an
        application's frame; the header sums up what is asked. None for a prompt that does not end in a header: that
        adds nothing. NaN where either is."""
        highest = sorted((each for each in tokens if each == each), reverse=True)[:TOP]
        if len(highest) < len(tokens) and any(each != each for each in tokens):
            return math.nan
        return (sum(highest) / len(highest) if highest else 0.0) + (header or 0.0)

    def of_reply(self, prompt: float | None, appended: float) -> float:
        """The reading of a reply under way: that of a header appended to it, and some of what the prompt's was."""
        return appended + self.carried * (prompt if prompt is not None and math.isfinite(prompt) else 0.0)

    def threshold(self, share: float | None, *, reply: bool = False) -> float:
        """The threshold at the end of a prompt, or again in a reply. share: None for the recommended one, else the
        share of harmless validation requests it may open for."""
        levels = self.reply if reply and self.reply is not None else self.prompt
        return levels.threshold if share is None else levels.at(share)

    def grade(self, reading: float, threshold: float) -> float:
        """How far beyond `threshold`, in [0, 1]: 0 at it, 1 from the median harmful validation request on."""
        if not math.isfinite(reading) or not math.isfinite(threshold):
            return 1.0
        full = sorted(self.prompt.harmful)[len(self.prompt.harmful) // 2]
        return 1.0 if full <= threshold else min(1.0, max(0.0, (reading - threshold) / (full - threshold)))

    def document(self) -> dict[str, Any]:
        """What pair.json keeps beside the weights."""
        return {
            "layers": list(self.layers),
            "biases": list(self.biases),
            "carried": self.carried,
            "base_model": self.base_model,
            **fields(self.fingerprint),
            "prompt": _levels(self.prompt),
            "reply": None if self.reply is None else _levels(self.reply),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any], weights: torch.Tensor) -> Gate:
        """A gate from what `document` gave and its weights. Raises GateError for anything that does not fit."""
        try:
            reply = document.get("reply")
            return cls(
                tuple(_number(layer, int) for layer in document["layers"]),
                weights.float(),
                _three(document["biases"]),
                _read_levels(document["prompt"]),
                None if reply is None else _read_levels(reply),
                _kept(document, "base_model", str),
                of_fields(document),
                _kept(document, "metrics", dict) or {},
                float(_number(document["carried"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise GateError(f"The gate's description is damaged: {one_line(error, 120)}", hint=_MAKE) from error


@dataclass(frozen=True)
class Opening:
    """How one request's gate works. threshold, again: least readings that open it, of the prompt and in a reply. every:
    reply tokens between two readings, 0 for none after the prompt's."""

    gate: Gate
    threshold: float
    again: float
    every: int


@dataclass(frozen=True)
class GateRules:
    """What the operator of a model wants of its gate, and how far a call may depart from it.

    gate: None where the pair has none. setting, recheck: as in `ContrastParams`, for calls that say nothing.
    floor: the least share a call may ask for. With a floor, no call may read replies less often, grade the contrast or
    do without a method either. No gate at all (`gate=False`) is always allowed: the method then acts on every request.
    """

    gate: Gate | None = None
    setting: bool | float | None = None
    floor: float | None = None
    recheck: int = EVERY

    def __post_init__(self) -> None:
        GenerationParams.of(gate=self.setting, recheck=self.recheck)  # raises for impossible values
        if self.floor is not None and not 0.0 < self.floor <= 1.0:
            raise UsageError(
                f"gate_floor is {self.floor!r}; a share lies in (0, 1].", hint="For example gate_floor=0.02."
            )
        if self.gate is None and (self.floor is not None or (self.setting is not None and self.setting is not False)):
            raise GateError("A gate was asked for, and the pair has none.", hint=_MAKE)

    def of(self, asked: ContrastParams, floor: float | None = None, longest: int | None = None) -> Opening | None:
        """The gate of a request with these settings; None where the method acts on it in any case.

        floor: a further one (a policy's); the higher of two counts. longest: most reply tokens between two readings.
        """
        setting = self.setting if asked.gate is None else asked.gate
        if setting is False or (setting is None and self.gate is None):
            return None
        if self.gate is None:
            raise GateError("A gate was asked for, and the pair has none.", hint=_MAKE)
        every = self.recheck if asked.recheck is None else asked.recheck
        share = None if setting is None or setting is True else float(setting)
        if self.floor is not None and self.recheck:
            longest = self.recheck if longest is None else min(longest, self.recheck)
        floor = max((each for each in (self.floor, floor) if each is not None), default=None)
        if longest is not None and not 0 < every <= longest:
            raise PolicyError(
                f"recheck is {every}, and the operator has replies read every {longest} tokens.",
                hint="Ask for fewer tokens between readings, or leave recheck out.",
            )
        if floor is not None:
            if share is not None and share < floor:
                raise PolicyError(
                    f"gate is {share:g}, and the operator's floor is {floor:g}.",
                    hint="Ask for a larger share, or leave gate out.",
                )
            if asked.graded:
                raise PolicyError("The operator's floor allows no graded gate.", hint="Leave graded out.")
        threshold, again = (self.gate.threshold(share, reply=reply) for reply in (False, True))
        if floor is not None:  # where the gate's own threshold would open for fewer
            threshold = min(threshold, self.gate.threshold(floor))
            again = min(again, self.gate.threshold(floor, reply=True))
        return Opening(self.gate, threshold, again, every)

    def check_method(self, name: str, own: str) -> None:
        """Raise UsageError where a floor is set and a call asks for the model without any method."""
        if self.floor is not None and name == "none" and own != "none":
            raise PolicyError(
                "The operator's floor allows no call without a method.", hint=f"Leave method out: {own!r}."
            )


def _three(found: Sequence[Any]) -> tuple[float, float, float]:
    first, second, third = (float(_number(each)) for each in found)
    return first, second, third


def _number(found: Any, kind: Any = (int, float)) -> Any:
    """`found` itself. Raises TypeError unless it is a number: JSON has texts and truths in such places too."""
    if isinstance(found, bool) or not isinstance(found, kind):
        raise TypeError(f"{str(found)[:40]!r} stands where a number should")
    return found


def _kept(document: Mapping[str, Any], name: str, kind: type) -> Any:
    found = document.get(name)
    if found is not None and not isinstance(found, kind):
        raise TypeError(f"{name} is {str(found)[:40]!r}")
    return found


def _levels(levels: Levels) -> dict[str, Any]:
    return {
        "threshold": round(levels.threshold, 4),
        "harmless": [round(each, 4) for each in sorted(levels.harmless)],
        "harmful": [round(each, 4) for each in sorted(levels.harmful)],
    }


def _read_levels(found: Mapping[str, Any]) -> Levels:
    def numbers(name: str) -> Sequence[float]:
        return [float(_number(each)) for each in found[name]]

    return Levels(tuple(numbers("harmless")), tuple(numbers("harmful")), float(_number(found["threshold"])))
