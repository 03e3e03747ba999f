"""Plans and runs a whole evaluation: sets, arms, replies, costs, page. What `acd evaluate` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acd_core.errors import UsageError
from acd_core.evaluation.benchmarks import BUNDLED, LOADERS, load_benchmark
from acd_core.evaluation.items import Benchmark, check_overlap
from acd_core.evaluation.judge_agreement import LabelledRow, calibrate, calibrate_model, disagreements
from acd_core.evaluation.model_judges import (
    Asker,
    LabelJudge,
    ModelJudge,
    PairwiseJudge,
    PairwiseModelJudge,
    Reading,
    Readings,
    read_replies,
)
from acd_core.evaluation.multiple_choice import QuestionSet, general_questions, read_choices, read_truthfulqa
from acd_core.evaluation.paper import ABLATION, OPPOSITE_PROMPT
from acd_core.evaluation.records import Completion, RecordFile
from acd_core.evaluation.report import check_page, machine, write_report
from acd_core.evaluation.results import Evaluation
from acd_core.evaluation.runner import Arm, evaluate
from acd_core.evaluation.set_files import data_directory
from acd_core.evaluation.utility import Divergence, Judgement, Scores, Utility, measure
from acd_core.files.saving import check_writable, failing_as
from acd_core.methods import prompts
from acd_core.methods.table import METHODS

_KEPT: Mapping[str, type[Any]] = {
    "completions.jsonl": Completion,
    "scores.jsonl": Scores,
    "divergences.jsonl": Divergence,
    "judgements.jsonl": Judgement,
    "verdicts.jsonl": Reading,
}
"""The files of what a run keeps beside its page, and the records in each."""
SWEEP = (0.0, 0.2, 0.4, 0.6, 0.8)
_OPPOSITE = Arm("none", label=OPPOSITE_PROMPT, system=prompts.MANUAL_REVERSE)


@dataclass(frozen=True)
class Judges:
    """Judges that are models. harm, refusal: read every reply. pairs: compares replies to harmless prompts."""

    harm: LabelJudge | None = None
    refusal: LabelJudge | None = None
    pairs: PairwiseJudge | None = None

    @classmethod
    def of(cls, asker: Asker) -> Judges:
        """All three questions, put to one chat model."""
        return cls(ModelJudge(asker, "harm"), ModelJudge(asker, "refusal"), PairwiseModelJudge(asker))


@dataclass(frozen=True)
class Study:
    """What to run. arms and sets in the order of the page.

    samples: disagreements shown, folded away, in the HTML page. utility: whether log-likelihoods are read. judges: what
    a second judge is made of, besides our rules. labelled: replies with human labels by file name, on which every judge
    of refusals is calibrated. tuned_on: texts that must not be test prompts.
    """

    arms: Sequence[Arm]
    sets: Sequence[Benchmark]
    questions: Sequence[QuestionSet] = ()
    max_tokens: int = 128
    seed: int = 0
    samples: int = 8
    utility: bool = True
    judges: Judges | None = None
    labelled: Mapping[str, Sequence[LabelledRow]] = field(default_factory=dict)
    tuned_on: Iterable[str] = ()
    header: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyResult:
    """What a study found, and the files it wrote."""

    result: Evaluation
    utility: Utility | None
    files: tuple[Path, ...]


def run(
    lm: Any,
    study: Study,
    out: str | Path,
    *,
    title: str = "Evaluation",
    shown: bool = True,
    progress: Callable[[str], None] | None = None,
) -> StudyResult:
    """Run `study` on `lm` into the folder `out`. Started again with the same folder it repeats nothing that was kept.

    shown: bars on stderr. progress: hears one line after every method on every set.
    Raises UsageError where a prompt was tuned on, an arm or set is named twice, or `out` cannot be used.
    """
    check_output(Path(out))
    check_overlap(study.tuned_on, study.sets)
    header = {**machine(), "sampling seed": study.seed, **study.header}
    result = evaluate(
        lm,
        study.arms,
        study.sets,
        out=out,
        max_tokens=study.max_tokens,
        seed=study.seed,
        header=header,
        shown=shown,
        progress=progress,
    )
    judges, tell = study.judges or Judges(), progress or _silent
    readings: dict[str, Readings] = {}
    for task, judge in (("harm", judges.harm), ("refusal", judges.refusal)):
        if judge is not None:
            tell(f"{judge.name} reads {len(result.completions)} replies ...")
            readings[task] = read_replies(result.completions, judge, out)
    utility = None
    if study.utility:
        tell("log-likelihoods ...")
        utility = measure(
            lm, study.arms, study.sets, result, questions=study.questions, judge=judges.pairs, out=out, shown=shown
        )
    agreement = []
    for name, labelled in study.labelled.items():
        agreement.append((name, calibrate(labelled)))
        if judges.refusal is not None:
            tell(f"{judges.refusal.name} reads {len(labelled)} labelled replies of {name} ...")
            agreement.append((name, calibrate_model(labelled, judges.refusal)))
    others = {readings["refusal"].judge: readings["refusal"].refused} if "refusal" in readings else {}
    found = disagreements(result, study.samples, seed=study.seed, others=others)
    return StudyResult(result, utility, tuple(write_report(result, out, title, utility, found, readings, agreement)))


def check_output(out: Path) -> None:
    """Raise UsageError unless a run can keep all it makes in the folder `out`, and replaces nothing of others there."""
    with failing_as(UsageError, f"The page cannot be written to {str(out)!r}"):
        check_writable(out)
        for name, record in _KEPT.items():
            if os.path.lexists(out / name):
                with RecordFile(out / name, record):
                    pass
        check_page(out)


def _silent(_: str) -> None:
    """Says nothing."""


def chosen_sets(names: Sequence[str], data: str | None, limit: int | None, seed: int) -> list[Benchmark]:
    """The sets called `names`; without names the bundled ones, and with `data` every set whose file lies there.

    Each is a sample of at most `limit` prompts. Raises UsageError.
    """
    if names:
        found = [load_benchmark(name, data) for name in names]
    else:
        found = [load_benchmark(name) for name in BUNDLED]
        if data is not None:
            found += _sets_in_folder(data)
    found = [each.sample(limit, seed) for each in found if len(each)]
    return sorted(found, key=lambda each: each.kind)


def _sets_in_folder(data: str) -> list[Benchmark]:
    folder = data_directory(data)
    if not folder.is_dir():
        raise UsageError(f"There is no folder {data!r}.", hint="acd evaluate --data /path/to/folder")
    there = [name for name, set_ in LOADERS.items() if any((folder / file).is_file() for file in set_.files)]
    return [load_benchmark(name, data) for name in there]


def chosen_questions(files: Sequence[str], data: str | None, limit: int | None, seed: int) -> list[QuestionSet]:
    """Multiple-choice sets: TruthfulQA's CSV (by its name, or found under `data`), and JSON lines of questions; ours
    where no file is named."""
    found = [read_truthfulqa(name) if name.lower().endswith(".csv") else read_choices(name) for name in files]
    if not files:
        found.append(general_questions())
    known = data_directory(data) / "truthfulqa.csv" if data is not None else None
    if known is not None and known.is_file() and not any(each.truthful for each in found):
        found.insert(0, read_truthfulqa(known))
    return [each.sample(limit, seed) for each in found]


def chosen_arms(
    names: Sequence[str],
    alphas: Sequence[float] | None,
    *,
    pair_alpha: float | None,
    expert: bool | str,
    allow_adversarial: bool,
) -> list[Arm]:
    """The arms called `names`; without names every method that can run here, but for the ablation's mixed pairs.

    "all" stands for those too. alphas: further strengths of acd, for the sweep; None takes SWEEP unless methods are
    named. pair_alpha: the pair's own strength, None without a pair. expert: the kind of what is given
    as one (True: a LoRA adapter). With allow_adversarial the prompts that make a
    model less safe run as well, the manual opposite one under the name OPPOSITE_PROMPT.
    """
    every = _runnable(pair_alpha is not None, expert, allow_adversarial)
    if not names:
        arms = [Arm(name) for name in every if name not in ABLATION]
    elif list(names) == ["all"]:
        arms = [Arm(name) for name in every]
    else:
        arms = [_OPPOSITE if name == OPPOSITE_PROMPT and allow_adversarial else Arm.of(name) for name in names]
        return arms + _strengths(alphas or (), pair_alpha if "acd" in names else None)
    if allow_adversarial:
        arms.append(_OPPOSITE)
    if pair_alpha is None:
        return arms
    return arms + _strengths(SWEEP if alphas is None else alphas, pair_alpha)


def with_and_without_gate(arms: Sequence[Arm]) -> list[Arm]:
    """Every arm twice, behind the gate and without it; the model alone, and what sets a gate itself, once."""
    found: list[Arm] = []
    for arm in arms:
        found.append(arm)
        if arm.method != "none" and "gate" not in arm.settings:
            label = f"{arm.label} gate=off" if arm.label else ""
            found.append(replace(arm, settings={**arm.settings, "gate": "off"}, label=label))
    return found


def _runnable(pair: bool, expert: bool | str, allow_adversarial: bool) -> list[str]:
    kind = "lora" if expert is True else expert
    return [
        name
        for name, method in METHODS.items()
        if (pair or not method.needs_pair)
        and (kind == method.expert_kind or not method.needs_expert)
        and (allow_adversarial or not method.guarded)
    ]


def _strengths(alphas: Sequence[float], known: float | None) -> list[Arm]:
    # The pair's own strength is in the run already, as "acd".
    return [Arm.of(f"acd@{alpha:g}") for alpha in alphas if known is None or abs(alpha - known) > 1e-9]
