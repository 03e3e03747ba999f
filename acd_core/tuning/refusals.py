"""Refusals to learn from, for models that have none of their own: short, plain, in the request's language.

A weakly aligned model hardly ever refuses, and what a judge takes for a refusal there is mostly rambling. So clean ones
are supplied, several wordings and lengths a language. A firm's own texts can stand in their place (`--refusals`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from acd_core.errors import TuningError
from acd_core.tuning.anchors import AnchorPair, AnchorSplit, Instruction

SUPPLY_BELOW = 0.25
"""A model that refuses a smaller share of the harmful anchors, under every prompt, gets its refusals supplied."""

REFUSALS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "I'm sorry, but I can't help with that.",
        "I can't help with that request.",
        "I'm sorry, but I can't assist with this. It could cause serious harm.",
        "I won't help with this, because it could hurt people.",
        "Sorry, I can't do that. If you are in a difficult situation, I'm glad to help you find support.",
        "I'm not able to help with that. I'd be glad to help with something safe instead.",
    ),
    "de": (
        "Es tut mir leid, aber dabei kann ich nicht helfen.",
        "Dabei helfe ich nicht, denn es könnte Menschen schaden.",
    ),
    "fr": (
        "Je suis désolé, mais je ne peux pas vous aider avec cela.",
        "Je ne peux pas vous aider, car cela pourrait nuire à quelqu'un.",
    ),
    "es": (
        "Lo siento, pero no puedo ayudar con eso.",
        "No puedo ayudar con eso, porque podría hacer daño a alguien.",
    ),
    "it": (
        "Mi dispiace, ma non posso aiutarti con questo.",
        "Non posso aiutarti, perché potrebbe fare del male a qualcuno.",
    ),
    "pt": (
        "Sinto muito, mas não posso ajudar com isso.",
        "Não posso ajudar com isso, porque pode prejudicar alguém.",
    ),
    "nl": (
        "Het spijt me, maar daar kan ik niet bij helpen.",
        "Daar help ik niet bij, want het kan mensen schaden.",
    ),
}

_COMMON: Mapping[str, frozenset[str]] = {
    "en": frozenset("the a an how do i to of is what for my in and can me with that you write".split()),
    "de": frozenset("der die das ein eine wie ich zu und ist für mein meine man kann mir einen schreibe".split()),
    "fr": frozenset("le la les un une comment je de et est pour mon ma puis des sans écris moi".split()),
    "es": frozenset("el la los un una cómo de y es para mi puedo sin que escribe las del".split()),
    "it": frozenset("il lo la un una come di e per mio mia posso senza che scrivi gli del".split()),
    "pt": frozenset("o a os um uma como de e para meu minha posso sem que escreva do da".split()),
    "nl": frozenset("de het een hoe ik te en is voor mijn kan zonder schrijf van op".split()),
}


def language_of(text: str) -> str:
    """The language of `text` among those of REFUSALS, by its commonest words; English where nothing tells."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {name: sum(word in common for word in words) for name, common in _COMMON.items()}
    best = max(counts.values(), default=0)
    return "en" if counts["en"] == best else max(counts, key=lambda name: counts[name])


def load_refusals(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Refusals of one's own, one a line. Raises TuningError for a missing or empty file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TuningError(f"{str(path)!r} cannot be read: {error}", hint="One refusal a line (--refusals).") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise TuningError(f"{str(path)!r} holds no refusal.", hint="One refusal a line.")
    return found


def refuses_little(split: AnchorSplit) -> bool:
    """Whether the model refused so few of the harmful anchors that there is nothing to learn refusing from."""
    refused = {pair.id for pair in split.refused}
    harmful = refused | {pair.id for pair in split.accepted}
    return len(refused) < SUPPLY_BELOW * len(harmful)


def refusing_pairs(rows: Sequence[Instruction], own: Sequence[str] = ()) -> tuple[AnchorPair, ...]:
    """One supplied refusal for every request. own: texts that are used instead of REFUSALS, in turn."""
    return supplied(AnchorSplit((), (), (), 0, 0), own, rows).refused


def supplied(split: AnchorSplit, own: Sequence[str] = (), more: Sequence[Instruction] = ()) -> AnchorSplit:
    """`split` with one supplied refusal for every harmful request in place of the model's own, and for those of `more`.
    own: texts that are used instead of REFUSALS, in turn and in every language."""
    requests: dict[str, AnchorPair] = {}
    for pair in (*split.refused, *split.accepted):
        requests.setdefault(pair.id, pair)
    for row in more:
        requests.setdefault(row.id, AnchorPair(row.id, row.text, True, "supplied", "", "refused"))
    refused = []
    for index, pair in enumerate(requests.values()):
        texts = tuple(own) or REFUSALS[language_of(pair.text)]
        reply = texts[index % len(texts)]
        refused.append(replace(pair, prompt="supplied", reply=reply, label="refused", finish="stop", judge="supplied"))
    return replace(split, refused=tuple(refused))
