"""`acd gate`: learn a gate for a model and keep it in a pair that is there, or in a new pair of ROSE's two texts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from acd_core.cli.console import note, say
from acd_core.cli.gating import gate_facts
from acd_core.cli.loading import DEVICE_HELP, DTYPE_HELP
from acd_core.errors import TuningError, UsageError


def gate(
    model: str = typer.Option(..., "--model", "-m", help="Folder, hub id, GGUF file, 'smollm2' or 'reference'."),
    pair: str = typer.Option("", "--pair", "-p", help="The pair that gets the gate. Default: ROSE's two texts."),
    out: str = typer.Option("", "--out", "-o", help="Folder to write to. Default: the pair's own."),
    seed: int = typer.Option(0, help="Which dresses the anchors wear."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
) -> None:
    """Learn a linear reading of the model's hidden states, so that a method acts only where the model reads harm."""
    if not out and not Path(pair or ".").joinpath("pair.json").is_file():
        raise UsageError(
            f"There is no folder to write to: --pair is {pair!r} and --out is not given.",
            hint=f"acd gate --model {model} --pair {pair or 'my-pair'} --out my-pair",
        )
    note("loading torch ...")
    from acd_core.artifacts.pair import PromptPair, check_target, history_of
    from acd_core.methods import prompts
    from acd_core.model.backbone import Backbone
    from acd_core.tuning.anchors import bundled_instructions
    from acd_core.tuning.reading import LEAST_AUC, gate_for

    # Whatever can be wrong with files is found before the model is loaded.
    target = Path(out or pair)
    check_target(target)
    before: Any = PromptPair.from_texts(prompts.SAFE_PROMPT, prompts.MANUAL_REVERSE, alpha=0.5)
    history = None
    if pair:
        before = replace(PromptPair.load(pair), gate=None)  # a gate of another model is what this one replaces
        history = history_of(pair)
    backbone = Backbone.load(model, device=device, dtype=dtype)
    before.check(backbone)
    validation = bundled_instructions("validation_safe"), bundled_instructions("validation_unsafe")
    found = gate_for(backbone, validation, seed=seed)
    if found is None:
        raise TuningError(
            f"The hidden states of {backbone.model_id!r} do not tell harmful validation requests from harmless ones "
            f"(area under the curve below {LEAST_AUC}), so it gets no gate.",
            hint=f"Use the pair as it is; the method then acts on every request: acd chat --model {model} --gate off",
        )
    replace(before, gate=found).save(target, history=history)
    say(f"gate: {gate_facts(found)}")
    say(f"saved to {target}. Try it:\n  acd chat --model {model} --pair {target}")
