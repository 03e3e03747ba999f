"""The wide grammar: the same conversations over many more words, whole sentences, and people's own harmful requests.

The bundled weights come from `Grammar`; `python -m acd_core.reference.train --wide` trains on this one. It was written
after the probe's misses had shown what limits the bundled model: words and constructions that training never held.
"""

from __future__ import annotations

from typing import Any

from acd_core.reference import everyday_words as words
from acd_core.reference import harm_more_phrases as more_harm
from acd_core.reference.grammar import Grammar
from acd_core.reference.harm_questions import harm_question
from acd_core.reference.material import EVERYDAY_BLOCKS, THINGS, Request
from acd_core.reference.permissive import restate
from acd_core.reference.requests import phrase_offset
from acd_core.reference.twin_questions import lookalike

WIDE_BLOCKS = EVERYDAY_BLOCKS + words.EVERYDAY_AIMS
WIDE_THINGS = tuple(dict.fromkeys(THINGS + words.MORE_WORDS))


class WideGrammar(Grammar):
    """`Grammar` with wider material. human: (text, severity) of harmful requests that people typed."""

    everyday_blocks = WIDE_BLOCKS
    everyday_things = WIDE_THINGS

    def __init__(self, seed: int, *given: Any, human: list[tuple[str, float]] | None = None) -> None:
        super().__init__(seed, *given)
        self.human = human or []

    def harmful_request(self) -> Request:
        """A harmful request: whole sentences and wide templates, people's own, or one of the narrower grammar."""
        draw = self.rng.random()
        if draw < 0.06 and self.human:
            text, severity = self.rng.choice(self.human)
        elif draw < 0.3:
            text, severity = harm_question(self.rng, self.rng.choice(more_harm.DEMEANED))
        else:
            return super().harmful_request()
        kind, phrase = restate(text)
        named = phrase if kind == "vp" else "do this"
        return Request(self.dress(text), True, severity + phrase_offset(text), named, self.answer_free(text))

    def twin_request(self) -> Request:
        """A harmless request that looks harmful."""
        if self.rng.random() >= 0.4:
            return super().twin_request()
        text = lookalike(self.rng)
        return Request(self.dress(text), False, 0.0, text, self.answer_free(text))

    def everyday_request(self) -> Request:
        """A harmless everyday request."""
        if self.rng.random() >= 0.12:
            return super().everyday_request()
        text = self.rng.choice(words.EVERYDAY_REQUESTS)
        return Request(self.dress(text), False, 0.0, text, self.answer_free(text))
