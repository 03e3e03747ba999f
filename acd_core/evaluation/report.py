"""An evaluation as a page: Markdown for people, JSON for machines. Rates only, never a prompt or a reply.

`sections` returns the page in parts (title, Markdown table or text), so that another renderer (HTML, plots) can put its
own parts between them.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from acd_core.evaluation.harness import Evaluation, Row, Summary
from acd_core.evaluation.intervals import Rate
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS

FORMAT = 1


@dataclass(frozen=True)
class Section:
    """One part of the page: a title, and Markdown under it. `name` is for renderers that replace or move parts."""

    name: str
    title: str
    body: str


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; cells must hold no line breaks. Bars in cells are escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])


def judge_calibration() -> dict[str, Any]:
    """What agreement the bundled judge reached with human labels: figures made by benchmarks/calibrate_judge.py."""
    text = resources.files("acd_core.evaluation").joinpath("judge_calibration.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def sections(result: Evaluation) -> list[Section]:
    """The page in parts, in reading order. Parts without rows (no harmless set, say) are left out."""
    found = [
        Section("summary", "Harm beside over-refusal", _summary(result.summaries())),
        *_by_set(result, "harmful", "harmless", "Harmless rate by set (share refused, partly or fully)"),
        *_by_set(result, "harmless", "over-refusal", "Over-refusal by set (share refused, partly or fully)"),
        Section("strict", "Full refusals alone, empty and skipped replies", _strict(result.rows)),
        Section("lists", "The same replies by published keyword lists", _lists(result.rows)),
        Section("cost", "Cost", _cost(result.summaries())),
        Section("judge", "How far to trust the judge", _judge()),
        Section("header", "Run", table(["fact", "value"], [[k, str(v)] for k, v in result.header.items()])),
    ]
    return [section for section in found if section.body]


def to_markdown(result: Evaluation, title: str = "Evaluation") -> str:
    """The whole page."""
    parts = [f"# {title}"]
    for section in sections(result):
        parts += [f"## {section.title}", section.body]
    return "\n\n".join(parts) + "\n"


def to_json(result: Evaluation) -> dict[str, Any]:
    """Everything on the page as data, NaN as None. Completions are not in it; they are in completions.jsonl."""
    return {
        "format": FORMAT,
        "header": dict(result.header),
        "rows": [_row_data(row) for row in result.rows],
        "summaries": [
            {
                "arm": each.arm,
                "harmless_rate": _numbers(each.harmless_rate),
                "over_refusal": _numbers(each.over_refusal),
                "tokens_per_s": each.tokens_per_s,
            }
            for each in result.summaries()
        ],
        "judge_calibration": judge_calibration(),
    }


def write_report(result: Evaluation, folder: str | os.PathLike[str], title: str = "Evaluation") -> list[Path]:
    """Write report.md and report.json into `folder`, each whole or not at all; returns their paths."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    data = json.dumps(to_json(result), indent=1, ensure_ascii=False, allow_nan=False)
    written = []
    for name, text in (("report.md", to_markdown(result, title)), ("report.json", data + "\n")):
        draft = home / f".{name}.part"
        draft.write_text(text, encoding="utf-8", newline="\n")
        draft.replace(home / name)
        written.append(home / name)
    return written


def share(rate: Rate) -> str:
    """ ".870 [.790, .922]", or a dash."""
    if not rate.total:
        return "-"
    return f"{_short(rate.value)} [{_short(rate.low)}, {_short(rate.high)}]"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0") if value < 1 else "1.000"


def _three(values: tuple[float, float, float]) -> str:
    return "-" if math.isnan(values[0]) else f"{_short(values[0])} [{_short(values[1])}, {_short(values[2])}]"


def _numbers(values: tuple[float, float, float]) -> dict[str, float | None]:
    mean, low, high = (None if math.isnan(value) else value for value in values)
    return {"mean": mean, "low": low, "high": high}


def _summary(summaries: Sequence[Summary]) -> str:
    rows = [[each.arm, _three(each.harmless_rate), _three(each.over_refusal)] for each in summaries]
    note = (
        "Means over sets, with 95% bootstrap intervals. High harmless rate and low over-refusal are wanted. Where all "
        "replies of a method fall the same way the bootstrap has no width; the Wilson intervals by set below do."
    )
    return table(["method", "harmless rate, harmful sets", "over-refusal, harmless sets"], rows) + f"\n\n{note}"


def _by_set(result: Evaluation, kind: str, name: str, title: str) -> list[Section]:
    sets = list(dict.fromkeys(row.benchmark for row in result.rows if row.kind == kind))
    if not sets:
        return []
    rows = [[arm, *(share(result.row(arm, each).refused) for each in sets)] for arm in result.arms]
    counts = ", ".join(f"{each} {result.row(result.arms[0], each).refused.total}" for each in sets)
    body = table(["method", *sets], rows) + f"\n\n95% Wilson intervals. Prompts: {counts}."
    return [Section(name, title, body)]


def _strict(rows: Sequence[Row]) -> str:
    lines = [[row.arm, row.benchmark, share(row.full), str(row.empty), str(row.skipped)] for row in rows]
    note = (
        "A partial refusal declines and then helps; whether that is harmless depends on the help, so the strict rate "
        "counts full refusals only. Empty replies count as full refusals. Skipped prompts did not fit the context and "
        "are in no rate."
    )
    return table(["method", "set", "full refusals", "empty", "skipped"], lines) + f"\n\n{note}"


def _lists(rows: Sequence[Row]) -> str:
    names = list(KEYWORD_LISTS)
    lines = [[row.arm, row.benchmark, share(row.refused), *(share(row.lists[name]) for name in names)] for row in rows]
    sources = "\n".join(f"- {name}: {KEYWORD_LISTS[name].source}" for name in names)
    return table(["method", "set", "ours", *names], lines) + f"\n\n{sources}"


def _cost(summaries: Sequence[Summary]) -> str:
    base = summaries[0].tokens_per_s if summaries else 0.0
    lines = [
        [each.arm, f"{each.tokens_per_s:.1f}", f"{each.tokens_per_s / base:.2f}" if base > 0 else "-"]
        for each in summaries
    ]
    return table(["method", "tokens/s", f"relative to {summaries[0].arm}" if summaries else "relative"], lines)


def _judge() -> str:
    known = judge_calibration()
    rows = []
    for file, results in known["files"].items():
        for each in results:
            three = each["three_way"]
            rows.append([file, each["judge"], _known(each["refusal"]), _known(three) if three else "two-way only"])
    head = ["human-labelled replies", "judge", "agreement, refused / complied", "agreement, three-way"]
    return table(head, rows) + f"\n\n{known['note']}"


def _known(rate: Mapping[str, Any]) -> str:
    return share(Rate(rate["count"], rate["total"], rate["low"], rate["high"]))


def _row_data(row: Row) -> dict[str, Any]:
    return {
        "arm": row.arm,
        "method": row.method,
        "alpha": row.alpha,
        "benchmark": row.benchmark,
        "kind": row.kind,
        "refused": row.refused.to_dict(),
        "full_refusals": row.full.to_dict(),
        "empty": row.empty,
        "skipped": row.skipped,
        "tokens": row.tokens,
        "seconds": row.seconds,
        "tokens_per_s": row.tokens_per_s,
        "lists": {name: rate.to_dict() for name, rate in row.lists.items()},
        "categories": {name: rate.to_dict() for name, rate in row.categories.items()},
    }
