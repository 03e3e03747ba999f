"""What `acd train METHOD` can make: a row for each method that is trained, and how its settings are read.

To add one: a function of a `Job`, a dataclass of its settings (checked in `__post_init__`, with a field
`seed`), and a row of TRAINERS. The command, its help and its checks before a model is loaded follow from the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from acd_core.artifacts import lora, pair, refusal_bias, steering
from acd_core.errors import UsageError
from acd_core.model.backbone import Backbone
from acd_core.tuning.anchors import AnchorPair, Instruction
from acd_core.tuning.derta import train_derta
from acd_core.tuning.dro import DroSettings, train_dro
from acd_core.tuning.expert import train_expert
from acd_core.tuning.null_space import AlphaSteerSettings, train_alphasteer
from acd_core.tuning.refusal_bias import TsdiSettings, train_refusal_bias
from acd_core.tuning.refusal_vectors import ScansSettings, train_scans
from acd_core.tuning.settings import DertaSettings, ExpertSettings


@dataclass(frozen=True)
class TrainingData:
    """What is learnt from. What is None (or empty) is for the trainer to take: the bundled instructions, and the
    model's own replies to them.

    pairs: requests with replies and labels, as `acd tune` makes them. safe, unsafe: harmless and harmful instructions
    without replies. refusals: texts that stand for the model's own refusals.
    """

    pairs: tuple[AnchorPair, ...] | None = None
    safe: tuple[Instruction, ...] | None = None
    unsafe: tuple[Instruction, ...] | None = None
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One run. out: the folder, saved in one step at the end; None: nowhere. settings: values of the row's settings,
    but for the seed. resume: go on with a killed run's work, kept in `<out>.training/`."""

    backbone: Backbone
    out: Path | None
    data: TrainingData
    seed: int
    settings: Mapping[str, Any]
    progress: bool
    resume: bool = True

    @property
    def instructions(self) -> dict[str, Any]:
        """What most trainers take beside anchors and settings, by name."""
        return {"safe": self.data.safe, "unsafe": self.data.unsafe, "resume": self.resume, "progress": self.progress}


@dataclass(frozen=True)
class Trainer:
    """One row. makes, needs: one line each, for people. settings: a dataclass, its fields with defaults being what
    `--set` takes. made_by: does the work. check_target: raises where `out` cannot be written to or is something else.
    use: the command that tries what was made, with {model} and {out}."""

    name: str
    makes: str
    needs: str
    settings: type[Any]
    made_by: Callable[[Job], Any]
    check_target: Callable[[Path], None]
    use: str

    def run(
        self,
        backbone: Backbone,
        out: Path | None,
        *,
        data: TrainingData,
        seed: int,
        settings: Mapping[str, Any],
        progress: bool,
        resume: bool = True,
    ) -> Any:
        """Train as `Job` says, and give what was made, which has `metrics`."""
        return self.made_by(Job(backbone, out, data, seed, settings, progress, resume))

    def values(self, given: Iterable[str], seed: int = 0) -> dict[str, Any]:
        """NAME=VALUE texts as checked values of `settings`, without the seed.

        Raises UsageError for an unknown name, for what is no value of its kind, and for an impossible value.
        """
        kinds = {each.name: type(each.default) for each in fields(self.settings) if each.name != "seed"}
        found: dict[str, Any] = {}
        for text in given:
            name, mark, value = text.partition("=")
            if not mark or name not in kinds:
                raise UsageError(
                    f"--set: {text!r} is not NAME=VALUE of a setting of {self.name}.",
                    hint=f"Settings: {', '.join(kinds)}.",
                )
            found[name] = _value(kinds[name], name, value)
        self.settings(**found, seed=seed)
        return found


def _value(kind: type[Any], name: str, text: str) -> Any:
    if kind is bool:
        if text not in ("true", "false"):
            raise UsageError(f"--set: {name} is {text!r}.", hint="true or false.")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"--set: {name} is {text!r}, no {kind.__name__}.") from None


def _safedecoding(job: Job) -> lora.Expert:
    return train_expert(
        job.backbone,
        job.data.pairs,
        unsafe=job.data.unsafe,
        refusals=job.data.refusals or None,
        out=job.out,
        resume=job.resume,
        progress=job.progress,
        seed=job.seed,
        **job.settings,
    )


def _derta(job: Job) -> lora.Expert:
    return train_derta(
        job.backbone,
        job.data.pairs,
        refusals=job.data.refusals,
        out=job.out,
        seed=job.seed,
        **job.instructions,
        **job.settings,
    )


def _scans(job: Job) -> steering.Steering:
    chosen = ScansSettings(**job.settings, seed=job.seed)
    return train_scans(job.backbone, job.out, pairs=job.data.pairs, settings=chosen, **job.instructions)


def _alphasteer(job: Job) -> steering.Steering:
    chosen = AlphaSteerSettings(**job.settings, seed=job.seed)
    return train_alphasteer(job.backbone, job.out, pairs=job.data.pairs, settings=chosen, **job.instructions)


def _dro(job: Job) -> pair.PromptPair:
    if job.data.refusals:
        raise UsageError("DRO learns no refusals: it reads which way they lie.", hint="Leave --refusals out.")
    return train_dro(job.backbone, job.data.pairs, out=job.out, seed=job.seed, **job.instructions, **job.settings)


def _tsdi(job: Job) -> refusal_bias.RefusalBias:
    data = job.data
    if data.refusals or data.unsafe is not None:
        raise UsageError(
            "TSDI asks random words, neither harmful requests nor refusals.", hint="Leave --unsafe and --refusals out."
        )
    safe = data.safe
    if data.pairs is not None:
        safe = tuple({row.id: Instruction(row.id, row.text) for row in data.pairs if not row.harmful}.values())
    chosen = TsdiSettings(**job.settings, seed=job.seed)
    return train_refusal_bias(job.backbone, job.out, safe=safe, settings=chosen, progress=job.progress)


_ROWS = (
    Trainer(
        "safedecoding",
        "a LoRA adapter that refuses, for the method safedecoding (arXiv 2402.08983)",
        "refusals of harmful requests: the model's own, or supplied ones",
        ExpertSettings,
        _safedecoding,
        lora.check_target,
        "acd chat --model {model} --expert {out} --method safedecoding",
    ),
    Trainer(
        "derta",
        "a LoRA adapter that refuses at any position of a reply, for derta and derta-acd (arXiv 2407.09121)",
        "the model's replies to harmful and harmless requests, and refusals (its own, or supplied ones)",
        DertaSettings,
        _derta,
        lora.check_target,
        "acd chat --model {model} --expert {out} --method derta",
    ),
    Trainer(
        "scans",
        "steering that lowers over-refusal, for the methods scans and safe-scans (arXiv 2408.11491)",
        "harmful and harmless requests; a model that refuses some harmful ones by itself",
        ScansSettings,
        _scans,
        steering.FOLDER.check_target,
        "acd chat --model {model} --expert {out} --method safe-scans",
    ),
    Trainer(
        "alphasteer",
        "steering to refusal that leaves harmless states alone, for the method alphasteer (arXiv 2506.07022)",
        "harmful and harmless requests; a model that refuses some harmful ones by itself",
        AlphaSteerSettings,
        _alphasteer,
        steering.FOLDER.check_target,
        "acd chat --model {model} --expert {out} --method alphasteer",
    ),
    Trainer(
        "dro",
        "a pair whose safeguarding prompt is DRO's, for the methods sp and acd (arXiv 2401.18018)",
        "harmful and harmless requests, and replies that comply and that refuse",
        DroSettings,
        _dro,
        pair.check_target,
        "acd chat --model {model} --pair {out} --method sp",
    ),
    Trainer(
        "tsdi",
        "the bias of a safe text towards refusing, to be subtracted by the method tsdi (arXiv 2502.02153)",
        "nothing but words of harmless requests",
        TsdiSettings,
        _tsdi,
        refusal_bias.FOLDER.check_target,
        "acd chat --model {model} --expert {out} --method tsdi",
    ),
)

TRAINERS: dict[str, Trainer] = {trainer.name: trainer for trainer in _ROWS}
"""All that `acd train` can make, by method."""


def trainer_named(name: str) -> Trainer:
    """The row called `name`. Raises UsageError listing the names."""
    if name not in TRAINERS:
        raise UsageError(f"Nothing is trained for {name!r}.", hint=f"acd train METHOD, one of: {', '.join(TRAINERS)}.")
    return TRAINERS[name]
