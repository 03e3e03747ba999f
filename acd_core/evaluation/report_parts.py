"""Two parts of the page that other runs may lack: the costs in usefulness, and what judge models said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acd_core.evaluation.cells import share, three
from acd_core.evaluation.harness import Evaluation
from acd_core.evaluation.intervals import Rate, wilson
from acd_core.evaluation.model_judges import Readings
from acd_core.evaluation.page import Block, Table, Text
from acd_core.evaluation.text_quality import GARBLED_SHARE
from acd_core.evaluation.utility import ArmUtility, Perplexity, Utility, Wins


def utility_blocks(utility: Utility | None) -> tuple[Block, ...]:
    """The costs in usefulness as tables, each with a text that says how to read it; nothing where none were read."""
    if utility is None:
        return ()
    base = utility.base
    texts = [
        [
            each.arm,
            f"{each.quality.mean_words:.1f}",
            f"{each.quality.distinct_1:.3f}",
            f"{each.quality.distinct_2:.3f}",
            f"{each.quality.repeated:.3f}",
            share(each.quality.garbled),
            share(each.harmful_quality.garbled),
            share(each.quality.cut),
        ]
        for each in utility.arms
    ]
    head = ["method", "words a reply", "distinct-1", "distinct-2", "repeated 4-grams"]
    head += ["garbled, harmless sets", "garbled, harmful sets", "cut at the limit"]
    likely = [
        [
            each.arm,
            share(each.same) if each.same is not None else "-",
            three(each.divergence) if each.divergence is not None else "-",
            _perplexity(each.of_base),
            _perplexity(each.under_base),
        ]
        for each in utility.arms
    ]
    blocks: list[Block] = [
        Table(head, texts),
        Text(
            f"Replies to harmless sets unless said otherwise. Garbled: at least {GARBLED_SHARE:.0%} of the reply's "
            "4-grams stood in it before, or it holds broken characters; a garbled reply to a harmful prompt is no "
            "refusal and no harm either, so read it beside the harmless rate."
        ),
        Table(
            [
                "method",
                f"replies word for word {base}'s",
                f"KL from {base}, nats a token",
                f"perplexity of {base}'s replies under it",
                f"perplexity of its replies under {base}",
            ],
            likely,
        ),
        Text(
            "Harmless sets. Same replies with 95% Wilson, the rest with bootstrap intervals over replies. KL and the "
            f"first perplexity: {base}'s replies that are no refusals, read under each method's joined distribution; a "
            f"rise is what the method bends, and a dash in KL means that it rules out what {base} may say. Second "
            f"perplexity: the method's own replies, read by {base}; refusals and garble stand out."
        ),
    ]
    names = list(dict.fromkeys(name for each in utility.arms for name in each.choices))
    if names:
        blocks += [
            Table(
                ["method", *(column for name in names for column in _columns(utility, name))], _choices(utility, names)
            ),
            Text(
                "Read from log-likelihoods on the joined distribution; accuracy with 95% Wilson, MC2 with bootstrap "
                "intervals. MC1: the best answer against the false ones; MC2: the true answers' share of probability. "
                "Undecided: questions all of whose choices have probability 0 under a rule that drops tokens; they are "
                "in no rate, so few decided ones say little."
            ),
        ]
    if utility.judge:
        rows = [[each.arm, *_wins(each.wins)] for each in utility.arms if each.wins is not None]
        blocks += [
            Table(["method", f"win rate against {base}", "wins", "ties", "losses", "undecided"], rows),
            Text(f"Replies to harmless sets, compared in both orders by {utility.judge}. Equal replies are ties."),
        ]
    return tuple(blocks)


def _perplexity(found: Perplexity | None) -> str:
    if found is None:
        return "-"
    value, low, high = found.value
    note = f", {found.dropped} impossible" if found.dropped else ""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]{note}"


def _columns(utility: Utility, name: str) -> list[str]:
    truthful = any(each.choices[name].true_share is not None for each in utility.arms)
    return [f"{name} MC1", f"{name} MC2"] if truthful else [f"{name} accuracy"]


def _choices(utility: Utility, names: Sequence[str]) -> list[list[str]]:
    def cells(each: ArmUtility, name: str) -> list[str]:
        found = each.choices[name]
        note = f", {found.undecided} undecided" if found.undecided else ""
        return [share(found.accuracy) + note, *([three(found.true_share)] if found.true_share is not None else [])]

    return [[each.arm, *(cell for name in names for cell in cells(each, name))] for each in utility.arms]


def _wins(found: Wins) -> list[str]:
    return [three(found.rate), str(found.wins), str(found.ties), str(found.losses), str(found.undecided)]


def judge_models(result: Evaluation, readings: Mapping[str, Readings]) -> tuple[Block, ...]:
    """Rates by judge models, for every method and set, beside our rules and how often the two agree on refusal."""
    if not readings:
        return ()
    head = ["method", "set", "refused, our rules"]
    head += ["refused, by the model"] if "refusal" in readings else []
    head += ["harmful, by the model"] if "harm" in readings else []
    rows = []
    for each in models_data(result, readings)["rows"]:
        cells = [each[name] for name in ("refused", "harmful") if name in each]
        rows.append([each["arm"], each["benchmark"], share(each["rules"]), *map(share, cells)])
    notes = [f"{found.judge}: {found.unread} replies without a readable verdict" for found in readings.values()]
    agreement = models_data(result, readings).get("agreement")
    if agreement is not None:
        notes.append(f"our rules and the model agree on refused or complied for {share(agreement)} of the replies")
    return Table(head, rows), Text("95% Wilson intervals. " + "; ".join(notes) + ".")


def models_data(result: Evaluation, readings: Mapping[str, Readings]) -> dict[str, Any]:
    """The same as data."""
    if not readings:
        return {}
    refusal = readings["refusal"].refused if "refusal" in readings else {}
    harm = readings["harm"].labels if "harm" in readings else {}
    rows = []
    for row in result.rows:
        found = [(c.key, v.refused) for c, v in result.verdicts if (c.arm, c.benchmark) == (row.arm, row.benchmark)]
        data: dict[str, Any] = {"arm": row.arm, "benchmark": row.benchmark, "rules": row.refused}
        if "refusal" in readings:
            data["refused"] = _rate([refusal[key] for key, _ in found if key in refusal])
        if "harm" in readings:
            data["harmful"] = _rate([harm[key] == "harmful" for key, _ in found if key in harm])
        rows.append(data)
    data = {"judges": {task: found.judge for task, found in readings.items()}, "rows": rows}
    if refusal:
        data["agreement"] = _rate([refusal[c.key] == v.refused for c, v in result.verdicts if c.key in refusal])
    return data


def _rate(hits: Sequence[bool]) -> Rate:
    return wilson(sum(hits), len(hits))
