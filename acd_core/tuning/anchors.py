"""Anchor data: instructions, the model's own replies to them, and the three classes the losses are made of.

Two kinds of JSONL. *Instructions*: {"id", "text", "category"}, one file a side (harmless, harmful). *Pairs*: an
instruction with one reply of the model under one manual prompt and a label, "refused" or "accepted". Pair files are
meant to be read and corrected by hand: change a "label", and tuning follows it. Neither kind is ever printed: unsafe
instructions name bad aims, and messages name ids only.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from acd_core.bundled import ANCHOR_DIR
from acd_core.errors import TuningError, UsageError
from acd_core.files.json_lines import append, records, text_of
from acd_core.files.reading import read_bytes
from acd_core.files.saving import failing_as, save_file
from acd_core.methods import prompts as texts
from acd_core.tuning.objectives import CLASS_NAMES, Class, Objective
from acd_core.tuning.progress import Bar
from acd_core.tuning.runs import alone_with

if TYPE_CHECKING:
    from acd_core.lm import ContrastiveLM
    from acd_core.params import Generation

Label = Literal["refused", "accepted"]
SplitName = Literal["safe", "unsafe", "more_safe", "more_unsafe", "validation_safe", "validation_unsafe"]

MIN_CLASS = 8
"""Fewest pairs a class may hold: below that a soft prompt learns the pairs by heart."""

MANUAL_PROMPTS: Mapping[str, str] = {
    "safe": texts.SAFE_PROMPT,
    "opposite": texts.MANUAL_REVERSE,
    "null": texts.NULL_PROMPT,
}
"""The three manual prompts under which the model answers every instruction (the paper's recipe)."""


@dataclass(frozen=True)
class Instruction:
    """One request. `category` is free text; it says what the request is about."""

    id: str
    text: str
    category: str = ""


@dataclass(frozen=True)
class AnchorPair:
    """One request with one reply of the model to be tuned.

    harmful: which side the request came from. prompt: name of the manual prompt in force. finish: "stop" if the reply
    ended by itself (only then is its end supervised), else "length". label: refused or accepted, by `judge` ("hand"
    after a correction, if you care to say so). begun: a reply to the request that is under way already, which `reply`
    goes on from; tuning sets it.
    """

    id: str
    text: str
    harmful: bool
    prompt: str
    reply: str
    label: Label
    finish: str = "stop"
    category: str = ""
    judge: str = ""
    begun: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What makes a pair the same job: instruction id and prompt name."""
        return (self.id, self.prompt)


# --- instructions ---


def bundled_instructions(split: SplitName) -> tuple[Instruction, ...]:
    """The bundled instructions, ours: "safe" and "unsafe", which tuning learns from, "more_safe" and "more_unsafe",
    which a gate learns from as well, and "validation_safe" and "validation_unsafe", which nothing learns from."""
    return load_instructions(ANCHOR_DIR / f"{split}.jsonl")


def without(rows: Sequence[Instruction], others: Iterable[Instruction]) -> tuple[Instruction, ...]:
    """`rows` but for those whose text stands among `others`, case and spacing aside."""
    gone = {_normal(row.text) for row in others}
    return tuple(row for row in rows if _normal(row.text) not in gone)


def load_instructions(path: str | os.PathLike[str]) -> tuple[Instruction, ...]:
    """Read instructions from JSONL. Repeated texts are kept once (case and spacing aside).

    Raises TuningError naming the line for bad JSON, a missing or empty field, or a repeated id.
    """
    rows: list[Instruction] = []
    ids: set[str] = set()
    seen: set[str] = set()
    for where, record in records(Path(path)):
        row = Instruction(text_of(record, "id", where), text_of(record, "text", where), str(record.get("category", "")))
        if row.id in ids:
            raise TuningError(f"{where}: the id {row.id!r} appears twice.", hint="Give every instruction its own id.")
        ids.add(row.id)
        if _normal(row.text) not in seen:
            seen.add(_normal(row.text))
            rows.append(row)
    if not rows:
        raise TuningError(f"{str(path)!r} holds no instruction.", hint='One a line: {"id": "s1", "text": "..."}')
    return tuple(rows)


def check_disjoint(named: Mapping[str, Sequence[Instruction]]) -> None:
    """Raise TuningError if a text stands in two of the named sets: a request cannot be harmless and harmful, and what
    tuning learns from cannot validate it."""
    owner: dict[str, tuple[str, str]] = {}
    for name, rows in named.items():
        for row in rows:
            other = owner.setdefault(_normal(row.text), (name, row.id))
            if other[0] != name:
                raise TuningError(
                    f"The same text is instruction {other[1]!r} of {other[0]} and {row.id!r} of {name}.",
                    hint="Remove one of the two.",
                )


# --- pairs ---


def load_pairs(path: str | os.PathLike[str]) -> tuple[AnchorPair, ...]:
    """Read pairs from JSONL as `generate_anchors` writes them; a pair without a label is judged.

    Raises TuningError naming the line for bad JSON, missing fields, an unknown label or a repeated (id, prompt).
    """
    pairs = tuple(_read_pair(record, where) for where, record in records(Path(path)))
    if not pairs:
        raise TuningError(f"{str(path)!r} holds no anchor pair.", hint="Make them: acd tune --model M --out my-pair")
    keys: set[tuple[str, str]] = set()
    for pair in pairs:
        if pair.key in keys:
            raise TuningError(
                f"{str(path)!r} holds the instruction {pair.id!r} under the prompt {pair.prompt!r} twice.",
                hint="Keep one of the two lines.",
            )
        keys.add(pair.key)
    return pairs


def save_pairs(pairs: Iterable[AnchorPair], path: str | os.PathLike[str]) -> Path:
    """Write pairs as JSONL, replacing the file at `path` in one step. Raises TuningError where the disk does not take
    it; then the old file is still there."""
    target = Path(path)
    data = "".join(_line(pair) for pair in pairs).encode()
    with failing_as(TuningError, f"The anchor pairs cannot be saved to {str(target)!r}"):
        save_file(target, data)
    return target


def digest(pairs: Iterable[AnchorPair]) -> str:
    """A short hash of everything tuning reads of the pairs, in their order."""
    found = hashlib.sha256()
    for pair in pairs:
        read = [pair.text, pair.harmful, pair.reply, pair.label, pair.finish]
        found.update(json.dumps([*read, pair.begun] if pair.begun else read).encode())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class AnchorSplit:
    """Pairs by class. Pairs with an empty reply and repeated (instruction, reply) pairs were left out and counted."""

    refused: tuple[AnchorPair, ...]
    accepted: tuple[AnchorPair, ...]
    harmless: tuple[AnchorPair, ...]
    empty: int
    repeated: int

    def of(self, name: Class) -> tuple[AnchorPair, ...]:
        """The pairs of one class of the objectives' table."""
        if name == "harmless_accepted":
            return tuple(pair for pair in self.harmless if pair.label == "accepted")
        if name == "refusals":
            return (*self.refused, *self._borrowed())
        return cast("tuple[AnchorPair, ...]", getattr(self, name))

    def _borrowed(self) -> tuple[AnchorPair, ...]:
        """A refusal for every harmful request the model never refused: of its own refusals those that fit anywhere
        (the ones it gave to several requests, else the most common), in turn. The requests a model complies with under
        every prompt are the ones a pair is for, and the paper's D_HR leaves just them out."""
        given: dict[str, set[str]] = {}
        for pair in self.refused:
            given.setdefault(pair.reply.strip(), set()).add(_normal(pair.text))
        common = sorted(given, key=lambda reply: (-len(given[reply]), reply))
        pool = [reply for reply in common if len(given[reply]) > 1][:8] or common[:1]
        known = {_normal(pair.text) for pair in self.refused}
        lent: list[AnchorPair] = []
        for pair in self.accepted:
            if pool and _normal(pair.text) not in known:
                known.add(_normal(pair.text))
                lent.append(replace(pair, reply=pool[len(lent) % len(pool)], label="refused", finish="stop"))
        return tuple(lent)

    @property
    def counts(self) -> dict[str, int]:
        """{"refused": n, "accepted": n, "harmless": n, "empty": n, "repeated": n}"""
        return {
            "refused": len(self.refused),
            "accepted": len(self.accepted),
            "harmless": len(self.harmless),
            "empty": self.empty,
            "repeated": self.repeated,
        }


def split_pairs(pairs: Iterable[AnchorPair]) -> AnchorSplit:
    """Sort pairs into D_HR, D_HA and D_S."""
    rows: dict[str, list[AnchorPair]] = {"refused": [], "accepted": [], "harmless": []}
    seen: set[tuple[str, str]] = set()
    empty = repeated = 0
    for pair in pairs:
        key = (_normal(pair.text), pair.reply.strip())
        if not pair.reply.strip():
            empty += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            rows[pair.label if pair.harmful else "harmless"].append(pair)
    return AnchorSplit(
        tuple(rows["refused"]), tuple(rows["accepted"]), tuple(rows["harmless"]), empty=empty, repeated=repeated
    )


def check_split(split: AnchorSplit, objective: Objective, least: int = MIN_CLASS) -> None:
    """Raise TuningError, naming all counts and what to do, if a class the objective learns from has under `least`."""
    short = [name for name in objective.classes if len(split.of(name)) < least]
    if not short:
        return
    listed = ", ".join(f"{CLASS_NAMES[name]}: {len(split.of(name))}" for name in CLASS_NAMES)
    cure = {
        "refusals": "The model refuses nothing, even under a safe prompt: add refusals of your own to the file as "
        'pairs with "label": "refused", or correct labels.',
        "refused": "The model refuses hardly anything, even under a safe prompt: add refusals of your own to the file "
        'as pairs with "label": "refused", or correct labels.',
        "accepted": "The model complies with hardly anything, so it may need no pair; else correct labels, or use "
        "--objective joint, which learns from refusals only.",
    }.get(short[0], "Add harmless instructions, and look at the labels of their replies.")
    raise TuningError(f"Too few anchor pairs of a class (at least {least} needed). Found {listed}.", hint=cure)


# --- making pairs from the user's own model ---


def generate_anchors(
    lm: ContrastiveLM,
    safe: Sequence[Instruction] | None = None,
    unsafe: Sequence[Instruction] | None = None,
    *,
    prompts: Mapping[str, str] = MANUAL_PROMPTS,
    out: str | os.PathLike[str] | None = None,
    judge: Any = None,
    temperature: float = 0.7,
    max_tokens: int = 32,
    seed: int = 0,
    chunk: int = 64,
    progress: bool = True,
) -> tuple[AnchorPair, ...]:
    """One reply of the model to every instruction under every manual prompt, labelled.

    safe, unsafe: instructions (default: the bundled ones). The engine batches each `chunk` of requests; every
    request has its own seed, made from `seed`. With
    `out` every finished chunk is appended there, so that a killed run repeats nothing: call again with the same `out`.
    judge: anything with `judge(prompt, completion)` giving a verdict with `refused`; default RefusalJudge.
    Raises TuningError for contradictory instructions, or an `out` file that holds something else or that another run
    is writing to.
    """
    safe = bundled_instructions("safe") if safe is None else safe
    unsafe = bundled_instructions("unsafe") if unsafe is None else unsafe
    check_disjoint({"the harmless instructions": safe, "the harmful instructions": unsafe})
    if chunk < 1:
        raise UsageError(f"chunk is {chunk!r}; it must be at least 1.")
    judge = default_judge() if judge is None else judge
    jobs = [
        (row, harmful, name) for harmful, rows in ((False, safe), (True, unsafe)) for row in rows for name in prompts
    ]
    with ExitStack() as held:
        if out:
            held.enter_context(alone_with(Path(out)))
        done = _resume(Path(out), {(row.id, name): (row, harmful) for row, harmful, name in jobs}) if out else {}
        todo = [job for job in jobs if (job[0].id, job[2]) not in done]
        # Similar lengths share a batch; the order of the result does not depend on it.
        todo.sort(key=lambda job: len(job[0].text) + len(prompts[job[2]]))

        def reply(job: tuple[Instruction, bool, str]) -> Generation:
            # A seed of its own for every request: with one for all, all draw alike, and refusals take the same words.
            row, _, name = job
            own = int.from_bytes(hashlib.sha256(f"{seed}/{row.id}/{name}".encode()).digest()[:7], "big")
            return lm.generate(
                _conversation(row.text, prompts[name]),
                method="none",
                temperature=temperature,
                max_tokens=max_tokens,
                seed=own,
            )

        # One thread a request in flight; the engine puts what comes in at the same time into one batch.
        with ThreadPoolExecutor(chunk) as pool, Bar("Anchor pairs", len(jobs), shown=progress) as bar:
            bar.advance(len(done))
            for start in range(0, len(todo), chunk):
                part = todo[start : start + chunk]
                replies = list(pool.map(reply, part))
                fresh = [
                    AnchorPair(
                        row.id,
                        row.text,
                        harmful,
                        name,
                        said.text,
                        _label(judge, row.text, said.text),
                        "stop" if said.finish_reason == "stop" else "length",
                        row.category,
                        judge_name(judge),
                    )
                    for (row, harmful, name), said in zip(part, replies)
                ]
                if out:
                    _append(Path(out), fresh)
                done.update({pair.key: pair for pair in fresh})
                bar.advance(len(part))
        return tuple(done[(row.id, name)] for row, _, name in jobs)


def _resume(path: Path, jobs: Mapping[tuple[str, str], tuple[Instruction, bool]]) -> dict[tuple[str, str], AnchorPair]:
    """What an earlier run left at `path`. A torn last line (the run was killed in it) is cut off the file."""
    if not path.exists():
        return {}
    with failing_as(TuningError, f"The replies in {str(path)!r} cannot be gone on with"):
        data = read_bytes(path)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
    if not whole:
        return {}
    found: dict[tuple[str, str], AnchorPair] = {}
    for pair in load_pairs(path):
        expected = jobs.get(pair.key)
        if expected is None or expected != (Instruction(pair.id, pair.text, expected[0].category), pair.harmful):
            raise TuningError(
                f"{str(path)!r} holds the instruction {pair.id!r} of another run.",
                hint=f"Remove the file to start anew (rm {path}), or give another folder with --out.",
            )
        found[pair.key] = pair
    return found


def _append(path: Path, pairs: Iterable[AnchorPair]) -> None:
    with failing_as(TuningError, f"The replies cannot be kept in {str(path)!r}"):
        append(path, "".join(_line(pair) for pair in pairs).encode())


def _conversation(text: str, system: str) -> list[dict[str, str]]:
    user = {"role": "user", "content": text}
    return [{"role": "system", "content": system}, user] if system else [user]


def default_judge() -> Any:
    """The rule-based RefusalJudge of the evaluation room."""
    from acd_core.refusal.judges import RefusalJudge

    return RefusalJudge()


def judge_name(judge: Any) -> str:
    """What to record as the origin of a label."""
    return str(getattr(judge, "name", type(judge).__name__))


def _label(judge: Any, prompt: str, reply: str) -> Label:
    return "refused" if judge.judge(prompt, reply).refused else "accepted"


# --- JSONL ---


def _line(pair: AnchorPair) -> str:
    return json.dumps(asdict(pair), ensure_ascii=False) + "\n"


def _read_pair(record: Mapping[str, Any], where: str) -> AnchorPair:
    text, reply = text_of(record, "text", where), record.get("reply")
    if not isinstance(reply, str):
        raise TuningError(f"{where} has no 'reply' (a string).", hint=f"Fields there: {sorted(record)[:12]}")
    if not isinstance(record.get("harmful"), bool):
        raise TuningError(f"{where} has no 'harmful' (true or false).")
    judge, label = str(record.get("judge", "")), record.get("label")
    if label is None:
        machine = default_judge()
        label, judge = _label(machine, text, reply), judge_name(machine)
    if label not in ("refused", "accepted"):
        raise TuningError(f"{where} has the label {label!r}.", hint="Labels: refused, accepted.")
    return AnchorPair(
        text_of(record, "id", where),
        text,
        record["harmful"],
        str(record.get("prompt", "")),
        reply,
        label,
        "stop" if record.get("finish", "stop") == "stop" else "length",
        str(record.get("category", "")),
        judge,
        str(record.get("begun", "")),
    )


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
