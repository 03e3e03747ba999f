"""`acd expert`: make SafeDecoding's expert of a model, or fuse two adapters. Killed at any moment it leaves the old
expert or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from acd_core.bundled import REFERENCE_ANCHORS
from acd_core.cli.console import note, say, say_table, stderr
from acd_core.cli.loading import load_to_train
from acd_core.errors import UsageError


def expert(
    fuse: list[str] | None = typer.Argument(
        None,
        metavar="[fuse A B]",
        help="Make one adapter of two instead, such as a task's and a safety adapter.",
        show_default=False,
    ),
    model: str = typer.Option(
        "", "--model", "-m", help="Folder, hub id, GGUF file, 'smollm2' or 'reference' (bundled). Not for fuse."
    ),
    out: str = typer.Option(
        ..., "--out", "-o", help="Folder of the expert; an adapter that is there is replaced at the end."
    ),
    anchors: str = typer.Option(
        "", help="JSONL of anchor pairs, as acd tune makes them; refusals are taken. Default: the model is asked."
    ),
    unsafe: str = typer.Option("", help="JSONL of harmful instructions of your own, to ask the model."),
    refusals: str = typer.Option(
        "", help="Text file of refusals to learn instead, one a line, or 'ours': for models that hardly refuse."
    ),
    epochs: int | None = typer.Option(None, help="Passes over the refusals."),
    lr: float | None = typer.Option(None, help="Step size."),
    rank: int | None = typer.Option(None, help="Rank of the LoRA matrices."),
    batch: int | None = typer.Option(None, help="Refusals a step."),
    reply_tokens: int | None = typer.Option(None, help="Longest refusal, in tokens."),
    seed: int | None = typer.Option(None, help="Draws of the replies, order of the rows, start of the weights."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N, mps or map."),
    dtype: str = typer.Option("auto", help="auto, float32, bfloat16 or float16. The adapter is float32 either way."),
    weights: tuple[float, float] | None = typer.Option(None, help="fuse: of A and of B. Default: 0.5 0.5."),
    how: str = typer.Option("", help="fuse: cat (exact, of both ranks' sum), svd or linear. Default: cat."),
) -> None:
    """Train a LoRA expert on the model's own refusals, for the method safedecoding. The model stays as it is.

    acd expert fuse A B --weights 0.7 0.3 --out C makes one adapter of two, for the methods that keep a stream under it.
    """
    if fuse or weights or how:
        _fuse(list(fuse or ()), model, out, weights or (0.5, 0.5), how or "cat", rank)
        return
    if not model:
        raise UsageError("No model is given.", hint=f"acd expert --model M --out {out}")
    if anchors and unsafe:
        raise UsageError(
            "--anchors already holds replies; --unsafe are instructions to make them from.", hint="Give one of the two."
        )
    if anchors and refusals:
        raise UsageError("--anchors already holds refusals.", hint="Give either --anchors or --refusals.")
    given: dict[str, Any] = {
        "epochs": epochs,
        "lr": lr,
        "rank": rank,
        "batch": batch,
        "reply_tokens": reply_tokens,
        "seed": seed,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    note("loading torch ...")
    from acd_core.artifacts.lora import check_target
    from acd_core.tuning import ExpertSettings, load_instructions, load_pairs
    from acd_core.tuning.expert import refusals_of, train_expert
    from acd_core.tuning.runs import alone_in, work_folder

    # An impossible setting, a file that cannot be read and a folder that cannot be written to fail here, before a model
    # is loaded.
    chosen = ExpertSettings(**settings)
    check_target(Path(out))
    with alone_in(work_folder(Path(out), "training")):  # for a moment: the run itself says so again
        pass
    own = load_instructions(unsafe) if unsafe else None
    texts: tuple[str, ...] | None = None
    if refusals:
        from acd_core.tuning.refusals import load_refusals

        texts = () if refusals == "ours" else load_refusals(refusals)
    if model == "reference" and not (anchors or refusals) and own is None and REFERENCE_ANCHORS.exists():
        anchors = str(REFERENCE_ANCHORS)
    pairs = load_pairs(anchors) if anchors else None
    if pairs is not None:
        refusals_of(pairs, chosen)
    bar = stderr().is_terminal
    backbone = load_to_train(model, device, dtype)
    if not bar:
        note("training ..." if anchors or refusals else "asking the model for refusals, then training ...")
    made = train_expert(backbone, pairs, unsafe=own, refusals=texts, out=out, progress=bar, **settings)
    figures = made.metrics
    say_table(
        {
            "refusals": f"{figures['rows']}, {figures['refusals']}",
            "adapted": f"{len(made.weights)} modules, rank {made.rank}",
            "loss on them": f"{figures['loss_before']:.3f} before, {figures['loss_after']:.3f} after "
            f"{figures['steps']} steps ({figures['seconds']:.0f} s)",
        }
    )
    say(f"\nsaved to {out}. Try it:\n  acd chat --model {model} --expert {out}")


def _fuse(words: list[str], model: str, out: str, weights: tuple[float, float], how: str, rank: int | None) -> None:
    """Fuse two adapters and save the result to `out`."""
    if len(words) != 3 or words[0] != "fuse" or model:
        given = " ".join([*words, *(["--model", model] if model else [])])
        raise UsageError(
            f"{given!r} names no two adapters to fuse.", hint=f"acd expert fuse A B --weights 0.7 0.3 --out {out}"
        )
    note("loading torch ...")
    from acd_core.artifacts.lora import Expert, check_target

    check_target(Path(out))
    parts = [(Expert.load(folder), weight) for folder, weight in zip(words[1:], weights)]
    made = Expert.fused(parts, how=how, rank=rank)  # type: ignore[arg-type]  # it says what is wrong with another
    made.save(out)
    say_table(
        {
            "of": ", ".join(f"{weight:g} x {folder}" for folder, weight in zip(words[1:], weights)),
            "fused": f"{how}, {len(made.weights)} modules, rank {made.rank}",
        }
    )
    say(f"\nsaved to {out}. Try it:\n  acd chat --model M --expert {out} --method adapter")
