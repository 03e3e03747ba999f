"""Replies that two judges read differently: what to look at before a rate is believed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from acd_core.evaluation.completions import Completion
from acd_core.evaluation.harness import Evaluation
from acd_core.evaluation.keyword_lists import KEYWORD_LISTS
from acd_core.refusal.judges import Verdict


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
