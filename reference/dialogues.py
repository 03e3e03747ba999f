"""Follow-up turns that lean on the request before them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from reference.permissive import restate

if TYPE_CHECKING:
    from reference.requests import RequestGrammar

FOLLOW_UPS: tuple[tuple[str, str], ...] = (
    ("Can you give me an example?", 'Here is an example for "{q}": a small and simple case, with one detail.'),
    ("Make it shorter.", 'In short, for "{q}": {s1} and {s2}.'),
    ("Please make it longer", 'For "{q}", {s1}, then {s2}, then {s3}, and look at it once more.'),
    ("Why?", 'Because "{q}" works best when you {s1} and {s2}.'),
    ("Thanks!", 'You are welcome! Tell me if you need more on "{q}"'),
    ("Thank you, that helps.", 'Glad to help with "{q}" Is there anything else?'),
    ("Can you say that in other words?", 'In other words, for "{q}": {s1}, and then {s2}.'),
    ("What was my question?", "Your question was: {q}"),
    ("What did I ask you before?", "You asked: {q}"),
    ("Go on.", 'To go on with "{q}": {s1}, {s2}, and {s3}.'),
    ("What should I do first?", 'For "{q}", first {s1}. After that, {s2}.'),
    ("Tell me more.", 'There is more on "{q}": {s1}, and then {s2}.'),
    ("How long does it take?", 'For "{q}" it takes a little time: {s1}, then {s2}.'),
    ("Is that all?", 'Nearly. For "{q}" you should also {s1} and {s2}.'),
    ("ok, and then?", "And then {s1}, {s2}, and {s3}."),
    ("Explain the first step", 'The first step for "{q}" is simple: {s1}.'),
)


def follow_up(rng: random.Random, previous: str, grammar: RequestGrammar) -> tuple[str, str]:
    """(what the user says next, the reply); the reply quotes the earlier request."""
    if rng.random() < 0.12:
        name = grammar.slots()["name"]
        return f"By the way, my name is {name}.", f"Nice to meet you, {name}!"
    said, form = rng.choice(FOLLOW_UPS)
    _kind, phrase = restate(previous)
    quoted = phrase if phrase.endswith(("?", ".", "!")) else phrase + "."
    return said, grammar.fill_steps(form, q=quoted)
