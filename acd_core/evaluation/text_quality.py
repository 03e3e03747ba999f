"""Describes replies as text: how long, how varied, how often they loop. No model, no judge.

A rate of refusals cannot tell an answer from garble, so these stand beside every rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from acd_core.evaluation.intervals import Rate, wilson

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
GARBLED_SHARE = 0.3
"""From this share of repeated 4-grams on a reply counts as garbled; fluent English replies stay under 0.1."""
_SHORTEST = 8  # words below which repetition says nothing


def words(text: str) -> list[str]:
    """Words, signs, and single characters of scripts that write no spaces; lower case."""
    return _WORD.findall(text.lower())


def distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    """distinct-n (Li et al. 2016): different n-grams of all texts together as a share of all n-grams; 0 without any."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(text: Sequence[str], n: int = 4) -> float:
    """Share in [0, 1) of the text's n-grams that stood in it before; 0 for texts shorter than n words."""
    grams = _grams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_garbled(text: str) -> bool:
    """Whether a reply loops (repeated 4-grams) or holds characters that are none (U+FFFD)."""
    found = words(text)
    return "\ufffd" in text or (len(found) >= _SHORTEST and repeated_share(found) >= GARBLED_SHARE)


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]


@dataclass(frozen=True)
class TextQuality:
    """Of the replies of one arm. mean_words over all; distinct_1, distinct_2 over all together; repeated: mean share
    of repeated 4-grams; garbled: replies that loop or are broken; cut: replies that ran into max_tokens."""

    replies: int
    mean_words: float
    distinct_1: float
    distinct_2: float
    repeated: float
    garbled: Rate
    cut: Rate


def text_quality(replies: Sequence[tuple[str, str]]) -> TextQuality:
    """Statistics of (text, finish reason) pairs; all zero without any."""
    split = [words(text) for text, _ in replies]
    total = len(replies)
    return TextQuality(
        replies=total,
        mean_words=sum(map(len, split)) / total if total else 0.0,
        distinct_1=distinct(split, 1),
        distinct_2=distinct(split, 2),
        repeated=sum(map(repeated_share, split)) / total if total else 0.0,
        garbled=wilson(sum(is_garbled(text) for text, _ in replies), total),
        cut=wilson(sum(why == "length" for _, why in replies), total),
    )
