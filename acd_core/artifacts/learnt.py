"""What is given as `expert=`: a LoRA adapter, steering or a bias, told apart by the main file of its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from acd_core.artifacts import lora, refusal_bias, steering
from acd_core.artifacts.learnt_files import BIAS_MAIN, STEERING_MAIN
from acd_core.artifacts.lora import Expert
from acd_core.artifacts.refusal_bias import RefusalBias
from acd_core.artifacts.steering import Steering
from acd_core.errors import ExpertError
from acd_core.files.saving import has_version
from acd_core.model.backbone import Backbone

LearntForModel = Union[Expert, Steering, RefusalBias]
_KINDS = {
    STEERING_MAIN: "steering",
    BIAS_MAIN: "a bias",
    lora.MAIN: "a LoRA adapter",
    lora.CONFIG: "a LoRA adapter",
}


def load(source: str | os.PathLike[str]) -> LearntForModel:
    """Read what the folder `source` holds. Raises ExpertError for a missing, damaged or unsuitable one, and for a
    folder with more than one kind."""
    found = [name for name in (STEERING_MAIN, BIAS_MAIN) if _holds(source, name)]
    if found:
        found += [name for name in (lora.MAIN, lora.CONFIG) if (Path(source) / name).is_file()][:1]
    if len(found) > 1:
        raise ExpertError(
            f"{str(source)!r} holds {' and '.join(f'{_KINDS[name]} ({name})' for name in found)}.",
            hint="Give each a folder of its own.",
        )
    if not found:
        return Expert.load(source)
    return Steering.load(source) if found == [STEERING_MAIN] else RefusalBias.load(source)


def given(expert: str | os.PathLike[str] | LearntForModel | None, backbone: Backbone) -> LearntForModel | None:
    """`expert` itself, or what is in the folder it names, checked for `backbone`; None for None."""
    if expert is None:
        return None
    found = load(expert) if isinstance(expert, (str, os.PathLike)) else expert
    found.check(backbone)
    return found


def digest(source: str | os.PathLike[str]) -> str | None:
    """What stands for what is saved in the folder `source` now; None for nothing whole."""
    if _holds(source, BIAS_MAIN):
        return refusal_bias.FOLDER.digest(source)
    return steering.FOLDER.digest(source) if _holds(source, STEERING_MAIN) else lora.digest(source)


def _holds(source: str | os.PathLike[str], main: str) -> bool:
    return os.path.isdir(source) and has_version(Path(source), main)
