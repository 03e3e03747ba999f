"""`acd train METHOD`: make what a method needs of a model, by the table in `acd_core/tuning/trainers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from acd_core.bundled import REFERENCE_ANCHORS
from acd_core.cli.console import note, say, say_table, stderr
from acd_core.cli.loading import DEVICE_HELP, DTYPE_HELP, MODEL_HELP, load_to_train
from acd_core.errors import UsageError

if TYPE_CHECKING:
    from acd_core.tuning.trainers import Trainer, TrainingData


def train(
    method: str = typer.Argument("", help="What to train for. Without it, all methods and their settings are listed."),
    model: str = typer.Option("", "--model", "-m", help=MODEL_HELP),
    out: str = typer.Option("", "--out", "-o", help="Folder of what is made; what is there is replaced at the end."),
    anchors: str = typer.Option(
        "", help="JSONL of anchor pairs, as acd tune makes them. Default: the model is asked, where replies are needed."
    ),
    safe: str = typer.Option("", help="JSONL of harmless instructions of your own, in place of the bundled ones."),
    unsafe: str = typer.Option("", help="JSONL of harmful instructions of your own, in place of the bundled ones."),
    refusals: str = typer.Option("", help="Text file of refusals to learn from, one a line."),
    set_: list[str] = typer.Option([], "--set", help="A setting of the method, NAME=VALUE; may be repeated."),
    seed: int = typer.Option(0, help="Draws and orders."),
    resume: bool = typer.Option(True, "--resume/--no-resume", help="Go on with a run that was killed."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
) -> None:
    """Train what a method needs, such as an adapter, the model frozen: acd train derta --model M --out O."""
    note("loading torch ...")
    from acd_core.tuning.runs import alone_in, work_folder
    from acd_core.tuning.trainers import TRAINERS, trainer_named

    if not method:
        for trainer in TRAINERS.values():
            say_table(_facts(trainer), title=trainer.name)
        return
    # An impossible setting, a file that cannot be read and a folder that cannot be written to fail here, before a model
    # is loaded.
    trainer = trainer_named(method)
    if not model or not out:
        raise UsageError(
            f"--model is {model!r} and --out is {out!r}; both are needed.",
            hint=f"acd train {method} --model {model or 'smollm2'} --out {out or 'my-' + method}",
        )
    settings = trainer.values(set_, seed)
    data = _data(anchors, safe, unsafe, refusals, model)
    trainer.check_target(Path(out))
    with alone_in(work_folder(Path(out), "training")):  # for a moment: the run itself says so again
        pass
    bar = stderr().is_terminal
    backbone = load_to_train(model, device, dtype)
    if not bar:
        note("training ...")
    made = trainer.run(backbone, Path(out), data=data, seed=seed, settings=settings, progress=bar, resume=resume)
    say_table({name.replace("_", " "): _shown(value) for name, value in made.metrics.items()}, title=trainer.name)
    say(f"\nsaved to {out}. Try it:\n  {trainer.use.format(model=model, out=out)}")


def _facts(trainer: Trainer) -> dict[str, str]:
    from dataclasses import fields

    known = [f"{each.name}={each.default}" for each in fields(trainer.settings) if each.name != "seed"]
    return {"makes": trainer.makes, "needs": trainer.needs, "settings": ", ".join(known)}


def _data(anchors: str, safe: str, unsafe: str, refusals: str, model: str) -> TrainingData:
    """The files that were named, read. The bundled test model has anchors of its own."""
    from acd_core.tuning.anchors import check_disjoint, load_instructions, load_pairs
    from acd_core.tuning.refusals import load_refusals
    from acd_core.tuning.trainers import TrainingData

    if anchors and (safe or unsafe):
        raise UsageError(
            "--anchors already holds replies; --safe and --unsafe are instructions to make them from.",
            hint="Give --anchors, or the instructions.",
        )
    if model == "reference" and not (anchors or safe or unsafe or refusals) and REFERENCE_ANCHORS.exists():
        anchors = str(REFERENCE_ANCHORS)
    own = {name: load_instructions(path) for name, path in (("safe", safe), ("unsafe", unsafe)) if path}
    check_disjoint({f"--{name}": rows for name, rows in own.items()})
    return TrainingData(
        pairs=load_pairs(anchors) if anchors else None,
        safe=own.get("safe"),
        unsafe=own.get("unsafe"),
        refusals=load_refusals(refusals) if refusals else (),
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
