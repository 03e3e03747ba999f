"""Fills the parts of an evaluation's page, in reading order: tables, notes and places of pictures.

Everything but the section `cost` is the same for the same seed, model and settings; what was measured with a clock
stands there alone. Prompts and replies stand in the section `disagreement` alone, which only HTML shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from acd_core.evaluation import figures
from acd_core.evaluation.intervals import Rate, mean_cell, rate_cell, three_digits, wilson
from acd_core.evaluation.judge_agreement import Calibration, Disagreement, judge_calibration
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.evaluation.model_judges import Readings
from acd_core.evaluation.page import Block, Bullets, Picture, Sample, Section, Table, Text
from acd_core.evaluation.paper import compare, general_ability, sweep_shape
from acd_core.evaluation.results import Evaluation, SetRates, Summary
from acd_core.evaluation.text_quality import GARBLED_SHARE
from acd_core.evaluation.utility import ArmUtility, Perplexity, Utility, Wins
from acd_core.refusal.judges import LABELS


def sections(
    result: Evaluation,
    utility: Utility | None = None,
    disagreements: Sequence[Disagreement] = (),
    readings: Mapping[str, Readings] | None = None,
    calibrations: Sequence[tuple[str, Calibration]] = (),
) -> list[Section]:
    """The page in parts, in reading order. Parts without rows (no harmless set, say) are left out.

    readings: what judge models said of the same replies, by task ("harm", "refusal"). calibrations: agreement with
    people that this run measured, by file, beside the bundled figures.
    """
    found = [
        Section("summary", "Harm beside over-refusal", _summary(result.summaries())),
        *_by_set(result, "harmful", "harmless", "Harmless rate by set (share refused, partly or fully)"),
        *_by_set(result, "harmless", "over-refusal", "Over-refusal by set (share refused, partly or fully)"),
        Section("prompts", "Prompts alone (the paper's Figure 4)", _prompts(result)),
        Section("sweep", "Strength of the contrast (the paper's Figure 5)", _sweep(result)),
        Section("categories", "By category", _categories(result)),
        Section("utility", "What it costs in usefulness", utility_blocks(utility)),
        Section("paper", "The paper's orderings beside ours", _paper(result, utility)),
        Section("strict", "Full refusals alone, empty and skipped replies", _strict(result.rows)),
        Section("lists", "The same replies by published keyword lists", _lists(result.rows)),
        Section("models", "The same replies by a judge model", judge_models(result, readings or {})),
        Section("disagreement", "Where the judges disagree", _disagreement(disagreements)),
        Section("judge", "How far to trust the judge", _judge(calibrations)),
        Section(
            "header",
            "Run",
            (Table(["fact", "value"], [[name, _in_words(value)] for name, value in result.header.items()]),),
        ),
        Section("cost", "Cost", _cost(result.summaries())),
    ]
    return [section for section in found if section.blocks]


def _in_words(value: Any) -> str:
    """A fact of the header in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_in_words, value)) or "none"
    return "none" if value is None else str(value)


def _summary(summaries: Sequence[Summary]) -> tuple[Block, ...]:
    attacked = any(not math.isnan(each.attacked[0]) for each in summaries)
    gated = any(each.gate for each in summaries)
    rows = [
        [
            each.arm,
            *([each.gate or "-"] if gated else []),
            mean_cell(each.harmless_rate),
            *([mean_cell(each.attacked)] if attacked else []),
            mean_cell(each.over_refusal),
        ]
        for each in summaries
    ]
    under = ["harmless rate, attacked sets"] if attacked else []
    note = (
        "Means over sets, with 95% bootstrap intervals. High harmless rate and low over-refusal are wanted. Where all "
        "replies of a method fall the same way the bootstrap has no width; the Wilson intervals by set below do."
    )
    picture = Picture("plane", "every method: over-refusal to the right, harmless rate up")
    if gated:
        note += " Gate: on, off, or the share of harmless requests it may open for."
    between = ["gate"] if gated else []
    head = ["method", *between, "harmless rate, harmful sets", *under, "over-refusal, harmless sets"]
    return picture, Table(head, rows), Text(note)


def _by_set(result: Evaluation, kind: str, name: str, title: str) -> list[Section]:
    sets = list(dict.fromkeys(row.benchmark for row in result.rows if row.kind == kind))
    if not sets:
        return []
    rows = [[arm, *(rate_cell(result.row(arm, each).refused) for each in sets)] for arm in result.arms]
    counts = ", ".join(f"{each} {result.row(result.arms[0], each).refused.total}" for each in sets)
    return [Section(name, title, (Table(["method", *sets], rows), Text(f"95% Wilson intervals. Prompts: {counts}.")))]


def _prompts(result: Evaluation) -> tuple[Block, ...]:
    if not figures.prompt_arms(result):
        return ()
    return (Picture("prompts", "harmless rate and over-refusal under each prompt alone"),)


def _sweep(result: Evaluation) -> tuple[Block, ...]:
    points = figures.sweep_points(result)
    if len(points) < 2:
        return ()
    rows = [[f"{alpha:g}", mean_cell(each.harmless_rate), mean_cell(each.over_refusal)] for alpha, each in points]
    shape = sweep_shape(result)
    picture = Picture("sweep", "harmless rate and over-refusal of acd over alpha")
    return picture, Table(["alpha", "harmless rate", "over-refusal"], rows), *([Text(shape)] if shape else [])


def _categories(result: Evaluation) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for name in figures.category_sets(result):
        rows = [row for row in result.rows if row.benchmark == name]
        names = list(dict.fromkeys(category for row in rows for category in row.categories))
        cells = [
            [category, *(rate_cell(row.categories[category]) if category in row.categories else "-" for row in rows)]
            for category in names
        ]
        blocks += [
            Text(f"{name} (share refused, 95% Wilson intervals):"),
            Picture(f"categories-{name}", f"share refused by category of {name}"),
            Table(["category", *(row.arm for row in rows)], cells),
        ]
    return tuple(blocks)


def _paper(result: Evaluation, utility: Utility | None) -> tuple[Block, ...]:
    found = compare(result)
    if all(each.verdict == "not run" for each in found):
        return ()

    def published(value: float | None) -> str:
        return "drawn only" if value is None else three_digits(value)

    rows = [
        [
            each.claim.where,
            f"{each.claim.higher_name} > {each.claim.lower_name}",
            f"{published(each.claim.paper_higher)} > {published(each.claim.paper_lower)}",
            f"{each.claim.higher}, {each.claim.lower}",
            f"{three_digits(each.higher)}, {three_digits(each.lower)}" if not math.isnan(each.higher) else "-",
            mean_cell(each.difference),
            each.verdict,
        ]
        for each in found
    ]
    head = ["where", "the paper's order", "its harmless rates", "here", "our harmless rates", "difference", "order"]
    lines = [line for line in (sweep_shape(result), *(general_ability(utility) if utility else ())) if line]
    return (
        Table(head, rows),
        *([Bullets(lines)] if lines else []),
        Text(
            "Differences are paired by prompt, with 95% bootstrap intervals; within noise: the interval holds 0. The "
            "paper's models and judge are others, so its order can be compared and its numbers cannot."
        ),
    )


def _strict(rows: Sequence[SetRates]) -> tuple[Block, ...]:
    lines = [[row.arm, row.benchmark, rate_cell(row.full), str(row.empty), str(row.skipped)] for row in rows]
    note = (
        "A partial refusal declines and then helps; whether that is harmless depends on the help, so the strict rate "
        "counts full refusals only. Empty replies count as full refusals. Skipped prompts did not fit the context and "
        "are in no rate."
    )
    return Table(["method", "set", "full refusals", "empty", "skipped"], lines), Text(note)


def _lists(rows: Sequence[SetRates]) -> tuple[Block, ...]:
    names = list(KEYWORD_LISTS)
    lines = [
        [row.arm, row.benchmark, rate_cell(row.refused), *(rate_cell(row.lists[name]) for name in names)]
        for row in rows
    ]
    sources = [f"{name}: {KEYWORD_LISTS[name].source}" for name in names]
    return Table(["method", "set", "ours", *names], lines), Bullets(sources)


def _disagreement(found: Sequence[Disagreement]) -> tuple[Block, ...]:
    if not found:
        return ()
    return (
        Text("A seeded sample of replies that our rules and another judge read differently; each opens on a click."),
        *(Sample(each.label, each.prompt, each.reply) for each in found),
    )


def _cost(summaries: Sequence[Summary]) -> tuple[Block, ...]:
    base = next((each for each in summaries if each.arm == "none"), summaries[0])
    lines = [
        [
            each.arm,
            f"{each.tokens_per_s:.1f}",
            f"{each.tokens_per_s / base.tokens_per_s:.2f}" if base.tokens_per_s > 0 else "-",
        ]
        for each in summaries
    ]
    note = "Measured during this run, all prompts of a set in flight together; the only part that differs between runs."
    return Table(["method", "tokens/s", f"relative to {base.arm}"], lines), Text(note)


def _judge(measured: Sequence[tuple[str, Calibration]]) -> tuple[Block, ...]:
    known = judge_calibration()
    bundled = [(file, each) for file, results in known["files"].items() for each in results]
    rows = []
    for file, each in [*bundled, *((name, found.to_dict()) for name, found in measured)]:
        three_way = each["three_way"]
        classes = [_known(each["recall"][label]) if three_way else "" for label in LABELS]
        overall = _known(three_way) if three_way else "two-way only"
        rows.append([file, each["judge"], _known(each["refusal"]), overall, *classes])
    head = ["human-labelled replies", "judge", "agreement, refused / complied", "agreement, three-way"]
    head += [f"found: {label.replace('_', ' ')}" for label in LABELS]
    return Table(head, rows), Text(f"95% Wilson intervals. {known['note']}")


def _known(rate: Mapping[str, Any]) -> str:
    return rate_cell(Rate(rate["count"], rate["total"], rate["low"], rate["high"]))


# --- costs in usefulness ---


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
            rate_cell(each.quality.garbled),
            rate_cell(each.harmful_quality.garbled),
            rate_cell(each.quality.cut),
        ]
        for each in utility.arms
    ]
    head = ["method", "words a reply", "distinct-1", "distinct-2", "repeated 4-grams"]
    head += ["garbled, harmless sets", "garbled, harmful sets", "cut at the limit"]
    likely = [
        [
            each.arm,
            rate_cell(each.same) if each.same is not None else "-",
            mean_cell(each.divergence) if each.divergence is not None else "-",
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
        return [
            rate_cell(found.accuracy) + note,
            *([mean_cell(found.true_share)] if found.true_share is not None else []),
        ]

    return [[each.arm, *(cell for name in names for cell in cells(each, name))] for each in utility.arms]


def _wins(found: Wins) -> list[str]:
    return [mean_cell(found.rate), str(found.wins), str(found.ties), str(found.losses), str(found.undecided)]


# --- judge models ---


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
        rows.append([each["arm"], each["benchmark"], rate_cell(each["rules"]), *map(rate_cell, cells)])
    notes = [f"{found.judge}: {found.unread} replies without a readable verdict" for found in readings.values()]
    agreement = models_data(result, readings).get("agreement")
    if agreement is not None:
        notes.append(f"our rules and the model agree on refused or complied for {rate_cell(agreement)} of the replies")
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
