"""What kind of thing a folder given as `expert=` holds, by its main file. No torch: for code that must be cheap."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

from acd_core.errors import ACDError, ExpertError
from acd_core.files.reading import as_object
from acd_core.files.saving import newest_place
from acd_core.params import default_method

Kind = Literal["lora", "scans", "alphasteer", "tsdi"]
"""What can be learnt for a model and given with it: a LoRA adapter, steering of two kinds, or a bias of the logits."""
KINDS: tuple[Kind, ...] = get_args(Kind)

STEERING_MAIN, BIAS_MAIN = "steering.json", "refusal_bias.json"
NAMES: dict[str, str] = {
    "lora": "a LoRA adapter",
    "scans": "SCANS' steering",
    "alphasteer": "AlphaSteer's steering",
    "tsdi": "TSDI's bias",
}
MAKE: dict[str, str] = {
    "lora": "acd expert --model {model} --out my-expert, then expert='my-expert'.",
    "scans": "acd train scans --model {model} --out my-steering, then expert='my-steering'.",
    "alphasteer": "acd train alphasteer --model {model} --out my-steering, then expert='my-steering'.",
    "tsdi": "acd train tsdi --model {model} --out my-bias, then expert='my-bias'.",
}


def kind_of(expert: object | None) -> str:
    """The kind of `expert`: of an object its own, of a folder what its main file says; "lora" where nothing is said."""
    if not isinstance(expert, (str, os.PathLike)):
        return str(getattr(expert, "kind", "lora"))
    if newest_place(Path(expert), BIAS_MAIN, BIAS_MAIN).is_file():
        return "tsdi"
    place = newest_place(Path(expert), STEERING_MAIN, STEERING_MAIN)
    try:
        found = as_object(place.read_bytes(), STEERING_MAIN, ExpertError).get("kind") if place.is_file() else "lora"
    except (OSError, ACDError):  # who loads it says what is wrong
        return "lora"
    return str(found) if found in KINDS else "lora"


def method_for(pair: object | None, expert: object | None) -> str:
    """The method of a model with this pair and this expert (an object, or its folder) where none is named."""
    kind = kind_of(expert)
    return kind if pair is None and kind != "lora" else default_method(pair, expert)
