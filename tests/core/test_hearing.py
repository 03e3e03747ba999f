"""How long free words are heard: the same as when every token is judged, and a verdict is asked for only where it
decides."""

from __future__ import annotations

import random

from acd_core.free_words import Hearing, refuses

ASKED = "Write a short essay on the history of the bicycle."
PARTS = (
    "Thank you for asking.", "That is a great question!", "I'm sorry, but", "I can't help with that.", "Sure.",
    "Here is what I found: 42 bicycles", "I cannot", "however", "The bicycle was invented in 1817.", "I won't do it",
    '{"error": "no"', ".", "\n",
)  # fmt: skip


def test_a_sentence_is_never_cut_where_it_refuses_and_an_answer_is_let_go() -> None:
    """Settled words either end a sentence that declines, or decline nothing: what follows may not be half a refusal."""
    draw = random.Random(7)
    ends = [0, 0]
    for _ in range(40):
        hearing = Hearing(ASKED)
        for word in " ".join(draw.choices(PARTS, k=9)).split(" "):
            hearing.hear(f"{word} ", 1)
            if hearing.settled(lambda said: refuses(ASKED, said)):
                declines = refuses(ASKED, hearing.text)
                ends[declines] += 1
                assert not declines or hearing.text.rstrip(" ")[-1] in ".!?\n"
                break
    assert min(ends) > 0


def test_a_long_preamble_is_judged_at_the_ends_of_its_sentences_only() -> None:
    asked: list[str] = []

    def judge(said: str) -> bool:
        asked.append(said)
        return False

    hearing = Hearing(ASKED)
    preamble = "Thank you so much for this wonderful and interesting question about bicycles. " * 5
    for word in preamble.split(" "):
        hearing.hear(f"{word} ", 1)
        assert not hearing.settled(judge)
    assert all(each.rstrip().endswith(".") for each in asked)
    assert len(asked) < 15
