"""Structured prediction of classes that are no object with fields: lists, maps, unions."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Union

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from pydantic import BaseModel, Field, RootModel

from acd_core import ContrastiveLM, PromptPair
from acd_integrations.llama_index import ACDLLM
from tests.scripted import ADVERSARIAL, SAFE, ScriptedModel, make_tokenizer


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    tricks: list[str]


class Pets(RootModel[list[Cat]]):
    """Some cats."""


class Counts(RootModel[dict[str, int]]):
    """Counts by name."""


class Pet(RootModel[Annotated[Union[Cat, Dog], Field(discriminator="kind")]]):
    """Either."""


def make(reply: str) -> ACDLLM:
    tokenizer = make_tokenizer()
    model = ScriptedModel(tokenizer, lambda _: reply, lure="Sure! Here is something else.")
    return ACDLLM.from_lm(ContrastiveLM.from_model(model, tokenizer, PromptPair.from_texts(SAFE, ADVERSARIAL)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Pets, [{"kind": "cat", "lives": 9}]),
        (Counts, {"a": 1}),
        (RootModel[int], 3),
        (Pet, {"kind": "dog", "tricks": ["sit"]}),
    ],
)
def test_the_value_comes_back_by_every_road(kind: Any, value: Any) -> None:
    llm, prompt = make(json.dumps(value)), PromptTemplate("x")
    expected = kind.model_validate(value)
    assert llm.structured_predict(kind, prompt) == expected
    assert list(llm.stream_structured_predict(kind, prompt))[-1] == expected
    assert llm.as_structured_llm(kind).complete("x").raw == expected
    llm.lm.close()


def test_a_titled_schema_without_properties_is_enforced() -> None:
    llm = make("I would rather talk about the weather.")
    schema = {"title": "It", "type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1}
    form = {"type": "json_schema", "json_schema": {"name": "It", "schema": schema}}
    said = json.loads(str(llm.chat([ChatMessage("x")], response_format=form).message.content))
    assert said
    assert set(said) <= {"x", "y"}
    llm.lm.close()
