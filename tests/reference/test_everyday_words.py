"""The still larger everyday lists hold nothing twice and repeat nothing of the older lists."""

from __future__ import annotations

from reference import everyday_forms, everyday_words
from reference import everyday_phrases as day


def folded(entries: tuple[str, ...]) -> set[str]:
    return {entry.lower() for entry in entries}


def test_nothing_stands_twice() -> None:
    for entries in (everyday_words.EVERYDAY_REQUESTS, everyday_words.MORE_WORDS, everyday_words.MORE_VERBS):
        assert len(folded(entries)) == len(entries)
        assert all(entry and entry == entry.strip() for entry in entries)


def test_nothing_repeats_the_older_lists() -> None:
    assert not folded(everyday_words.MORE_WORDS) & folded(day.THINGS + day.MORE_THINGS)
    assert not folded(everyday_words.EVERYDAY_REQUESTS) & folded(everyday_forms.SMALL_TALK)
    old = {thing for verbs, things in day.EVERYDAY_BLOCKS + day.MORE_EVERYDAY_BLOCKS for thing in things}
    assert sum(set(things) <= old for verbs, things in everyday_words.EVERYDAY_AIMS) == 0


def test_blocks_have_verbs_and_objects() -> None:
    for verbs, things in everyday_words.EVERYDAY_AIMS:
        assert len(set(verbs)) == len(verbs)
        assert len(set(things)) == len(things)
        assert all(verbs) and all(things)
