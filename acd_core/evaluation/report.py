"""Writes an evaluation: Markdown and HTML for people, JSON for machines. What stands in it: `report_sections`."""

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

from acd_core.errors import MissingExtraError, UsageError
from acd_core.evaluation import figures
from acd_core.evaluation.intervals import Rate
from acd_core.evaluation.judge_agreement import Calibration, Disagreement, judge_calibration
from acd_core.evaluation.model_judges import Readings
from acd_core.evaluation.page import Section, Text, markdown, to_html
from acd_core.evaluation.paper import compare
from acd_core.evaluation.report_sections import models_data, sections
from acd_core.evaluation.results import Evaluation, SetRates
from acd_core.evaluation.utility import Utility
from acd_core.files.reading import read_object
from acd_core.files.saving import failing_as, save_file

FORMAT = 2
_FIGURES = "figures"
_FILES = ("report.json", "report.md", "report.html", _FIGURES)


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

    Returns their paths. Without matplotlib the page has no pictures and says so. Raises UsageError where something in
    the folder is in the way (`check_page`), or the disk does not take it.
    """
    home = Path(folder)
    check_page(home)
    parts = sections(result, utility, disagreements, readings, calibrations)
    try:
        drawn = figures.all_figures(result)
    except MissingExtraError as error:
        drawn = {}
        parts.insert(0, Section("pictures", "Pictures", (Text(f"None: {error.message} {error.hint}"),)))
    data = json.dumps(to_json(result, utility, readings, calibrations), indent=1, ensure_ascii=False, allow_nan=False)
    texts = {
        "report.json": data + "\n",  # first: it says to the next run that the others are ours
        **{f"{_FIGURES}/{name}.svg": text for name, text in drawn.items()},
        "report.md": markdown(title, parts, {name: f"{_FIGURES}/{name}.svg" for name in drawn}),
        "report.html": to_html(title, parts, drawn),
    }
    with failing_as(UsageError, f"The page cannot be written to {str(home)!r}"):
        for name, text in texts.items():
            save_file(home / name, text.encode("utf-8", "replace"))
    return [home / name for name in texts]


def check_page(folder: Path) -> None:
    """Raise UsageError where a page in `folder` would replace files that no evaluation wrote.

    A folder is known by its report.json; without one, none of the page's other files may be there.
    """
    try:
        ours = {"format", "header", "rows"} <= read_object(folder / _FILES[0], UsageError).keys()
    except (FileNotFoundError, UsageError):
        ours = False
    found = next((name for name in _FILES if os.path.lexists(folder / name)), None)
    if found is not None and not ours:
        raise UsageError(
            f"{str(folder)!r} holds {found!r}, which no evaluation wrote; it will not be overwritten.",
            hint="Choose another folder: acd evaluate --out NEW-FOLDER",
        )


# --- as data ---


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


def _row_data(row: SetRates) -> dict[str, Any]:
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
