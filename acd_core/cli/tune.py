"""`acd tune`: make a pair for a model. Killed at any moment it leaves the old pair or none; run again it continues."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from acd_core.bundled import REFERENCE_ANCHORS
from acd_core.cli.console import note, say, stderr, stdout
from acd_core.cli.gating import gate_facts
from acd_core.cli.loading import load_to_train
from acd_core.errors import UsageError, missing_extra

if TYPE_CHECKING:
    from acd_core.tuning import TuneResult
    from acd_core.tuning.validation import Point


# The bundled model's own replies to the bundled instructions: what `acd tune` would make for it first, made once.


def tune(
    model: str = typer.Option(
        ..., "--model", "-m", help="Folder, hub id, GGUF file, 'smollm2' or 'reference' (bundled)."
    ),
    out: str = typer.Option(
        ..., "--out", "-o", help="Folder of the pair; a pair that is there is replaced at the end."
    ),
    anchors: str = typer.Option(
        "", help="JSONL of anchor pairs. Default: the model's own replies to the bundled ones."
    ),
    safe: str = typer.Option("", help="JSONL of harmless instructions of your own, to make anchors from."),
    unsafe: str = typer.Option("", help="JSONL of harmful instructions of your own, to make anchors from."),
    objective: str = typer.Option(
        "",
        help="Which losses: 'gated', 'joint', 'paper', or with DeRTa's 'derta', 'derta-joint', 'derta-gated'. "
        "Default: 'gated' where a gate is learnt, else 'joint'.",
    ),
    gate: bool | None = typer.Option(
        None,
        "--gate/--no-gate",
        help="Learn a gate too, so that the pair acts only where the model reads harm. "
        "Default: yes, unless --anchors is given or the model is 'reference'.",
    ),
    refusals: str = typer.Option(
        "", help="Text file of refusals to learn, one a line. Default: ours, where the model has none of its own."
    ),
    steps: int | None = typer.Option(None, help="Updates of the two prompts."),
    lr: float | None = typer.Option(None, help="Step size, as a share of the initial vectors' size."),
    batch: int | None = typer.Option(None, help="Anchor pairs a step."),
    micro: int | None = typer.Option(None, help="Rows in memory at a time. Default: what the free memory takes."),
    checkpointing: bool | None = typer.Option(
        None,
        "--checkpointing/--no-checkpointing",
        help="Compute layers twice to need less memory. Default: where it has to be.",
    ),
    reply_tokens: int | None = typer.Option(None, help="Supervised tokens of a reply."),
    validate_every: int | None = typer.Option(None, help="Steps between points of the validation curve."),
    margin: float | None = typer.Option(
        None,
        help="Over-refusal allowed beyond the model's own on the validation split, as a share; the run steers "
        "towards it. Default: 0.02.",
    ),
    patience: int | None = typer.Option(None, help="Stop after so many validations without improvement; 0: never."),
    seed: int | None = typer.Option(None, help="Order of the anchors and draws of the replies."),
    resume: bool = typer.Option(True, "--resume/--no-resume", help="Continue a killed run of the same command."),
    plot: str = typer.Option("", help="Draw losses and validation to this file (.png, .svg, .pdf)."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N, mps or map."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16. The prompts are float32 either way."),
) -> None:
    """Tune a pair of soft prompts for a model. The model's weights stay as they are; minutes, once per model."""
    if bool(safe) != bool(unsafe):
        raise UsageError(
            f"Only one of --safe ({safe!r}) and --unsafe ({unsafe!r}) is given; tuning needs both kinds.",
            hint=f"acd tune --model {model} --out {out} --safe safe.jsonl --unsafe unsafe.jsonl",
        )
    if anchors and safe:
        raise UsageError(
            "--anchors already holds replies; --safe and --unsafe are instructions to make them from.",
            hint="Give either --anchors, or --safe and --unsafe.",
        )
    if plot:
        if find_spec("matplotlib") is None:
            raise missing_extra("matplotlib", "plots")
        from acd_core.tuning.plot import check_plot

        check_plot(plot)
    given = {
        "objective": objective or None,
        "steps": steps,
        "lr": lr,
        "batch": batch,
        "micro": micro,
        "checkpointing": checkpointing,
        "reply_tokens": reply_tokens,
        "validate_every": validate_every,
        "margin": margin,
        "patience": patience,
        "seed": seed,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if gate is not None:
        settings["gate"] = gate
    if refusals:
        from acd_core.tuning.refusals import load_refusals

        settings["refusals"] = load_refusals(refusals)
    from acd_core.tuning.runs import work_folder

    with _told_when_it_ends_early(work_folder(Path(out)), resume):
        result = tuned(
            model,
            Path(out),
            anchors=anchors or None,
            instructions=(safe, unsafe) if safe else None,
            resume=resume,
            device=device,
            dtype=dtype,
            **settings,
        )
    _show(result)
    if plot:
        from acd_core.tuning.plot import plot_history

        say(f"plot: {plot_history(result.history, plot)}")
    say(f"\nsaved to {out}. Try it:\n  acd chat --model {model} --pair {out}")


def tuned(
    model: str,
    out: Path,
    *,
    anchors: str | None = None,
    instructions: tuple[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    **settings: Any,
) -> TuneResult:
    """Tune with a bar on stderr (on a pipe: a line every few seconds and one a point) and save to `out`."""
    note("loading torch ...")
    from acd_core.artifacts.pair import check_target
    from acd_core.tuning import TuneSettings, generate_anchors, load_instructions, load_pairs
    from acd_core.tuning import tune as run
    from acd_core.tuning.anchors import check_disjoint
    from acd_core.tuning.objectives import get_objective
    from acd_core.tuning.runs import alone_in, work_folder

    # An impossible setting, a file that cannot be read and a folder that cannot be written to fail here, before a model
    # is loaded.
    plan = {name: value for name, value in settings.items() if name in TuneSettings.__dataclass_fields__}
    TuneSettings(**plan)
    if settings.get("objective"):
        get_objective(settings["objective"])
    bar = stderr().is_terminal
    pairs: Any = load_pairs(anchors) if anchors is not None else None
    if model == "reference" and anchors is None and instructions is None and REFERENCE_ANCHORS.exists():
        pairs = str(REFERENCE_ANCHORS)
    own = [load_instructions(path) for path in instructions or ()]
    if own:
        check_disjoint({"the harmless instructions": own[0], "the harmful instructions": own[1]})
    with alone_in(work_folder(out)):
        check_target(out)
        backbone = load_to_train(model, device, dtype)
        if own:
            settings.setdefault("gate", True)
            from acd_core.lm import ContrastiveLM

            with ContrastiveLM(backbone) as lm:
                pairs = generate_anchors(lm, *own, out=work_folder(out) / "anchors.jsonl")
        return run(backbone, pairs, out=out, on_point=None if bar else _line, **settings)


@contextmanager
def _told_when_it_ends_early(work: Path, resume: bool) -> Iterator[None]:
    """Say on stderr what of an earlier run is found in `work`, and, if this one is stopped too, that it can go on.

    A batch system's SIGTERM and a lost terminal's SIGHUP end a run like Ctrl-C does, but with the exit status of their
    own that it waits for.
    """
    if (found := _left_behind(work)) is not None:
        anew = "with --no-resume the tuning starts anew, and only replies are used again."
        note(f"{found} of an earlier run; {'resuming from there (--no-resume: tune anew).' if resume else anew}")
    received: list[int] = []

    def end(number: int, frame: Any) -> None:
        received.append(number)
        raise KeyboardInterrupt

    replaced = {}
    if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
                replaced[number] = signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        kept = _left_behind(work)
        note(
            f"Interrupted. {kept}; the same command resumes from there."
            if kept is not None
            else "Interrupted before there was anything to keep; the same command starts anew."
        )
        if received:
            raise typer.Exit(128 + received[0]) from None
        raise
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def _left_behind(work: Path) -> str | None:
    """What a run has left in `work`, in words; None for nothing."""
    parts = []
    for path in sorted(work.glob("*.jsonl")):
        with path.open("rb") as file:
            parts.append(f"{sum(1 for _ in file)} replies ({path.name})")
    parts += [f"a {path.stem}" for path in sorted(work.glob("*.safetensors"))]
    return f"{work} holds {' and '.join(parts)}" if parts else None


def _line(point: Point) -> None:
    note(
        f"step {point.step}: harmless rate {point.harmless_rate:.2f}, over-refusal {point.over_refusal:.2f} "
        f"at alpha {point.alpha:g}"
    )


def _show(result: TuneResult) -> None:
    """What the pair does on the validation split, beside the model alone."""
    if result.pair.gate is not None:
        say(f"gate: {gate_facts(result.pair.gate)}")
    table = Table(title="validation split (never learned from)", title_justify="left")
    for name in ("", "harmless rate", "over-refusal"):
        table.add_column(name, justify="right" if name else "left")
    for name, point in (("model alone", result.plain), (f"ACD, alpha {result.pair.alpha:g}", result.validation)):
        if point is not None:
            table.add_row(name, f"{point.harmless_rate:.2f}", f"{point.over_refusal:.2f}")
    stdout().print(table)
