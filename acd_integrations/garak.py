"""garak probes a model under any decoding method.

    python -m acd_integrations.garak --target_type acd --target_name reference --spec probes.dan.Ablation_Dan_11_0 \\
        --generator_options '{"acd": {"pair": "reference", "alpha": 0.3}}'

starts garak's own command line with `ContrastiveGenerator` known to it, which sends whole conversations. With the plain
`garak` command, `--target_type function --target_name acd_integrations.garak#reply` sends the last message of each.
"""

from __future__ import annotations

import functools
import logging
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from acd_core.errors import ContextLengthError, missing_extra
from acd_core.params import GenerationParams
from acd_core.spec import CALL_SETTINGS, LMSpec

try:
    from garak import _config
    from garak.attempt import Conversation, Message
    from garak.generators.base import Generator
except ImportError as error:  # pragma: no cover - depends on the installation
    raise missing_extra("garak", "garak") from error

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM

_PLUGIN = "garak.generators.acd"
_SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "seed", "stop")
_OF_SPEC = tuple(sorted({field.name for field in fields(LMSpec)} - CALL_SETTINGS - {"model", "pair"}))
_CONTRAST = ("alpha", "plausibility", "contrast_tokens", "rescale", "gate", "recheck", "graded")


class ContrastiveGenerator(Generator):
    """A local chat model under a contrastive decoding method.

    `--target_name` is the model: a folder, a hub id or "reference". The options below have the meaning they have in
    `acd_core.spec.LMSpec` and GenerationParams. A prompt that does not fit the model's context gets no reply
    (None), as garak has it. Attempts are not spread over processes: the model is in this one.
    """

    DEFAULT_PARAMS = Generator.DEFAULT_PARAMS | {
        "pair": None,
        "method": None,
        "alpha": None,
        "plausibility": None,
        "contrast_tokens": None,
        "rescale": True,
        "gate": None,
        "recheck": None,
        "graded": False,
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "stop": [],
        "dtype": "auto",
        "device": "auto",
        "revision": None,
        "expert": None,
        "gate_floor": None,
        "policy": None,
        "namespace": None,
        "options": None,
        "deterministic": False,
        "generation_defaults": True,
        "allow_adversarial": False,
    }
    generator_family_name = "acd"
    supports_multiple_generations = True
    parallel_capable = False
    # garak reads a plugin's options by the name of its module, and knows modules of its own package only.
    __module__ = _PLUGIN

    def __init__(self, name: str = "reference", config_root: Any = _config) -> None:
        self.name = name
        self._load_config(config_root)
        super().__init__(self.name, config_root=config_root)
        own, _ = LMSpec.split({key: getattr(self, key) for key in (*_OF_SPEC, "recheck")})
        self._lm = _loaded(LMSpec(self.name, self.pair, self.method, **own))
        given = {key: getattr(self, key) for key in (*_SAMPLING, *_CONTRAST)}
        self._params = GenerationParams.of(None, **{key: value for key, value in given.items() if value is not None})

    def _call_model(self, prompt: Conversation, generations_this_call: int = 1) -> list[Message | None]:
        turns = [{"role": turn.role, "content": turn.content.text or ""} for turn in prompt.turns]
        return [
            None if text is None else Message(text)
            for text in _replies(self._lm, turns, self._params, generations_this_call)
        ]


def reply(
    prompt: str,
    model: str = "reference",
    pair: str | None = None,
    method: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    **settings: Any,
) -> list[str | None]:
    """One reply to one message, for garak's function target; its `kwargs` option holds the other arguments.

    `settings` are fields of LMSpec, GenerationParams and ContrastParams. None where the prompt does not fit the
    context.
    """
    own, for_calls = LMSpec.split(settings)
    lm = _loaded(LMSpec(model, pair, method, **{"dtype": dtype, "device": device, **own}))
    return _replies(lm, [{"role": "user", "content": prompt or ""}], GenerationParams.of(None, **for_calls), 1)


def _replies(lm: ContrastiveLM, turns: list[dict[str, Any]], params: GenerationParams, count: int) -> list[str | None]:
    """`count` replies. Greedy ones are all alike, so one is made; seeded draws differ by their number."""
    if all(turn["role"] == "system" for turn in turns):
        turns = [*turns, {"role": "user", "content": ""}]  # garak poses empty prompts
    greedy = params.temperature == 0.0
    try:
        if params.seed is None or greedy:
            made = lm.generate([turns] * (1 if greedy else count), params)
        else:
            made = [lm.generate(turns, params, seed=params.seed + number) for number in range(count)]
    except ContextLengthError as error:
        logging.warning("acd: %s", error.message)
        return [None] * count
    texts: list[str | None] = [each.text for each in made]
    return texts * count if greedy else texts


@functools.cache
def _loaded(spec: LMSpec) -> ContrastiveLM:
    return spec.load()


DEFAULT_CLASS = "ContrastiveGenerator"
sys.modules[_PLUGIN] = sys.modules[__name__]

if __name__ == "__main__":
    from garak.cli import main

    main(sys.argv[1:])
