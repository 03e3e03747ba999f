"""Write docs/methods.md from the table of methods and from what was measured of them.

    python -m benchmarks.methods_page

Equations are put together from the streams and the rule that run, so they cannot say something else than the code.
Figures are read from the report of one run of `acd evaluate --gate both`; a method that is not in it gets a dash.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acd_core.artifacts.learnt_files import NAMES
from acd_core.evaluation.attacks import ATTACKS
from acd_core.evaluation.page import table
from acd_core.methods import prompts
from acd_core.methods.method import Fidelity, Learnt, Method, Slot, Stream
from acd_core.methods.rules import CONTRAST
from acd_core.methods.table import METHODS, own_method_key

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
REPORT = "benchmarks/results/page/report.json"
HARMLESS = ("everyday", "alpaca-eval", "xstest-safe")
MEASURED = "harmful refused", *(f"{name} refused" for name in HARMLESS)
_TEXTS = {text: name for name, text in reversed(vars(prompts).items()) if name.isupper() and isinstance(text, str)}
"""Prompt text -> the first constant that holds it."""
_SLOTS = {Slot.NOTHING: "no prompt", Slot.PAIR_SAFE: "SP", Slot.PAIR_ADVERSARIAL: "AP"}
_DECIMAL = re.compile(r"(?<![\w.`-])\d{0,3}\.\d{1,3}(?![\w.])")

OPENING = """# Methods

Written by `python -m benchmarks.methods_page` from `acd_core/methods/table.py`; a test holds it to the table.

`z(prompt)` are the logits of the conversation under that prompt: SP and AP are a pair's soft prompts, capitals name
texts of `acd_core/methods/prompts.py`. The first stream is kept, the others are contrasted with it; each stream is a
row of every forward. A method that has the contrast for some tokens only goes on with the kept row alone. With alpha
0 every method is its kept stream. Behind a closed gate a method is one row of the model alone."""
COMMON = """## What departs in every row

- Prompts stand in the system slot of the model's own chat template; papers often write a frame of their own. An
  application's system text is kept behind them, in every stream.
- A contrast is divided by 1 - alpha. Greedy decoding does not see that. Sampling is cooler than in the papers, and is
  the model's own where the streams agree (`rescale=False` takes it back).
- A pair's gate, where one is loaded, decides when a method acts (`gate=False` leaves it out).
- What a paper needs besides decoding (data, judges, training) is not part of a row unless it says so."""
LEFT_OUT = """## What a row cannot say

- **Interactive prompting** (Ray and Bhalani, arXiv 2405.05418): a follow-up turn that corrects a refusal. It needs a
  second request after a reply that was judged, behind turns that the first one made. A session would have to make it,
  as it makes the one before a forced format (`acd_core/reply/session.py`): hold the text back until the refusal is
  judged, count both requests, and stay within the policy. A row is one request, so the strategy is left out and not
  imitated."""


def page(methods: Mapping[str, Method], report: Mapping[str, Any]) -> str:
    """docs/methods.md for these methods, with the figures of `report` (as `acd evaluate` writes it)."""
    parts = [
        OPENING,
        "## As they run",
        table(
            ("method", "fidelity", "equation as it runs", "needs", "rows a token"),
            [
                (
                    f"`{each.name}`",
                    each.fidelity.name.capitalize() if each.fidelity else "-",
                    f"`{equation(each)}`",
                    needs(each),
                    rows(each),
                )
                for each in methods.values()
            ],
        ),
        "\n".join(f"- **{each.name.capitalize()}**: {each.value}." for each in Fidelity),
        "## Rules",
        "\n".join(f"- `{name}`: {text}." for name, text in _rules(methods).items()),
        "## Sources and departures",
        "\n".join(_sources(each) for each in methods.values()),
        COMMON,
        LEFT_OUT,
        "## On SmolLM2",
        *_figures(methods, report),
        "## Attacks on a set",
        "`acd evaluate --sets SET+ATTACK` puts any set of single prompts under an attack that is a fixed "
        "transformation.",
        "\n".join(f"- `SET+{name}`: {text}" for name, text in ATTACKS.items()),
    ]
    return "\n\n".join(parts) + "\n"


def equation(method: Method) -> str:
    """The scores that a token is chosen from, in streams of `method`, before rescaling by 1 - alpha."""
    kept, *others = (_stream(method, each) for each in method.streams)
    if not others:
        return kept
    alpha = "alpha_t" if method.strength is not None else f"{method.alpha:.3g}"
    weights = [each.weight for each in method.streams[1:]]
    mix = others[0]
    if len(others) > 1:
        mix = "(" + " + ".join(f"{w / sum(weights):.3g} {each}" for w, each in zip(weights, others)) + ")"
    if method.rule is CONTRAST:
        return f"{kept} - {alpha} {mix}"
    return f"{method.rule.name}({kept}, {mix}; alpha {alpha})"


def needs(method: Method) -> str:
    """What has to be given with the model, in words."""
    found = ["a pair"] if method.needs_pair else []
    if method.needs_expert:
        found.append(NAMES[method.expert_kind])
    return " and ".join(found) or "nothing"


def rows(method: Method) -> str:
    """Rows of a forward, and for how many tokens."""
    count = len(method.streams)
    some = f", first {method.contrast_tokens} tokens, then 1" if method.contrast_tokens and count > 1 else ""
    return f"{count}{some}"


def _stream(method: Method, stream: Stream) -> str:
    known = _SLOTS[stream.prompt] if isinstance(stream.prompt, Slot) else _TEXTS.get(stream.prompt, "a text")
    acts = [NAMES[method.expert_kind] if isinstance(each, Learnt) else type(each).__name__ for each in stream.under]
    more = [f"under {each}" for each in acts]
    if method.demonstration is not None:
        more.append("demonstration first")
    if method.wrap_user is not None:
        more.append(f"user turn in {_TEXTS[method.wrap_user]}" if method.wrap_user in _TEXTS else "user turn framed")
    return f"z({', '.join([known, *more])})"


def _rules(methods: Mapping[str, Method]) -> dict[str, str]:
    """The first sentence or two of each rule in use."""
    found = {each.rule.name: each.rule.join for each in methods.values() if len(each.streams) > 1}
    return {name: _prose(str(inspect.getdoc(join)).partition("\n\n")[0]) for name, join in found.items()}


def _sources(method: Method) -> str:
    lines = [f"- `{method.name}`: {_prose(method.source)}."]
    if method.departs:
        assert method.fidelity is not None
        lines.append(f"  - {method.fidelity.name.capitalize()}: {_prose(method.departs)}.")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """One line; constants of code are marked as such (figures that were measured are not)."""
    return _DECIMAL.sub(r"`\g<0>`", " ".join(text.split()).rstrip("."))


def _figures(methods: Mapping[str, Method], report: Mapping[str, Any]) -> list[str]:
    header, measured = report["header"], [row for row in report["rows"] if row["gate"] != "on"]
    counts = sorted({row["refused"]["total"] for row in measured})
    harmful = sorted({row["benchmark"] for row in measured if row["kind"] == "harmful"})
    told = (
        f"Share refused without a gate, with 95% intervals: greedy, {header['max_tokens']} tokens, judged by "
        f"{header['judge']}, {' or '.join(map(str, counts))} prompts a set. Harmful is the mean of "
        f"{', '.join(harmful)} ([report](../{REPORT}), made by benchmarks/README.md). A dash: not measured."
    )
    return [
        told,
        table(("method", *MEASURED), [(f"`{each}`", *_row(each, measured, report)) for each in methods]),
    ]


def _row(name: str, measured: list[dict[str, Any]], report: Mapping[str, Any]) -> list[str]:
    arms = {row["arm"] for row in measured if row["method"] == name and row["arm"] in (name, f"{name} gate=off")}
    if not arms:
        return ["-"] * len(MEASURED)
    (arm,) = arms
    means = next(each["harmless_rate"] for each in report["summaries"] if each["arm"] == arm)
    rates = {row["benchmark"]: row["refused"] for row in measured if row["arm"] == arm}
    cells = [_share(means["mean"], means)]
    return cells + [_share(rates[each]["value"], rates[each]) if each in rates else "-" for each in HARMLESS]


def _share(value: float | None, bounds: Mapping[str, float]) -> str:
    if value is None:
        return "-"
    low, high = bounds["low"], bounds["high"]
    return f"{value:.2f} ({low:.2f}-{high:.2f})".replace("0.", ".")


def current() -> str:
    """The page as it should be now."""
    ours = {name: each for name, each in METHODS.items() if own_method_key(name) is None}
    return page(ours, json.loads((ROOT / REPORT).read_text(encoding="utf-8")))


def main() -> None:
    PAGE.write_text(current(), encoding="utf-8")


if __name__ == "__main__":
    main()
