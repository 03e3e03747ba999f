"""Says how far to trust the judges: agreement with people's labels, and replies that two of them read differently.

The labelled rows are XSTest's completions (Roettger et al. 2024) or any file of the same columns.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acd_core import bundled
from acd_core.errors import UsageError
from acd_core.evaluation.intervals import Rate, wilson
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.evaluation.model_judges import LabelJudge
from acd_core.evaluation.records import Completion
from acd_core.evaluation.results import Evaluation
from acd_core.refusal.judges import LABELS, Label, RefusalJudge, Verdict

_HUMAN: dict[str, Label] = {
    "1_full_compliance": "full_compliance",
    "2_full_refusal": "full_refusal",
    "3_partial_refusal": "partial_refusal",
}


@dataclass(frozen=True)
class LabelledRow:
    """One completion that people have labelled."""

    prompt: str
    completion: str
    label: Label


def read_labelled(path: str | Path) -> list[LabelledRow]:
    """Rows of a CSV with the columns prompt, completion and final_label (XSTest's names or ours).

    Raises UsageError for a missing file or column, or an unknown label (named with its line, never with its text).
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no labelled file {str(file)!r}.", hint="Give a CSV: prompt,completion,final_label")
    rows = []
    with file.open(encoding="utf-8", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            missing = [name for name in ("prompt", "completion", "final_label") if row.get(name) is None]
            if missing:
                raise UsageError(
                    f"{file.name}, row {number}: no {', '.join(missing)}.",
                    hint="Columns: prompt,completion,final_label",
                )
            given = row["final_label"]
            label = _HUMAN.get(given) or next((name for name in LABELS if name == given), None)
            if label is None:
                raise UsageError(
                    f"{file.name}, row {number}: unknown label {given[:40]!r}.", hint=f"Use {', '.join(LABELS)}"
                )
            rows.append(LabelledRow(row["prompt"], row["completion"], label))
    return rows


@dataclass(frozen=True)
class Calibration:
    """Agreement of one judge with people on one set of rows.

    three_way: share of equal labels. refusal: share that agrees on refused (partial or full) against complied.
    recall and precision: per human class. confusion[human][judge]: counts. three_way is None for two-way judges.
    unread: rows on which a model judge gave no readable verdict; they count as disagreements.
    """

    judge: str
    rows: int
    refusal: Rate
    three_way: Rate | None
    recall: dict[Label, Rate]
    precision: dict[Label, Rate]
    confusion: dict[Label, dict[Label, int]]
    unread: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "judge": self.judge,
            "rows": self.rows,
            "refusal": self.refusal.to_dict(),
            "three_way": self.three_way.to_dict() if self.three_way else None,
            "recall": {label: rate.to_dict() for label, rate in self.recall.items()},
            "precision": {label: rate.to_dict() for label, rate in self.precision.items()},
            "confusion": self.confusion,
            "unread": self.unread,
        }


def calibrate(rows: Iterable[LabelledRow], judge: RefusalJudge | None = None) -> Calibration:
    """Our rules (or another judge of the same form) against the human labels of `rows`, with Wilson intervals."""
    ours = judge or RefusalJudge()
    return _agreement(
        f"{ours.name} v{ours.version}", rows, lambda row: ours.judge(row.prompt, row.completion).label, True
    )


def calibrate_model(rows: Sequence[LabelledRow], judge: LabelJudge) -> Calibration:
    """A model judge of refusal (`ModelJudge(asker, "refusal")`) against the same human labels."""
    said = judge.label_each([(row.prompt, row.completion) for row in rows])
    labels = {id(row): label for row, label in zip(rows, said)}

    def label(row: LabelledRow) -> Label | None:
        return next((each for each in LABELS if each == labels[id(row)]), None)

    return _agreement(judge.name, rows, label, True)


def calibrate_lists(rows: Sequence[LabelledRow]) -> list[Calibration]:
    """The published keyword lists on the same rows. They know two classes: what matches is called a full refusal."""
    found = []
    for rule in KEYWORD_LISTS.values():

        def label(row: LabelledRow, matches: Callable[[str], bool] = rule.matches) -> Label:
            return "full_refusal" if matches(row.completion) else "full_compliance"

        found.append(_agreement(f"list:{rule.name}", rows, label, False))
    return found


def _agreement(
    name: str, rows: Iterable[LabelledRow], label: Callable[[LabelledRow], Label | None], three: bool
) -> Calibration:
    confusion: dict[Label, dict[Label, int]] = {human: dict.fromkeys(LABELS, 0) for human in LABELS}
    unread = dict.fromkeys(LABELS, 0)
    for row in rows:
        said = label(row)
        if said is None:
            unread[row.label] += 1
        else:
            confusion[row.label][said] += 1
    people = {each: sum(confusion[each].values()) + unread[each] for each in LABELS}
    total = sum(people.values())
    same = sum(confusion[each][each] for each in LABELS)
    answered = confusion["full_compliance"]["full_compliance"]
    refused = sum(confusion[h][j] for h in LABELS[1:] for j in LABELS[1:])
    given = {each: sum(confusion[human][each] for human in LABELS) for each in LABELS}
    return Calibration(
        judge=name,
        rows=total,
        refusal=wilson(answered + refused, total),
        three_way=wilson(same, total) if three else None,
        recall={each: wilson(confusion[each][each], people[each]) for each in LABELS},
        precision={each: wilson(confusion[each][each], given[each]) for each in LABELS},
        confusion=confusion,
        unread=sum(unread.values()),
    )


def calibration_table(results: Sequence[tuple[str, Calibration]]) -> str:
    """A Markdown table of (file name, agreement) rows."""
    head = "| rows | judge | refused / complied | three-way | " + " | ".join(f"found: {name}" for name in LABELS) + " |"
    lines = [head, "|" + " --- |" * (4 + len(LABELS))]
    for file, result in results:
        three = str(result.three_way) if result.three_way else "two-way only"
        recall = " | ".join(str(result.recall[name]) if result.three_way else "" for name in LABELS)
        lines.append(f"| {file} ({result.rows}) | {result.judge} | {result.refusal} | {three} | {recall} |")
    return "\n".join(lines)


def judge_calibration() -> dict[str, Any]:
    """What agreement the bundled judge reached with human labels: figures made by benchmarks/calibrate_judge.py."""
    text = bundled.JUDGE_CALIBRATION.read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


# --- replies that two judges read differently ---


@dataclass(frozen=True)
class Disagreement:
    """One reply. `label` says which set, prompt, method and verdicts, and quotes nothing."""

    label: str
    prompt: str
    reply: str


def disagreements(
    result: Evaluation, count: int, *, seed: int = 0, others: Mapping[str, Mapping[str, bool]] | None = None
) -> list[Disagreement]:
    """Up to `count` replies on which our rules and another judge differ, drawn with `seed`.

    others: further judges as name -> completion key -> refused. Replies where more judges differ are not preferred: the
    sample is meant to show the usual case.
    """
    found = []
    for reply, verdict in result.verdicts:
        differing = _differing(reply, verdict, others or {})
        if differing:
            found.append((reply, verdict, differing))
    chosen = random.Random(seed).sample(range(len(found)), min(count, len(found)))
    return [_described(*found[at]) for at in sorted(chosen)]


def _differing(reply: Completion, verdict: Verdict, others: Mapping[str, Mapping[str, bool]]) -> list[str]:
    lists = {name: rule.matches(reply.completion) for name, rule in KEYWORD_LISTS.items()}
    judged = {name: known[reply.key] for name, known in others.items() if reply.key in known}
    return [name for name, refused in {**lists, **judged}.items() if refused != verdict.refused]


def _described(reply: Completion, verdict: Verdict, differing: list[str]) -> Disagreement:
    said = "complied" if verdict.refused else "refused"
    label = (
        f"{reply.benchmark}, {reply.id}, {reply.arm}: our rules say {verdict.label.replace('_', ' ')} "
        f"({verdict.reason}); {said} says {', '.join(differing)}"
    )
    return Disagreement(label, reply.prompt, reply.completion)
