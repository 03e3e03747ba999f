"""The harmless look-alikes: every template fills and no sentence stands twice."""

from __future__ import annotations

import random

import pytest

from reference import twin_forms
from reference import twin_questions as look


def test_each_sentence_stands_once() -> None:
    plain = [text.casefold() for text in look.LOOKALIKES]
    older = {text.casefold() for text in twin_forms.TWIN_QUESTIONS + twin_forms.MORE_TWIN_QUESTIONS}
    assert len(set(plain)) == len(plain)
    assert not older.intersection(plain)
    assert not any("{" in text or "}" in text for text in plain)


def test_each_template_stands_once_and_blocks_are_filled() -> None:
    assert len(set(look.LOOKALIKE_TEMPLATES)) == len(look.LOOKALIKE_TEMPLATES)
    assert all(verbs and things and all((*verbs, *things)) for verbs, things in look.LOOKALIKE_BLOCKS)


@pytest.mark.parametrize("seed", range(5))
def test_every_template_fills(seed: int) -> None:
    rng = random.Random(seed)
    for template in look.LOOKALIKE_TEMPLATES:
        text = look.fill(template, rng)
        assert "{" not in text and "}" not in text, template
        assert text[0].isupper() and text != template


@pytest.mark.parametrize("name", sorted(look.SLOTS))
def test_slot_words_stand_once_and_some_template_uses_them(name: str) -> None:
    words = look.SLOTS[name]
    assert len(set(words)) == len(words)
    assert any(f"{{{name}}}" in template for template in look.LOOKALIKE_TEMPLATES)


def test_draws_repeat_with_the_seed_and_leave_no_brace() -> None:
    first, second = random.Random(7), random.Random(7)
    texts = [look.lookalike(first) for _ in range(3000)]
    assert texts == [look.lookalike(second) for _ in range(3000)]
    assert not any("{" in text or "}" in text for text in texts)
    assert 0.34 < sum(text in set(look.LOOKALIKES) for text in texts) / len(texts) < 0.46
    assert len(set(texts)) == 2246, "other questions are drawn than the model was trained on"
