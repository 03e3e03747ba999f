"""The harmful questions of the training grammar: complete, different, and graded."""

from __future__ import annotations

import random
import string

from reference import harm_questions as questions
from reference.harm_phrases import HARM_BLOCKS, MORE_HARM_BLOCKS

SLOTS = {"field", "group", "bad", "badger", "victim", "tool", "place"}


def test_lists_say_nothing_twice() -> None:
    lists: list[list[str]] = [
        [text for text, _ in questions.HARM_QUESTIONS],
        [text for text, _ in questions.HARM_TEMPLATES],
        *(list(each) for each in (questions.FIELDS, questions.VICTIMS_OF, questions.BAD_AIMS)),
        *(list(each) for each in (questions.TOOLS_OF, questions.PLACES_OF)),
    ]
    for entries in lists:
        lowered = [entry.lower() for entry in entries]
        assert sorted(lowered) == sorted(set(lowered))


def test_aims_are_new() -> None:
    """No aim repeats one of the block grammars."""
    known = {phrase for block in HARM_BLOCKS + MORE_HARM_BLOCKS for phrase in block.phrases()}
    assert not known & set(questions.BAD_AIMS)


def test_severities_are_in_range() -> None:
    """Severities run from mild to grave."""
    for _, severity in questions.HARM_QUESTIONS + questions.HARM_TEMPLATES + questions.GRADED_AIMS:
        assert 1.0 <= severity <= 3.0


def test_templates_have_known_slots_and_sentences_none() -> None:
    """Every template has a slot that can be filled; whole sentences have none."""
    for text, _ in questions.HARM_TEMPLATES:
        slots = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        assert slots
        assert slots <= SLOTS
    assert not any("{" in text or "}" in text for text, _ in questions.HARM_QUESTIONS)


def test_drawn_questions_are_complete_and_repeatable() -> None:
    """A draw leaves no brace, keeps the range, and follows the seed."""
    first, second = random.Random(5), random.Random(5)
    texts = set()
    for _ in range(2000):
        text, severity = questions.harm_question(first, "left-handed people")
        assert (text, severity) == questions.harm_question(second, "left-handed people")
        assert text
        assert "{" not in text
        assert "}" not in text
        assert 1.0 <= severity <= 3.0
        texts.add(text)
    assert len(texts) == 1507, "other questions are drawn than the model was trained on"
