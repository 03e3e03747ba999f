"""Measures what a method costs in usefulness: text statistics, divergence, perplexity, multiple choice and win rate.

Divergence, perplexity and multiple choice are read from the joined distribution itself (`ContrastiveLM.distributions`,
`loglikelihoods`), which says more than a few hundred replies can. Everything that cost a forward is kept beside the
completions and never repeated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acd_core.errors import ContextLengthError
from acd_core.evaluation.intervals import Rate, bootstrap_mean, bootstrap_ratio, wilson
from acd_core.evaluation.items import Benchmark
from acd_core.evaluation.model_judges import PairwiseJudge
from acd_core.evaluation.multiple_choice import Question, QuestionSet, accuracy, true_share
from acd_core.evaluation.records import Completion, RecordFile, record_key
from acd_core.evaluation.results import Evaluation
from acd_core.evaluation.runner import Arm, arm_settings
from acd_core.evaluation.text_quality import TextQuality, text_quality
from acd_core.identity import identity, reply_facts
from acd_core.params import GenerationParams
from acd_core.tuning.progress import Bar

CHUNK = 16  # conversations between two writes to disk
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Scores:
    """Log-likelihoods of some continuations of one conversation. None stands for probability 0."""

    key: str
    arm: str
    what: str
    id: str
    logprobs: Sequence[float | None]
    tokens: Sequence[int]

    @property
    def values(self) -> list[float]:
        return [-math.inf if each is None else each for each in self.logprobs]


@dataclass(frozen=True)
class Divergence:
    """Kullback-Leibler divergence of the arm from the base, nats, before each token of one of the base's replies. None
    stands for infinity: the arm rules out what the base may say."""

    key: str
    arm: str
    what: str
    id: str
    nats: Sequence[float | None]


@dataclass(frozen=True)
class Judgement:
    """One comparison: "a" (the arm's reply is better), "b" (the base's), "tie", or "" when the judge could not tell."""

    key: str
    arm: str
    benchmark: str
    id: str
    outcome: str


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood a token: (value, low, high), bootstrap over replies; over `tokens`.

    dropped: replies that hold a token of probability 0 (only under plausibility); they are in no mean.
    """

    value: Triple
    tokens: int
    dropped: int = 0


@dataclass(frozen=True)
class ChoiceRates:
    """One set of questions: accuracy (MC1 for TruthfulQA), and MC2's mean share of the true answers where defined.

    undecided: questions all of whose choices have probability 0, as a rule that drops tokens may leave them; they are
    in no rate.
    """

    accuracy: Rate
    true_share: Triple | None
    undecided: int = 0


@dataclass(frozen=True)
class Wins:
    """Against the base's replies. rate: (wins + ties / 2) / decided with a 95% interval."""

    wins: int
    ties: int
    losses: int
    undecided: int
    rate: Triple


@dataclass(frozen=True)
class ArmUtility:
    """The costs of one arm. quality: its replies to harmless prompts. of_base: the base's own harmless replies under
    this arm's distribution. under_base: this arm's replies under the base's distribution (garble stands out). same:
    harmless prompts whose reply is the base's, word for word. divergence: KL(base || arm), nats a token of the base's
    harmless replies, with a 95% bootstrap interval over replies; None where it is infinite somewhere."""

    arm: str
    quality: TextQuality
    harmful_quality: TextQuality
    of_base: Perplexity | None
    under_base: Perplexity | None
    choices: Mapping[str, ChoiceRates]
    wins: Wins | None
    same: Rate | None = None
    divergence: Triple | None = None


@dataclass(frozen=True)
class Utility:
    """All arms, and what they were compared with."""

    base: str
    arms: tuple[ArmUtility, ...]
    judge: str = ""


def measure(
    lm: Any,
    methods: Sequence[str | Arm],
    benchmarks: Sequence[Benchmark],
    result: Evaluation,
    *,
    questions: Sequence[QuestionSet] = (),
    judge: PairwiseJudge | None = None,
    out: str | os.PathLike[str] | None = None,
    shown: bool = True,
) -> Utility:
    """The utility of every arm of `result`, against the base: the arm "none", else the first.

    lm: needs `loglikelihoods` and `distributions` (ContrastiveLM). Prompts that do not fit the context are left out.
    out: the run's folder.
    """
    arms = [Arm.of(each) for each in methods]
    base = next((arm for arm in arms if arm.name == "none"), arms[0])
    run = _Run(lm, result, {(each.name, item.id): item for each in benchmarks for item in each.items}, shown)
    home = Path(out) if out is not None else None
    wins: dict[str, Wins] = {}
    bent: dict[str, Triple | None] = {}
    with (
        RecordFile(home / "scores.jsonl" if home else None, Scores) as scores,
        RecordFile(home / "divergences.jsonl" if home else None, Divergence) as divergences,
    ):
        own = _harmless(result, base.name, answered=True)
        found = []
        for arm in arms:
            of_base = run.perplexity(arm, own, scores, f"the replies of {base.name} under {arm.name}")
            bent[arm.name] = run.divergence(arm, base, own, divergences)
            replies = _harmless(result, arm.name, answered=False)
            under = run.perplexity(base, replies, scores, f"the replies of {arm.name} under {base.name}")
            choices = {each.name: run.choices(arm, each, scores) for each in questions}
            found.append((arm, of_base, under, choices))
    if judge is not None:
        with RecordFile(home / "judgements.jsonl" if home else None, Judgement) as judgements:
            wins = {arm.name: run.wins(arm, base, judge, judgements) for arm in arms if arm != base}
    lines = [
        ArmUtility(
            arm.name,
            _quality(result, arm.name, "harmless"),
            _quality(result, arm.name, "harmful"),
            of_base,
            under,
            choices,
            wins.get(arm.name),
            _same(result, arm.name, base.name),
            bent[arm.name],
        )
        for arm, of_base, under, choices in found
    ]
    return Utility(base.name, tuple(lines), judge.name if judge is not None else "")


def perplexity(scores: Sequence[tuple[float, int]]) -> Perplexity | None:
    """Of (log-likelihood, tokens) pairs; None without any token."""
    kept = [(value, tokens) for value, tokens in scores if tokens and value > -math.inf]
    if not kept:
        return None
    mean, low, high = bootstrap_ratio([(-value, float(tokens)) for value, tokens in kept])
    dropped = sum(1 for value, tokens in scores if tokens and value == -math.inf)
    return Perplexity((_exp(mean), _exp(low), _exp(high)), sum(tokens for _, tokens in kept), dropped)


def win_rate(outcomes: Sequence[str]) -> Wins:
    """Counts and rate of "a", "b", "tie" and "" outcomes; the rate is NaN where nothing was decided."""
    wins, ties, losses = (sum(each == name for each in outcomes) for name in ("a", "tie", "b"))
    points = [1.0] * wins + [0.5] * ties + [0.0] * losses
    return Wins(wins, ties, losses, len(outcomes) - len(points), bootstrap_mean([points]))


class _Run:
    """One run's model, items and completions."""

    def __init__(self, lm: Any, result: Evaluation, items: Mapping[tuple[str, str], Any], shown: bool) -> None:
        self._lm = lm
        self._result = result
        self._items = items
        self._shown = shown
        self._model = identity(lm)

    def _settings(self, arm: Arm) -> GenerationParams:
        # Only what decides the distribution: a changed seed or length leaves log-likelihoods as they are.
        names = ("plausibility", "contrast_tokens", "gate", "recheck", "graded")
        given = {name: value for name, value in arm.settings.items() if name in names}
        return arm_settings(given, Arm(arm.method, arm.alpha))

    def _scored(
        self,
        arm: Arm,
        cases: Sequence[tuple[str, str, Any, Sequence[str]]],
        store: RecordFile[Scores],
        title: str,
    ) -> list[Scores]:
        """cases: (what, id, conversation, continuations). Those that do not fit the context have no scores."""
        settings = self._settings(arm)
        facts = reply_facts(self._model, settings)
        keys = [record_key({**facts, "prompt": asked, "texts": list(texts)}) for _, _, asked, texts in cases]
        missing = [at for at, key in enumerate(keys) if store.get(key) is None]
        if missing:
            with Bar(title, len(missing), shown=self._shown, unit=" prompts/s") as bar:
                for start in range(0, len(missing), CHUNK):
                    chunk = missing[start : start + CHUNK]
                    for at, (logprobs, tokens) in zip(chunk, self._likelihoods([cases[at] for at in chunk], settings)):
                        what, name, _, _ = cases[at]
                        values = [None if each == -math.inf else each for each in logprobs]
                        store.add(Scores(keys[at], arm.name, what, name, values, tokens))
                    bar.advance(len(chunk))
        found = [store.get(key) for key in keys]
        return [each for each in found if each is not None]

    def _likelihoods(
        self, cases: Sequence[tuple[str, str, Any, Sequence[str]]], settings: GenerationParams
    ) -> list[tuple[list[float], list[int]]]:
        pairs = [(asked, text) for _, _, asked, texts in cases for text in texts]
        try:
            results = self._lm.loglikelihoods(pairs, settings)
        except ContextLengthError:
            if len(cases) == 1:
                return [([], [])]
            return [each for case in cases for each in self._likelihoods([case], settings)]
        found, at = [], 0
        for _, _, _, texts in cases:
            part = results[at : at + len(texts)]
            at += len(texts)
            found.append(([each.logprob for each in part], [len(each.token_ids) for each in part]))
        return found

    def perplexity(
        self, arm: Arm, replies: Sequence[Completion], store: RecordFile[Scores], title: str
    ) -> Perplexity | None:
        cases = [
            (each.benchmark, each.id, arm.conversation(item), (each.completion,)) for each, item in self._said(replies)
        ]
        found = self._scored(arm, cases, store, title)
        return perplexity([(each.values[0], each.tokens[0]) for each in found if each.tokens])

    def _said(self, replies: Sequence[Completion]) -> list[tuple[Completion, Any]]:
        """Replies that say something, with their items."""
        items = [(each, self._items.get((each.benchmark, each.id))) for each in replies if each.completion.strip()]
        return [(each, item) for each, item in items if item is not None]

    def divergence(
        self, arm: Arm, base: Arm, replies: Sequence[Completion], store: RecordFile[Divergence]
    ) -> Triple | None:
        said = self._said(replies)
        mine, other = self._settings(arm), self._settings(base)
        facts = [reply_facts(self._model, each) for each in (mine, other)]
        keys = [
            record_key({"arm": facts[0], "base": facts[1], "prompt": arm.conversation(item), "text": c.completion})
            for c, item in said
        ]
        missing = [at for at, key in enumerate(keys) if store.get(key) is None]
        if missing:
            with Bar(f"how far {arm.name} departs from {base.name}", len(missing), shown=self._shown) as bar:
                for start in range(0, len(missing), CHUNK):
                    chunk = missing[start : start + CHUNK]
                    pairs = [
                        tuple((each.conversation(said[at][1]), said[at][0].completion) for each in (arm, base))
                        for at in chunk
                    ]
                    for at, nats in zip(chunk, self._departures(pairs, mine, other)):
                        reply = said[at][0]
                        store.add(Divergence(keys[at], arm.name, reply.benchmark, reply.id, nats))
                    bar.advance(len(chunk))
        found = [each.nats for each in map(store.get, keys) if each is not None and each.nats]
        if not found or any(value is None for nats in found for value in nats):
            return None
        return bootstrap_ratio([(sum(value or 0.0 for value in nats), float(len(nats))) for nats in found])

    def _departures(
        self, pairs: Sequence[tuple[Any, ...]], mine: GenerationParams, other: GenerationParams
    ) -> Iterator[list[float | None]]:
        """Nats before each token of a reply, for ((conversation, reply) of the arm, of the base); empty for what does
        not fit the context."""
        arm, base = ([pair[which] for pair in pairs] for which in (0, 1))
        given = 0
        try:
            for bent, own in zip(self._lm.distributions(arm, mine), self._lm.distributions(base, other)):
                terms = (own.exp() * (own - bent)).masked_fill(own == -math.inf, 0.0)
                nats = terms.double().sum(dim=-1).clamp_min(0.0).tolist()
                given += 1
                yield [value if math.isfinite(value) else None for value in nats]
        except ContextLengthError:
            if len(pairs) == 1:
                yield []
                return
            for pair in pairs[given:]:
                yield from self._departures([pair], mine, other)

    def choices(self, arm: Arm, questions: QuestionSet, store: RecordFile[Scores]) -> ChoiceRates:
        def asked(question: Question) -> Any:
            turn = {"role": "user", "content": question.prompt}
            return [{"role": "system", "content": arm.system}, turn] if arm.system else question.prompt

        cases = [(questions.name, each.id, asked(each), each.choices) for each in questions.questions]
        scored = {
            each.id: each.values for each in self._scored(arm, cases, store, f"{questions.name} under {arm.name}")
        }
        answered = [(each, scored[each.id]) for each in questions.questions if scored.get(each.id)]
        decided = [(each, values) for each, values in answered if max(values) > -math.inf]
        right = wilson(sum(accuracy(each, values) for each, values in decided), len(decided))
        shares = [true_share(each, values) for each, values in decided] if questions.truthful else []
        undecided = len(answered) - len(decided)
        return ChoiceRates(right, bootstrap_mean([shares]) if questions.truthful else None, undecided)

    def wins(self, arm: Arm, base: Arm, judge: PairwiseJudge, store: RecordFile[Judgement]) -> Wins:
        others = {(each.benchmark, each.id): each for each in _harmless(self._result, base.name, answered=False)}
        mine = [
            each for each in _harmless(self._result, arm.name, answered=False) if (each.benchmark, each.id) in others
        ]
        outcomes = []
        with Bar(f"{arm.name} against {base.name}", len(mine), shown=self._shown, unit=" prompts/s") as bar:
            for each in mine:
                other = others[each.benchmark, each.id]
                facts = {"judge": judge.name, "prompt": each.prompt, "a": each.completion, "b": other.completion}
                key = record_key(facts)
                known = store.get(key)
                if known is None:
                    same = each.completion == other.completion
                    said = "tie" if same else judge.compare(each.asked, each.completion, other.completion)
                    known = Judgement(key, arm.name, each.benchmark, each.id, said or "")
                    store.add(known)
                outcomes.append(known.outcome)
                bar.advance()
        return win_rate(outcomes)


def _harmless(result: Evaluation, arm: str, *, answered: bool) -> list[Completion]:
    """The arm's replies to harmless prompts; `answered`: only those that are no refusal."""
    found = [(each, verdict) for each, verdict in result.verdicts if (each.arm, each.kind) == (arm, "harmless")]
    return [each for each, verdict in found if not (answered and verdict.refused)]


def _same(result: Evaluation, arm: str, base: str) -> Rate | None:
    """Harmless prompts to which both say the same; None without any."""
    said = {(each.benchmark, each.id): each.completion for each in _harmless(result, base, answered=False)}
    mine = [each for each in _harmless(result, arm, answered=False) if (each.benchmark, each.id) in said]
    same = sum(each.completion == said[each.benchmark, each.id] for each in mine)
    return wilson(same, len(mine)) if mine else None


def _quality(result: Evaluation, arm: str, kind: str) -> TextQuality:
    found = [each for each in result.completions if (each.arm, each.kind) == (arm, kind) and not each.skipped]
    return text_quality([(each.completion, each.finish_reason) for each in found])


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0)) if not math.isnan(value) else math.nan
