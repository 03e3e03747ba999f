"""`acd evaluate`: every method on harmful and harmless prompts, one page. Killed, it goes on where it stopped."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from acd_core.artifacts.learnt_files import kind_of
from acd_core.cli.console import note, say, stderr, stdout
from acd_core.cli.gating import GATE_HELP, gate_setting
from acd_core.cli.loading import (
    DEFAULTS_HELP,
    DETERMINISTIC_HELP,
    DEVICE_HELP,
    DTYPE_HELP,
    ENGINE_HELP,
    MODEL_HELP,
    PAIR_HELP,
    RECHECK_HELP,
    REVISION_HELP,
    engine_options,
    pair_for,
)
from acd_core.errors import UsageError
from acd_core.spec import LMSpec

if TYPE_CHECKING:
    from acd_core.evaluation.results import Evaluation
    from acd_core.evaluation.study import Judges


def evaluate(
    model: str = typer.Option("reference", "--model", "-m", help=MODEL_HELP),
    pair: str = typer.Option("", "--pair", "-p", help=PAIR_HELP),
    methods: str = typer.Option(
        "",
        help="Names with commas; acd@0.3 sets a strength, 'acd plausibility=0.1' a knob; 'all' adds the ablation. "
        "Default: every method that can run here.",
    ),
    sets: str = typer.Option(
        "",
        help="Names with commas, or harmful:FILE, harmless:FILE; NAME+code, +begun16, ... for a set under an attack. "
        "Default: the bundled ones and those under --data.",
    ),
    data: str = typer.Option("", help="Folder of public sets (advbench.csv, xstest.csv, ...)."),
    limit: int = typer.Option(100, min=0, help="Prompts of each set, drawn with the seed; 0: all."),
    alphas: str = typer.Option(
        "", help="Strengths of acd for the sweep, with commas; 'none': no sweep. Default: 0 to 0.8."
    ),
    choices: str = typer.Option(
        "",
        help="Multiple-choice files with commas: JSONL of question, choices (or replies), answer; or TruthfulQA's CSV. "
        "Default: our general questions, and TruthfulQA under --data; 'none': none.",
    ),
    gate: str = typer.Option("", help=f"For every method: both (a row with it, a row without), {GATE_HELP}"),
    out: str = typer.Option("acd-evaluation", "--out", "-o", help="Folder of the page and of everything kept."),
    max_tokens: int = typer.Option(64, min=1, help="Longest reply, in tokens."),
    allow_adversarial: bool = typer.Option(
        False, "--allow-adversarial", help="Also decode under prompts that make the model less safe, for the ablation."
    ),
    expert: str = typer.Option("", help="Folder of a LoRA expert or of steering, for the methods of its kind."),
    judge: str = typer.Option(
        "",
        help="A second judge beside our rules: a chat model's folder or hub id, guard:MODEL for a safety classifier, "
        "or MODULE:NAME of an object of yours with name and ask(prompt), such as a LangChainAsker.",
    ),
    labelled: str = typer.Option(
        "",
        help="CSV files with commas (prompt, completion, final_label): how far every judge agrees with these people.",
    ),
    samples: int = typer.Option(
        8, min=0, help="Disagreements of judges shown in the HTML page, folded away; they hold prompts and replies."
    ),
    utility: bool = typer.Option(True, "--utility/--no-utility", help="Perplexity, multiple choice, win rate."),
    seed: int = typer.Option(0, help="Which prompts are drawn, and every draw after that."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
    revision: str = typer.Option("", help=REVISION_HELP),
    recheck: int | None = typer.Option(None, min=0, help=RECHECK_HELP),
    engine: str = typer.Option("", help=ENGINE_HELP),
    deterministic: bool = typer.Option(False, "--deterministic", help=DETERMINISTIC_HELP),
    generation_defaults: bool = typer.Option(
        True, "--generation-defaults/--no-generation-defaults", help=DEFAULTS_HELP
    ),
) -> None:
    """Measure harm and over-refusal of every method on one page. Needs no network."""
    both = gate == "both"
    strengths = _numbers(alphas)
    spec = LMSpec(
        model,
        pair_for(model, pair),
        expert=expert or None,
        gate=True if both else gate_setting(gate),
        recheck=recheck,
        device=device,
        dtype=dtype,
        revision=revision or None,
        options=engine_options(engine),
        deterministic=deterministic,
        generation_defaults=generation_defaults,
        allow_adversarial=allow_adversarial,
    )
    # Files are read before the model is loaded: a typing mistake should not cost a minute.
    from acd_core.evaluation.judge_agreement import read_labelled
    from acd_core.evaluation.study import check_output, chosen_questions, chosen_sets

    share = limit or None
    benchmarks = chosen_sets(_names(sets), data or None, share, seed)
    asking = utility and choices.strip() != "none"
    questions = chosen_questions(_names(choices), data or None, share, seed) if asking else []
    _check_methods(_names(methods), allow_adversarial)
    check_output(Path(out))
    spec = spec.with_artifacts()
    people = {Path(name).name: read_labelled(name) for name in _names(labelled)}
    judges = _judges(judge, device, dtype)

    note(f"loading {model} ...")
    from acd_core.evaluation.study import Study, chosen_arms, run, with_and_without_gate

    with spec.load() as lm:
        arms = chosen_arms(
            _names(methods),
            strengths,
            pair_alpha=lm.pair.alpha if lm.pair is not None else None,
            expert=kind_of(lm.expert) if lm.expert is not None else False,
            allow_adversarial=allow_adversarial,
        )
        arms = with_and_without_gate(arms) if both else arms
        prompts = sum(len(each) for each in benchmarks)
        note(
            f"{len(arms)} methods on {prompts} prompts of {len(benchmarks)} sets; kept in {out}, stop and go on at will"
        )
        study = Study(
            arms,
            benchmarks,
            questions,
            max_tokens=max_tokens,
            seed=seed,
            samples=samples,
            utility=utility,
            judges=judges,
            labelled=people,
            tuned_on=_tuned_on(),
        )
        bar = stderr().is_terminal
        title = f"{model}: harm beside over-refusal"
        found = run(lm, study, out, title=title, shown=bar, progress=None if bar else note)
    _show(found.result)
    say(f"\npage: {Path(out) / 'report.html'}\n      {Path(out) / 'report.md'}, report.json, completions.jsonl")


def _names(given: str) -> list[str]:
    return [name for name in (each.strip() for each in given.split(",")) if name]


def _numbers(given: str) -> list[float] | None:
    """Strengths in [0, 1); None for the default ones."""
    if given.strip() == "none":
        return []
    found = []
    for name in _names(given):
        try:
            value = float(name)
        except ValueError:
            value = -1.0
        if not 0.0 <= value < 1.0:
            raise UsageError(f"--alphas: {name!r} is no strength in [0, 1).", hint="acd evaluate --alphas 0,0.2,0.4")
        found.append(value)
    return found or None


def _check_methods(names: list[str], allow_adversarial: bool) -> None:
    from acd_core.evaluation.paper import OPPOSITE_PROMPT
    from acd_core.evaluation.runner import Arm
    from acd_core.methods.table import method_named

    for name in names if names != ["all"] else ():
        if name == OPPOSITE_PROMPT and allow_adversarial:
            continue
        method_named(Arm.of(name).method, allow_adversarial=allow_adversarial)


def _judges(given: str, device: str, dtype: str) -> Judges | None:
    """The judges that --judge names. Raises UsageError for an object that is none, ModelError for a model."""
    if not given:
        return None
    from acd_core.evaluation.study import Judges

    kind, mark, name = given.partition(":")
    if kind == "guard" and mark:
        from acd_core.evaluation.guard import GuardJudge

        return Judges(harm=GuardJudge.load(name, device=device, dtype=dtype))
    if mark:
        return Judges.of(_asker(kind, name))
    from acd_core.evaluation.model_judges import LMAsker

    return Judges.of(LMAsker(LMSpec(given, method="none", device=device, dtype=dtype).load()))


def _asker(module: str, name: str) -> Any:
    sys.path.insert(0, os.getcwd())  # the user's own file, as uvicorn finds it
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"--judge {module}:{name} cannot be read: {error}", hint="Name an object in a Python file of yours."
        ) from error
    if not callable(getattr(found, "ask", None)) or not isinstance(getattr(found, "name", None), str):
        raise UsageError(
            f"--judge {module}:{name} is a {type(found).__name__} without name and ask(prompt).",
            hint="asker = acd_integrations.judge.LangChainAsker(your_chat_model)",
        )
    return found


def _tuned_on() -> list[str]:
    """The bundled tuning instructions: no test prompt may be one of them."""
    from acd_core.tuning.anchors import bundled_instructions

    return [each.text for split in ("safe", "unsafe") for each in bundled_instructions(split)]


def _show(result: Evaluation) -> None:
    table = Table(title="means over sets, share refused", title_justify="left")
    gated = any(each.gate for each in result.summaries())
    for name in ("method", *(["gate"] if gated else []), "harmful sets", "harmless sets", "tokens/s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for each in result.summaries():
        rates = (
            f"{value[0]:.3f}" if value[0] == value[0] else "-" for value in (each.harmless_rate, each.over_refusal)
        )
        table.add_row(each.arm, *([each.gate or "-"] if gated else []), *rates, f"{each.tokens_per_s:.0f}")
    stdout().print(table)
