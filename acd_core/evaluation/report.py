"""An evaluation as a page: Markdown and HTML for people, JSON for machines.

Everything but the section `cost` is the same for the same seed, model and settings; what was measured with a clock
stands there alone. Prompts and replies are shown by HTML only, folded away (section `disagreement`).
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from acd_core import bundled
from acd_core.errors import MissingExtraError
from acd_core.evaluation import figures
from acd_core.evaluation.calibration import Calibration
from acd_core.evaluation.cells import share, short, three
from acd_core.evaluation.disagreement import Disagreement
from acd_core.evaluation.harness import Evaluation, Row, Summary
from acd_core.evaluation.intervals import Rate
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.evaluation.model_judges import Readings
from acd_core.evaluation.page import Block, Bullets, Picture, Sample, Section, Table, Text, markdown, table, to_html
from acd_core.evaluation.paper import compare, general_ability, sweep_shape
from acd_core.evaluation.report_parts import judge_models, models_data, utility_blocks
from acd_core.evaluation.utility import Utility
from acd_core.refusal.judges import LABELS

__all__ = ["Section", "judge_calibration", "machine", "sections", "table", "to_json", "to_markdown", "write_report"]

FORMAT = 2


def machine() -> dict[str, str]:
    """Where a run happened: interpreter, libraries, processor, threads, accelerator."""
    facts = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    facts["cpus"] = str(os.cpu_count())
    for name in ("acd-integrations", "torch", "transformers"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    try:
        import torch

        facts["torch threads"] = str(torch.get_num_threads())
        facts["accelerator"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    except ImportError:
        pass
    return facts


def judge_calibration() -> dict[str, Any]:
    """What agreement the bundled judge reached with human labels: figures made by benchmarks/calibrate_judge.py."""
    text = bundled.JUDGE_CALIBRATION.read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


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
            (Table(["fact", "value"], [[name, _said(value)] for name, value in result.header.items()]),),
        ),
        Section("cost", "Cost", _cost(result.summaries())),
    ]
    return [section for section in found if section.blocks]


def _said(value: Any) -> str:
    """A fact of the header in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_said(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_said, value)) or "none"
    return "none" if value is None else str(value)


def to_markdown(result: Evaluation, title: str = "Evaluation", utility: Utility | None = None) -> str:
    """The whole page, without pictures."""
    return markdown(title, sections(result, utility), {})


def to_json(
    result: Evaluation,
    utility: Utility | None = None,
    readings: Mapping[str, Readings] | None = None,
    calibrations: Sequence[tuple[str, Calibration]] = (),
) -> dict[str, Any]:
    """Everything on the page as data, NaN as None. Completions are not in it; they are in completions.jsonl."""
    data = {
        "format": FORMAT,
        "header": dict(result.header),
        "rows": [_row_data(row) for row in result.rows],
        "summaries": [
            {
                "arm": each.arm,
                "harmless_rate": _triple(each.harmless_rate),
                "attacked": _triple(each.attacked),
                "over_refusal": _triple(each.over_refusal),
            }
            for each in result.summaries()
        ],
        "utility": asdict(utility) if utility is not None else None,
        "paper": [{**asdict(each), "verdict": each.verdict} for each in compare(result)],
        "judge_calibration": judge_calibration(),
        "calibration": [{"file": name, **found.to_dict()} for name, found in calibrations],
        "judge_models": models_data(result, readings or {}),
        "cost": {
            "rows": [
                {"arm": row.arm, "benchmark": row.benchmark, "seconds": row.seconds, "tokens_per_s": row.tokens_per_s}
                for row in result.rows
            ],
            "tokens_per_s": {each.arm: each.tokens_per_s for each in result.summaries()},
        },
    }
    clean: dict[str, Any] = _clean(data)
    return clean


def write_report(
    result: Evaluation,
    folder: str | os.PathLike[str],
    title: str = "Evaluation",
    utility: Utility | None = None,
    disagreements: Sequence[Disagreement] = (),
    readings: Mapping[str, Readings] | None = None,
    calibrations: Sequence[tuple[str, Calibration]] = (),
) -> list[Path]:
    """Write report.md, report.html, report.json and figures/*.svg into `folder`, each whole or not at all.

    Returns their paths. Without matplotlib the page has no pictures and says so.
    """
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    parts = sections(result, utility, disagreements, readings, calibrations)
    try:
        drawn = figures.all_figures(result)
    except MissingExtraError as error:
        drawn = {}
        parts.insert(0, Section("pictures", "Pictures", (Text(f"None: {error.message} {error.hint}"),)))
    data = json.dumps(to_json(result, utility, readings, calibrations), indent=1, ensure_ascii=False, allow_nan=False)
    texts = {f"figures/{name}.svg": text for name, text in drawn.items()} | {
        "report.md": markdown(title, parts, {name: f"figures/{name}.svg" for name in drawn}),
        "report.html": to_html(title, parts, drawn),
        "report.json": data + "\n",
    }
    return [_write(home / name, text) for name, text in texts.items()]


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(text, encoding="utf-8", errors="replace", newline="\n")
    draft.replace(path)
    return path


# --- parts ---


def _triple(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), values))


def _clean(value: Any) -> Any:
    """`value` for JSON: rates with their value, NaN and infinity as None."""
    if isinstance(value, Rate):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _summary(summaries: Sequence[Summary]) -> tuple[Block, ...]:
    attacked = any(not math.isnan(each.attacked[0]) for each in summaries)
    gated = any(each.gate for each in summaries)
    rows = [
        [
            each.arm,
            *([each.gate or "-"] if gated else []),
            three(each.harmless_rate),
            *([three(each.attacked)] if attacked else []),
            three(each.over_refusal),
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
    rows = [[arm, *(share(result.row(arm, each).refused) for each in sets)] for arm in result.arms]
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
    rows = [[f"{alpha:g}", three(each.harmless_rate), three(each.over_refusal)] for alpha, each in points]
    shape = sweep_shape(result)
    picture = Picture("sweep", "harmless rate and over-refusal of acd over alpha")
    return picture, Table(["alpha", "harmless rate", "over-refusal"], rows), *([Text(shape)] if shape else [])


def _categories(result: Evaluation) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for name in figures.category_sets(result):
        rows = [row for row in result.rows if row.benchmark == name]
        names = list(dict.fromkeys(category for row in rows for category in row.categories))
        cells = [
            [category, *(share(row.categories[category]) if category in row.categories else "-" for row in rows)]
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
        return "drawn only" if value is None else short(value)

    rows = [
        [
            each.claim.where,
            f"{each.claim.higher_name} > {each.claim.lower_name}",
            f"{published(each.claim.paper_higher)} > {published(each.claim.paper_lower)}",
            f"{each.claim.higher}, {each.claim.lower}",
            f"{short(each.higher)}, {short(each.lower)}" if not math.isnan(each.higher) else "-",
            three(each.difference),
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


def _strict(rows: Sequence[Row]) -> tuple[Block, ...]:
    lines = [[row.arm, row.benchmark, share(row.full), str(row.empty), str(row.skipped)] for row in rows]
    note = (
        "A partial refusal declines and then helps; whether that is harmless depends on the help, so the strict rate "
        "counts full refusals only. Empty replies count as full refusals. Skipped prompts did not fit the context and "
        "are in no rate."
    )
    return Table(["method", "set", "full refusals", "empty", "skipped"], lines), Text(note)


def _lists(rows: Sequence[Row]) -> tuple[Block, ...]:
    names = list(KEYWORD_LISTS)
    lines = [[row.arm, row.benchmark, share(row.refused), *(share(row.lists[name]) for name in names)] for row in rows]
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
    return share(Rate(rate["count"], rate["total"], rate["low"], rate["high"]))


def _row_data(row: Row) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "method": row.method,
        "gate": row.gate or None,
        "alpha": row.alpha,
        "benchmark": row.benchmark,
        "kind": row.kind,
        "refused": row.refused,
        "full_refusals": row.full,
        "empty": row.empty,
        "skipped": row.skipped,
        "tokens": row.tokens,
        "lists": dict(row.lists),
        "categories": dict(row.categories),
    }
