"""Models for the harness tests: scripted below the engine, right only where the two branches are contrasted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core import ContrastiveLM, PromptPair
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

LURE = "plum"
MakeLM = Callable[..., ContrastiveLM]


@pytest.fixture
def make_lm() -> Iterator[MakeLM]:
    """make_lm(reply, **of the model): what the model answers if contrasted; alone it says LURE."""
    made: list[ContrastiveLM] = []

    def make(reply: str | Callable[[str], str], **of_model: Any) -> ContrastiveLM:
        tokenizer = make_tokenizer()
        answer = (lambda _: reply) if isinstance(reply, str) else reply
        model = ScriptedModel(tokenizer, answer, **{"lure": LURE, **of_model})
        made.append(ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)))
        return made[-1]

    yield make
    for lm in made:
        lm.close()
