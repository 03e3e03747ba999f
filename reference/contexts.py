"""Retrieval turns: a context of several sentences, a question, and an answer that quotes the right sentence word for word."""

from __future__ import annotations

import random

from reference.context_forms import (
    ANSWER_FORMS,
    DAYS,
    ENTITY_FORMS,
    FACTS,
    FILLERS,
    HOME_LANGUAGES,
    MORE_FACTS,
    PROMPTS,
    UNKNOWN,
)
from reference.everyday_phrases import ADJECTIVES, FOODS, JOBS, NAMES, PLACES, SUBJECTS, TOPICS
from reference.material import THINGS
from reference.words import invented_name, invented_word, number

_ALL_FACTS = FACTS + MORE_FACTS


def _value(rng: random.Random, kind: str) -> str:
    if kind == "clock":
        return f"{rng.randint(5, 12)}:{rng.choice(('00', '15', '30', '45'))}"
    if kind == "year":
        return str(rng.randint(1100, 2025))
    if kind == "place":
        return rng.choice(PLACES) if rng.random() < 0.6 else invented_name(rng)
    if kind == "person":
        return f"{rng.choice(NAMES)} {invented_name(rng)}"
    if kind == "number":
        return number(rng)
    if kind == "email":
        return f"{invented_word(rng)}@{invented_word(rng)}.{rng.choice(('com', 'org'))}"
    if kind == "phone":
        return "-".join(str(rng.randint(100, 999)) for _ in range(rng.randint(2, 3)))
    pools = {
        "food": FOODS,
        "day": DAYS,
        "job": JOBS,
        "thing": THINGS,
        "language": HOME_LANGUAGES,
        "subject": SUBJECTS + TOPICS,
    }
    return rng.choice(pools[kind]) if rng.random() < 0.8 or kind == "day" else invented_word(rng)


def _entity(rng: random.Random) -> str:
    return rng.choice(ENTITY_FORMS).format(
        w=invented_name(rng),
        n=rng.randint(1, 99),
        adj=rng.choice(ADJECTIVES),
        thing=rng.choice(THINGS),
        name=rng.choice(NAMES),
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _filler(rng: random.Random) -> str:
    return _upper(
        rng.choice(FILLERS).format(
            adj=rng.choice(ADJECTIVES),
            thing=rng.choice(THINGS),
            place=rng.choice(PLACES),
            job=rng.choice(JOBS),
            year=rng.randint(1800, 2025),
            name=rng.choice(NAMES),
            name2=rng.choice(NAMES),
            word=invented_word(rng),
            subject=rng.choice(SUBJECTS),
        )
    )


def context_turn(rng: random.Random, long: bool = False, query: str | None = None) -> tuple[str, str, str]:
    """Returns (user text, question, answer); with `query` given, the question is that one and the answer is empty."""
    entities = [_entity(rng) for _ in range(rng.randint(1, 4))]
    count = rng.randint(8, 22) if long else rng.randint(2, 8)
    facts: list[tuple[str, str]] = []
    seen: set[str] = set()
    for _ in range(count):
        entity = rng.choice(entities)
        sentence, kind, questions = rng.choice(_ALL_FACTS)
        if entity + sentence in seen:
            continue
        seen.add(entity + sentence)
        value = _value(rng, kind)
        facts.append(
            (_upper(sentence.format(e=entity, v=value)), _upper(rng.choice(questions).format(e=entity, v=value)))
        )
    lines = [fact for fact, _ in facts] + [_filler(rng) for _ in range(rng.randint(0, max(1, count // 2)))]
    rng.shuffle(lines)
    if rng.random() < 0.5:
        context = " ".join(lines)
    else:
        cut = rng.randint(1, max(1, len(lines) - 1))
        parts = [" ".join(lines[:cut]), " ".join(lines[cut:])]
        if rng.random() < 0.4:
            parts = [
                f"file_path: {rng.choice(('docs', 'data', '/work/docs'))}/{invented_word(rng)}.{rng.choice(('txt', 'md'))}\n\n{part}"
                for part in parts
                if part
            ]
        context = "\n\n".join(part for part in parts if part)
    fact, question = rng.choice(facts)
    answer = rng.choice(ANSWER_FORMS).format(s=fact)
    if query is None and rng.random() < 0.07:
        question = _upper(
            rng.choice(_ALL_FACTS)[2][0].format(e=f"the {invented_name(rng)} {rng.choice(THINGS)}", v="Mondays")
        )
        answer = rng.choice(UNKNOWN)
    if query is None and rng.random() < 0.15:
        question = question[:1].lower() + question[1:].rstrip("?")
    form = rng.choice(PROMPTS)
    if query is not None:
        question, answer = query, ""
    return form.replace("{ctx}", context).replace("{q}", question), question, answer
