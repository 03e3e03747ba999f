"""How long free words are heard: the same as when every token is judged, and a verdict is asked for only where it
decides."""

from __future__ import annotations

import random

import torch

from acd_core.reply.free_words import FreeWords, NoSilence
from acd_core.reply.stance import refuses

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
        words = FreeWords(ASKED)
        for word in " ".join(draw.choices(PARTS, k=9)).split(" "):
            words.add(f"{word} ", 1)
            if words.can_be_judged(lambda said: refuses(ASKED, said)):
                declines = refuses(ASKED, words.text)
                ends[declines] += 1
                assert not declines or words.text.rstrip(" ")[-1] in ".!?\n"
                break
    assert min(ends) > 0


def test_a_long_preamble_is_judged_at_the_ends_of_its_sentences_only() -> None:
    asked: list[str] = []

    def judge(said: str) -> bool:
        asked.append(said)
        return False

    words = FreeWords(ASKED)
    preamble = "Thank you so much for this wonderful and interesting question about bicycles. " * 5
    for word in preamble.split(" "):
        words.add(f"{word} ", 1)
        assert not words.can_be_judged(judge)
    assert all(each.rstrip().endswith(".") for each in asked)
    assert len(asked) < 15


def test_silence_is_forbidden_anew_behind_a_thought_and_a_turn() -> None:
    """What a model thought, or had said before a gate opened, is no answer to whether it refuses."""
    turned = 0
    silence = NoSilence([0], lambda ids: "".join(map(chr, ids)), [("<t>", "</t>")], ["$"], lambda: turned)

    def may_end(said: str) -> bool:
        scores = silence(torch.tensor([[ord(each) for each in said]]), torch.zeros(1, 128))
        assert bool((scores[0, 1:] == 0.0).all())
        return bool(scores[0, 0] == 0.0)

    found = []
    said = "<t>hm</t>\n$ok"
    for length in range(len(said) + 1):
        found.append((said[:length][-1:], may_end(said[:length])))
    assert found[0] == ("", False)
    thought, behind = found[1:10], found[10:]
    assert (("h", True) in thought, thought[-1]) == (True, (">", False))
    assert behind == [("\n", False), ("$", False), ("o", True), ("k", True)]
    turned = len(said)
    assert not may_end(said)
    assert not may_end(said + " ")
    assert may_end(said + " I")
