"""Invented words, names and numbers: material that teaches the model to copy what it has never seen."""

from __future__ import annotations

import random

_ONSETS = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
    "th",
    "sk",
    "",
)
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ee", "oo", "ou", "y", "ia")
_CODAS = ("", "", "", "n", "r", "l", "s", "t", "m", "ck", "nd", "x", "rt", "lf", "ng")
_FOREIGN = (
    "株式会社",
    "你好",
    "世界",
    "東京",
    "さくら",
    "おはよう",
    "集团",
    "公司",
    "안녕",
    "서울",
    "Привет",
    "Москва",
    "Ömer",
    "Zoë",
    "Żółw",
    "naïve",
    "São Paulo",
    "Málaga",
    "Ελλάδα",
    "مرحبا",
    "नमस्ते",
    "café",
    "Göteborg",
    "Łódź",
    "天气",
    "今日",
    "猫",
    "花",
    "山田",
    "大阪",
    "科技",
    "北京",
    "上海",
    "ありがとう",
    "电影",
    "音楽",
)


def invented_word(rng: random.Random) -> str:
    """A made-up word of one to four syllables."""
    return (
        "".join(
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            for _ in range(rng.choice((1, 2, 2, 2, 3, 3, 4)))
        )
        or "zo"
    )


def invented_name(rng: random.Random) -> str:
    """A made-up name with a capital letter."""
    return invented_word(rng).capitalize()


def foreign_text(rng: random.Random) -> str:
    """A short piece of text in other scripts."""
    text = "".join(rng.choice(_FOREIGN) for _ in range(rng.randint(1, 3)))
    return text if rng.random() < 0.6 else text + random_han(rng)


def random_han(rng: random.Random) -> str:
    """A few random Chinese or Japanese characters, so that any byte sequence can be copied."""
    low, high = rng.choice(((0x4E00, 0x9FA5), (0x3042, 0x3093), (0x30A2, 0x30F3), (0xAC00, 0xD7A3), (0x0410, 0x044F)))
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))


def number(rng: random.Random) -> str:
    """A number of one to five digits, small ones more often."""
    return str(rng.randint(1, 10 ** rng.choice((1, 1, 2, 2, 3, 4, 5))))


def misspell(rng: random.Random, text: str) -> str:
    """One small typing mistake."""
    if len(text) < 6:
        return text
    at = rng.randint(1, len(text) - 2)
    kind = rng.randint(0, 2)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at] + text[at:]


def drop_words(rng: random.Random, text: str) -> str:
    """Leave out one or two words."""
    words = text.split(" ")
    for _ in range(rng.randint(1, 2)):
        if len(words) > 5:
            words.pop(rng.randrange(len(words)))
    return " ".join(words)
