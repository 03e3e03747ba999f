"""`acd pair`: look at a pair, publish it, fetch one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from acd_core.cli.console import note, say, say_table, stdout
from acd_core.cli.gating import gate_facts

if TYPE_CHECKING:
    from acd_core.artifacts.pair import PromptPair

pair_app = typer.Typer(
    name="pair", help="Look at a pair, publish it, fetch one.", no_args_is_help=True, rich_markup_mode=None
)

PAIR = typer.Argument(..., help="Folder, hub id, or the name of a bundled one: 'smollm2' or 'reference'.")


@pair_app.command()
def show(
    pair: str = PAIR,
    model: str = typer.Option("", "--model", "-m", help="Also check that the pair belongs to this model."),
) -> None:
    """Say what a pair is: base model, strength, how it was made, what was measured on the way."""
    from acd_core.artifacts.pair import PromptPair

    found = PromptPair.load(pair)
    say_table(_what(found), pair)
    say("")
    say_table(_recorded(found.metrics) or {"recorded": "nothing"}, "how it was made")
    _curve(found.metrics.get("curve"))
    if model:
        from acd_core.model.backbone import Backbone

        note(f"loading {model} ...")
        found.check(Backbone.load(model))
        say(f"\nfits {model}: yes")


@pair_app.command()
def push(
    pair: str = typer.Argument(..., help="Folder of the pair."),
    repo: str = typer.Argument(..., help="Repository on the hub: owner/name. It is made if it is new."),
    private: bool = typer.Option(True, "--private/--public", help="Who may read a repository that is made now."),
    license: str = typer.Option("", help="SPDX id of the licence, for the card; for instance apache-2.0."),
    revision: str = typer.Option("", help="Branch to push to. Default: main."),
) -> None:
    """Publish a pair on the hub, with its model card. Needs a login (hf auth login)."""
    from acd_core.artifacts.pair_hub import push_pair

    note(f"uploading {pair} to {repo} ...")
    say(push_pair(pair, repo, private=private, license=license or None, revision=revision or None))


@pair_app.command()
def pull(
    repo: str = typer.Argument(..., help="Repository on the hub: owner/name."),
    out: str = typer.Option(..., "--out", "-o", help="Folder of the pair; a pair that is there is replaced."),
    revision: str = typer.Option("", help="Branch, tag or commit. Default: main."),
) -> None:
    """Fetch a pair into a folder. It is checked first; weights are safetensors, and nothing in it is run."""
    from acd_core.artifacts.pair_hub import pull_pair

    note(f"fetching {repo} ...")
    found = pull_pair(repo, out, revision=revision or None)
    say(f"saved to {out}. Try it:\n  acd chat --model {found.base_model or 'M'} --pair {out}")


def _what(pair: PromptPair) -> dict[str, str]:
    base = pair.base_model or "any chat model"
    prompts = (pair.safeguarding, pair.adversarial)
    sizes = (f"{len(prompt)} characters" if isinstance(prompt, str) else f"{len(prompt)} vectors" for prompt in prompts)
    return {
        "kind": "soft" if pair.is_soft else "textual",
        "base model": f"{base} (revision {pair.base_revision})" if pair.base_revision else base,
        "fingerprint": (pair.fingerprint or "none: texts fit every model")[:28],
        "prompts": "safeguarding {}, adversarial {}".format(*sizes),
        "alpha": f"{pair.alpha:g} (recommended)",
        "plausibility": f"{pair.plausibility:g} (recommended)" if pair.plausibility else "off",
        "contrast tokens": "all" if pair.contrast_tokens is None else f"the first {pair.contrast_tokens} (recommended)",
        "gate": gate_facts(pair.gate),
        "licence": pair.license or "not stated",
        "id": pair.id,
    }


def _recorded(metrics: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            rows[name] = ", ".join(f"{inner} {_number(each)}" for inner, each in value.items())
        elif isinstance(value, (str, int, float)):
            rows[name] = _number(value)
    return rows


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curve(points: Any) -> None:
    """The validation points of the run, as a table with a column for every number they share."""
    if not isinstance(points, list) or not points or not all(isinstance(point, Mapping) for point in points):
        return
    names = [name for name in points[0] if all(isinstance(point.get(name), (int, float)) for point in points)]
    table = Table(title="validation along the way", title_justify="left")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for point in points:
        table.add_row(*(_number(point[name]) for name in names))
    say("")
    stdout().print(table)
