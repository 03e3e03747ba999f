"""What a model's own generation_config has its decoding do, as far as it is part of how the model is meant to decode.

"The model alone" is the model as shipped: a repetition penalty, suppressed tokens or bad words of its files bend
the scores here as they do in `generate`, by transformers' own processors. How to draw (temperature, top_p and so on)
stays the caller's choice, and greedy where the caller makes none. What would be another way to search (beams,
constraints) cannot be done here, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor
from transformers.generation.logits_process import (
    ExponentialDecayLengthPenalty,
    MinLengthLogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

SAMPLING = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h",
    "max_new_tokens", "max_length",
)  # fmt: skip
"""Settings of a call, not of the model: told, and used where a call asks for them."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "guidance_scale": (1, 1.0),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "dola_layers": (),
    "constraints": ([],),
    "force_words_ids": ([],),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "watermarking_config": (),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
}
"""What cannot be honoured, with the values under which it asks for nothing. (`forced_bos_token_id` is not among them:
it acts on prompts of one token, and no chat is that short.)"""


@dataclass(frozen=True)
class ModelDefaults:
    """repetition_penalty: for calls that ask for none of their own. before, after: processors around that penalty,
    each with whether it looks at the reply's ids alone instead of the prompt's and the reply's. stop: texts that end a
    reply. honoured, sampling, ignored: what the config says, for people."""

    repetition_penalty: float = 1.0
    before: tuple[tuple[bool, LogitsProcessor], ...] = ()
    after: tuple[tuple[bool, LogitsProcessor], ...] = ()
    stop: tuple[str, ...] = ()
    honoured: tuple[str, ...] = ()
    sampling: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Any, eos_ids: frozenset[int], device: torch.device) -> ModelDefaults:
        """Return the defaults in the generation_config of `model`. eos_ids: what ends a reply.

        Raises ValueError, from the processors, for an impossible value in the config.
        """
        config = getattr(model, "generation_config", None)

        def asked(name: str, *neutral: Any) -> Any:
            value = getattr(config, name, None)
            return None if value is None or any(value == each for each in neutral) else value

        ends = torch.tensor(sorted(eos_ids), dtype=torch.long, device=device)
        bias = asked("sequence_bias", {}, [])
        made: list[tuple[str, bool, Callable[[Any], LogitsProcessor]]] = [
            ("no_repeat_ngram_size", False, NoRepeatNGramLogitsProcessor),
            ("bad_words_ids", False, lambda value: NoBadWordsLogitsProcessor(value, ends)),
            ("suppress_tokens", True, lambda value: SuppressTokensLogitsProcessor(value, device=str(device))),
            (
                "begin_suppress_tokens",
                True,
                lambda value: SuppressTokensAtBeginLogitsProcessor(value, 0, device=str(device)),
            ),
        ]
        if eos_ids:  # the ids of the reply start at 0, so that is where these begin to count
            made[2:2] = [
                ("min_length", False, lambda value: MinLengthLogitsProcessor(value, ends, device=str(device))),
                (
                    "min_new_tokens",
                    True,
                    lambda value: MinNewTokensLengthLogitsProcessor(0, value, ends, device=str(device)),
                ),
                (
                    "exponential_decay_length_penalty",
                    True,
                    lambda value: ExponentialDecayLengthPenalty(tuple(value), ends, 0),
                ),
            ]
        penalty = asked("repetition_penalty", 1.0)
        after = []
        honoured = [f"repetition_penalty {penalty:g}"] if penalty is not None else []
        if bias is not None:
            honoured.append("sequence_bias")
        for name, own, make in made:
            value = asked(name, 0, [])
            if value is not None:
                after.append((own, make(value)))
                honoured.append(_in_words(name, value))
        stop = asked("stop_strings", []) or ()
        if stop:
            honoured.append(_in_words("stop_strings", stop))
        return cls(
            repetition_penalty=1.0 if penalty is None else float(penalty),
            before=() if bias is None else ((False, SequenceBiasLogitsProcessor(bias)),),
            after=tuple(after),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            honoured=tuple(honoured),
            sampling=tuple(_in_words(name, value) for name in SAMPLING if (value := asked(name, False)) is not None),
            ignored=tuple(
                _in_words(name, value)
                for name, neutral in _NEUTRAL.items()
                if (value := asked(name, *neutral)) is not None
            ),
        )

    def describe(self) -> dict[str, str]:
        """Return what `acd doctor` prints."""
        told = {"model's own decoding": f"{', '.join(self.honoured)} (in force)" if self.honoured else "plain scores"}
        suggested = f"; its files suggest {', '.join(self.sampling)}, for calls that ask" if self.sampling else ""
        told["drawing"] = f"greedy unless a call asks for a temperature{suggested}"
        if self.ignored:
            told["cannot be done"] = f"{', '.join(self.ignored)} of its generation_config"
        return told


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) > 4:
        return f"{name} of {len(value)}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
