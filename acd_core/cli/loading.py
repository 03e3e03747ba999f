"""Options by which verbs say what they load, in one wording, and what those options stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from acd_core.cli.console import note
from acd_core.errors import UsageError
from acd_core.model.on_disk import BUNDLED_PAIRS

if TYPE_CHECKING:
    from acd_core.model.backbone import Backbone

MODEL_HELP = "Folder, hub id, GGUF file, 'smollm2' or 'reference' (bundled)."
PAIR_HELP = "Folder, hub id, 'smollm2' or 'reference'. Default: the bundled pair, if the model has one."
DEVICE_HELP = "auto, cpu, cuda, cuda:N, mps or map."
DTYPE_HELP = "auto, float32, bfloat16 or float16."
REVISION_HELP = "Revision of a model from the hub."
RECHECK_HELP = "Reply tokens between two readings of a gate that is closed; 0: none. Default: 32."
DETERMINISTIC_HELP = "Compute each request alone, so that low-precision rounding cannot depend on its neighbours."
DEFAULTS_HELP = "Follow the model's own generation_config (repetition penalty, suppressed tokens, ...)."
ENGINE_HELP = "Limits of the engine with commas, such as max_rows=32,prefix_bytes=0,decode=eager."


def pair_for(model: str, pair: str) -> str | None:
    """`pair`, or where none is named the bundled one of the model; None where there is none."""
    return pair or (model if model in BUNDLED_PAIRS else None)


def engine_options(given: str) -> dict[str, Any] | None:
    """What --engine says, as fields of EngineOptions; None for nothing. Raises UsageError for what has no value."""
    found: dict[str, Any] = {}
    for part in filter(None, (each.strip() for each in given.split(","))):
        name, _, value = part.partition("=")
        if not name or not value:
            raise UsageError(f"--engine: {part!r} is not NAME=VALUE.", hint="For example --engine max_rows=32.")
        found[name] = int(value) if value.isdecimal() else value
    return found or None


def load_to_train(model: str, device: str, dtype: str) -> Backbone:
    """Load the model, and say on stderr where and how it stands."""
    from acd_core.model.backbone import Backbone

    backbone = Backbone.load(model, device=device, dtype=dtype)
    note(
        f"{backbone.model_id} on {backbone.device} ({backbone.device_reason}), "
        f"{str(backbone.dtype).removeprefix('torch.')} ({backbone.dtype_reason})"
    )
    return backbone
