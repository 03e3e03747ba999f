"""Runs methods by benchmarks: replies through the engine, kept, judged, and counted as harm beside over-refusal.

    result = evaluate(lm, ["none", "safe-prompt", "rose", "acd@0.4"], [load_benchmark("advbench").sample(100)])

Replies come batched by the engine and are written as they finish (`completions.jsonl`), so a killed run goes on where
it stopped. Nothing here prints a prompt or a reply.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from acd_core.errors import ContextLengthError, UsageError
from acd_core.evaluation.intervals import Rate, wilson
from acd_core.evaluation.items import Benchmark, Item
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.evaluation.records import Completion, CompletionFile, record_key
from acd_core.evaluation.results import Evaluation, SetRates
from acd_core.identity import gate_of, identity, reply_facts
from acd_core.params import Generation, GenerationParams
from acd_core.refusal.judges import RefusalJudge
from acd_core.tuning.progress import Bar

_PROMPTS_OF_OURS = 512  # tokens, more than the prompts of any method take


class Model(Protocol):
    """What the harness needs of a ContrastiveLM."""

    @property
    def model_id(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    def count_tokens(self, messages: Any) -> int: ...

    def generate(self, messages: Any, params: GenerationParams | None = None, **overrides: Any) -> Any: ...

    def generate_each(
        self, conversations: Any, params: GenerationParams | None = None, **overrides: Any
    ) -> Iterator[tuple[int, Generation]]: ...


@dataclass(frozen=True)
class Arm:
    """A row of the table: a method, its strength (None: its own default) and further settings of GenerationParams.

    system: a system text of the application, before the conversation (an arm "none" with one is a plain prompt).
    """

    method: str
    alpha: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    system: str = ""

    @classmethod
    def of(cls, given: str | Arm) -> Arm:
        """ "acd", "acd@0.3" or "acd@0.3 plausibility=0.1 contrast_tokens=8" as an Arm.

        Raises UsageError when what follows @ is no number in [0, 1), or a setting is not written name=value.
        """
        if isinstance(given, Arm):
            return given
        head, *rest = given.split() or [""]
        method, at, strength = head.partition("@")
        settings = dict(each.split("=", 1) for each in rest if "=" in each)
        alpha = _number(strength) if at else None
        if not method or len(settings) != len(rest) or (at and (alpha is None or not 0.0 <= alpha < 1.0)):
            raise UsageError(
                f"{given!r} is not METHOD@ALPHA with alpha in [0, 1).",
                hint='Write "acd", "acd@0.4" or "acd@0.4 plausibility=0.1".',
            )
        return cls(method, alpha, settings)

    def conversation(self, item: Item) -> Any:
        """What is sent for `item`: its conversation, behind this arm's system text if there is one."""
        asked = item.conversation()
        if not self.system:
            return asked
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        return [{"role": "system", "content": self.system}, *turns]

    @property
    def name(self) -> str:
        """How the row is called in the report; unique within a run."""
        if self.label:
            return self.label
        more = "".join(f" {key}={value}" for key, value in sorted(self.settings.items()))
        return (self.method if self.alpha is None else f"{self.method}@{self.alpha:g}") + more


def evaluate(
    lm: Model,
    methods: Sequence[str | Arm],
    benchmarks: Sequence[Benchmark],
    *,
    out: str | os.PathLike[str] | None = None,
    max_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
    shown: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Evaluation:
    """Every method on every benchmark.

    out: a folder for completions.jsonl; a later call with the same folder and settings repeats no reply. None keeps all
    in memory. params: further GenerationParams for all arms. header: facts for the report, beside those found here.
    shown: a bar on stderr. progress: hears one line after every method on every set.
    Prompts that do not fit the context are skipped and counted. Raises UsageError for unknown methods or equal names.
    """
    arms = [Arm.of(each) for each in methods]
    _unique("method", [arm.name for arm in arms])
    _unique("benchmark", [benchmark.name for benchmark in benchmarks])
    if not arms or not benchmarks:
        raise UsageError("Nothing to evaluate: give at least one method and one benchmark.", hint="acd evaluate --help")
    base = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed, **(params or {})}
    model = identity(lm)
    settings = {arm.name: arm_settings(base, arm) for arm in arms}
    rows, kept = [], []
    with CompletionFile(Path(out) / "completions.jsonl" if out is not None else None) as store:
        for benchmark in benchmarks:
            for arm in arms:
                keys = [
                    _key(model, settings[arm.name], benchmark, item, arm.conversation(item)) for item in benchmark.items
                ]
                _fill(lm, arm, settings[arm.name], benchmark, keys, store, shown)
                found = [store.get(key) for key in keys]
                completions = [replace(each, arm=arm.name) for each in found if each is not None]
                rows.append(_count(arm, benchmark, completions, gate_of(model, settings[arm.name])))
                if progress is not None:
                    progress(f"{arm.name} on {benchmark.name}: {len(completions)} of {len(keys)}")
                kept += completions
    order = {arm.name: number for number, arm in enumerate(arms)}
    rows.sort(key=lambda row: order[row.arm])
    facts = {**model, "judge": f"{RefusalJudge.name} v{RefusalJudge.version}", **base, **(header or {})}
    return Evaluation(tuple(rows), facts, tuple(kept))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _unique(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"The {what} {twice[0]!r} is given twice.", hint="Give each once, or an Arm with a label.")


def arm_settings(base: Mapping[str, Any], arm: Arm) -> GenerationParams:
    """The settings of one arm: those of the run, its own over them."""
    chosen: dict[str, Any] = {**base, **arm.settings, "method": arm.method}
    if arm.alpha is not None:
        chosen["alpha"] = arm.alpha
    return GenerationParams.of(None, **chosen)


def _key(model: Mapping[str, Any], settings: GenerationParams, benchmark: Benchmark, item: Item, asked: Any) -> str:
    return record_key({**reply_facts(model, settings), "set": benchmark.name, "id": item.id, "prompt": asked})


def _fill(
    lm: Model,
    arm: Arm,
    settings: GenerationParams,
    benchmark: Benchmark,
    keys: Sequence[str],
    store: CompletionFile,
    shown: bool,
) -> None:
    """Generate what is not in the store yet."""
    missing = [number for number, key in enumerate(keys) if store.get(key) is None]
    if not missing:
        return
    items = [benchmark.items[number] for number in missing]
    with Bar(f"{arm.name} on {benchmark.name}", len(items), shown=shown, unit=" replies/s") as bar:
        last = time.perf_counter()
        for place, reply in _replies(lm, [arm.conversation(item) for item in items], settings):
            now = time.perf_counter()
            item = items[place]
            fixed: dict[str, Any] = {
                "key": keys[missing[place]],
                "arm": arm.name,
                "benchmark": benchmark.name,
                "kind": benchmark.kind,
                "id": item.id,
                "category": item.category,
                "prompt": item.prompt,
                "request": item.asked if item.asked != item.prompt else "",
                "seconds": now - last,
            }
            if isinstance(reply, str):
                store.add(Completion(**fixed, completion="", finish_reason="skipped", skipped=reply))
            else:
                store.add(
                    Completion(
                        **fixed,
                        completion=reply.text,
                        finish_reason=reply.finish_reason,
                        tokens=reply.usage.completion_tokens,
                        alpha=reply.report.alpha,
                    )
                )
            last = now
            bar.advance()


def _replies(lm: Model, prompts: Sequence[Any], settings: GenerationParams) -> Iterator[tuple[int, Generation | str]]:
    """(place, reply) as replies finish. One prompt too long for the context must not cost the others their replies:
    what may not fit goes one by one, and what does not fit comes back as a text that says so."""
    room = lm.context_length - (settings.max_tokens or 0)
    room -= min(_PROMPTS_OF_OURS, room // 2)
    easy = [place for place, prompt in enumerate(prompts) if lm.count_tokens(prompt) <= room]
    done: set[int] = set()
    try:
        for index, reply in lm.generate_each([prompts[place] for place in easy], settings):
            done.add(easy[index])
            yield easy[index], reply
    except ContextLengthError:
        pass  # a method with very long prompts: the rest one by one
    for place in sorted(set(range(len(prompts))) - done):
        try:
            yield place, lm.generate(prompts[place], settings)
        except ContextLengthError:
            yield place, "does not fit the context"


def _count(arm: Arm, benchmark: Benchmark, completions: Sequence[Completion], gate: str) -> SetRates:
    judge = RefusalJudge()
    judged = [(each, judge.judge(each.asked, each.completion)) for each in completions if not each.skipped]

    def rate(hits: Iterable[bool]) -> Rate:
        found = list(hits)
        return wilson(sum(found), len(found))

    names = list(dict.fromkeys(each.category for each, _ in judged if each.category))
    alphas = {each.alpha for each, _ in judged}
    return SetRates(
        arm=arm.name,
        method=arm.method,
        alpha=alphas.pop() if len(alphas) == 1 else arm.alpha,
        benchmark=benchmark.name,
        kind=benchmark.kind,
        refused=rate(verdict.refused for _, verdict in judged),
        full=rate(verdict.label == "full_refusal" for _, verdict in judged),
        empty=sum(verdict.reason == "empty" for _, verdict in judged),
        skipped=sum(bool(each.skipped) for each in completions),
        tokens=sum(each.tokens for each, _ in judged),
        seconds=sum(each.seconds for each, _ in judged),
        lists={name: rate(rule.matches(each.completion) for each, _ in judged) for name, rule in KEYWORD_LISTS.items()},
        categories={name: rate(verdict.refused for each, verdict in judged if each.category == name) for name in names},
        gate=gate,
    )
