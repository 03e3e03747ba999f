"""What training draws from: the conversations of `Grammar` over many more words, whole sentences, and people's own
harmful requests.

It was written after a probe of the model before had shown what that one missed: words and constructions that its
training never held.
"""

from __future__ import annotations

from typing import Any

from reference import everyday_words as words
from reference import harm_more_phrases as more_harm
from reference.grammar import Grammar
from reference.harm_questions import harm_question
from reference.material import EVERYDAY_BLOCKS, THINGS, Request
from reference.twin_questions import lookalike

WIDE_BLOCKS = EVERYDAY_BLOCKS + words.EVERYDAY_AIMS
WIDE_THINGS = tuple(dict.fromkeys(THINGS + words.MORE_WORDS))
# More opposite texts than `Grammar` draws: over so many more words, obeying them takes longer to learn.
WIDE_SHARES = (("none", 0.32), ("safe", 0.25), ("opposite", 0.22), ("neutral", 0.16), ("strict", 0.05))


class WideGrammar(Grammar):
    """`Grammar` with wider material. human: (text, severity) of harmful requests that people typed."""

    everyday_blocks = WIDE_BLOCKS
    everyday_things = WIDE_THINGS
    system_shares = WIDE_SHARES

    def __init__(self, seed: int, *given: Any, human: list[tuple[str, float]] | None = None) -> None:
        super().__init__(seed, *given)
        self.everyday_verbs += words.MORE_VERBS
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
        return self.harmful_text(text, severity)

    def twin_request(self) -> Request:
        """A harmless request that looks harmful."""
        if self.rng.random() >= 0.4:
            return super().twin_request()
        return self.harmless_text(lookalike(self.rng))

    def everyday_request(self) -> Request:
        """A harmless everyday request."""
        if self.rng.random() >= 0.12:
            return super().everyday_request()
        return self.harmless_text(self.rng.choice(words.EVERYDAY_REQUESTS))
