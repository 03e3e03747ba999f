"""Models for the tests of ChatACD: scripted below the engine, one for each behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from acd_core import ContrastiveLM, PromptPair
from acd_integrations.langchain import ChatACD
from tests.langchain.standard_script import LURE
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer

MakeChat = Callable[..., ChatACD]


@pytest.fixture
def make_chat() -> Iterator[MakeChat]:
    """make_chat(reply, **settings): a ChatACD whose model answers `reply` (text, or prompt -> text), if contrasted."""
    made: list[ContrastiveLM] = []

    def make(reply: str | Callable[[str], str] = "Hello there.", **settings: Any) -> ChatACD:
        of_model = {name: settings.pop(name) for name in ("lure", "step_s", "max_positions") if name in settings}
        template = {"template": settings.pop("template")} if "template" in settings else {}
        tokenizer = make_tokenizer(**template)
        answer = (lambda _: reply) if isinstance(reply, str) else reply
        model = ScriptedModel(tokenizer, answer, **{"lure": LURE, **of_model})
        lm = ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL))
        made.append(lm)
        return ChatACD.from_lm(lm, **settings)

    yield make
    for lm in made:
        lm.close()
