"""Words and verb phrases of the permissive harmless prompts, to fill the slots of everyday requests.

Hand-written lists hold a few thousand words, and a model that has only read those takes any other word for a sign of
harm. So nouns, phrases of nouns, names and short aims are read out of the harmless prompts (by path, at training time;
none of them is kept in the project). Words that also occur in harmful aims are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from reference.permissive import held_out, normalise, restate

_NOUN = re.compile(
    r"\b(?:a|an|the|my|your|our|some|of|with|and)\s+([a-z]{3,14})(?=[,.?!;:]|\s+(?:and|or|in|on|for|with|of|is|are|to|from|that|at)\b)"
)
_PHRASE = re.compile(
    r"\b(?:a|an|the|my|your|our)\s+([a-z]{3,12} [a-z]{3,14})(?=[,.?!;:]|\s+(?:and|or|in|on|for|with|of|is|are|to|from|that|at)\b)"
)
_NAME = re.compile(r"(?<=[a-z,] )([A-Z][a-z]{2,11})\b")
_AIM = re.compile(r"^[a-z][a-z' -]+$")
_STOP = frozenset(
    "the and that this these those which what when where who whom whose why how not but for with from into onto over under than then there here their them they you your yours "
    "his her hers its our ours one two three first second next last same other others another each every all any both few many more most some such only own very just also too "
    "following above below given said are was were been being have has had does did done can could will would shall should may might must let get got make made use used using "
    "per via etc out off up down about between among because while until unless although".split()
)


@dataclass(frozen=True)
class Vocabulary:
    """What was found: nouns, two-word phrases, capitalised names, and aims that fit "how do I ..."."""

    nouns: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    aims: tuple[str, ...] = ()


def harmful_words(texts: list[str]) -> set[str]:
    """Every word of three letters or more in harmful texts."""
    return {word for text in texts for word in re.findall(r"[a-z]{3,}", text.lower())}


def mine(sources: dict[str, list[str]], harmful: set[str], least: int = 2) -> Vocabulary:
    """The vocabulary of harmless prompts; a noun or name has to occur `least` times, no word may be among `harmful`."""
    nouns: Counter[str] = Counter()
    phrases: Counter[str] = Counter()
    names: Counter[str] = Counter()
    aims: set[str] = set()
    for rows in sources.values():
        for row in rows:
            if held_out(row, 0.03):
                continue
            nouns.update(_NOUN.findall(row))
            phrases.update(_PHRASE.findall(row))
            names.update(_NAME.findall(row))
            kind, phrase = restate(row)
            words = phrase.split()
            if (
                kind == "vp"
                and 2 <= len(words) <= 9
                and _AIM.match(phrase)
                and not harmful & set(normalise(phrase).split()[:1])
            ):
                aims.add(phrase)

    def clean(word: str) -> bool:
        return not any(part in harmful or part in _STOP for part in word.lower().split())

    return Vocabulary(
        tuple(sorted(word for word, count in nouns.items() if count >= least and clean(word))),
        tuple(sorted(phrase for phrase in phrases if clean(phrase))),
        tuple(sorted(name for name, count in names.items() if count >= least and clean(name))),
        tuple(sorted(aims)),
    )
