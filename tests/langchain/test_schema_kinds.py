"""Structured output of schemas that are no object with properties: arrays, maps, values, unions, references."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, RootModel

from acd_core.errors import RefusalError, UsageError
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import call

NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
OF_NUMBERS = {"$ref": "#/$defs/number"}
DEFS = {"$defs": {"number": NUMBER}}
MAP = {"title": "It", "type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1}
SCHEMAS: dict[str, tuple[dict[str, Any], Any]] = {
    "an array": ({"title": "It", "type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1}, ["y", "x"]),
    "a map": (MAP, {"k": 1}),
    "an enum": ({"title": "It", "enum": ["east", "west"]}, "west"),
    "a union": ({"title": "It", "anyOf": [{"type": "integer"}, {"const": "none"}]}, 12),
    "a reference": ({"title": "It", **OF_NUMBERS, **DEFS}, {"n": 3}),
    "an array of references": ({"title": "It", "type": "array", "items": OF_NUMBERS, **DEFS}, [{"n": 3}]),
    "a schema that contains itself": ({"title": "It", "type": "array", "items": {"$ref": "#"}}, [[], [[]]]),
    "a nought": ({"title": "It", "type": "integer"}, 0),
    "an empty list": ({"title": "It", "type": "array", "maxItems": 2}, []),
    "a text with a fence": ({"title": "It", "type": "string"}, "a ```json\n[1]``` b"),
    "no title": ({"type": "array", "items": {"type": "integer"}}, [1, 2]),
    "a title that names no tool": ({**NUMBER, "title": "One number (n)"}, {"n": 4}),
    "OpenAI's format": ({"name": "It", "schema": NUMBER, "strict": True}, {"n": 5}),
    "OpenAI's response format": ({"type": "json_schema", "json_schema": {"name": "It", "schema": NUMBER}}, {"n": 5}),
    "a name beside a schema": ({"name": "It", **NUMBER}, {"n": 5}),
}
NAMES = {"no title": "reply", "a title that names no tool": "One_number_n"}


class Point(BaseModel):
    """A point."""

    x: int
    y: int


class Path(RootModel[list[Point]]):
    """A path."""


def said(kind: str, method: str) -> str:
    value = SCHEMAS[kind][1]
    if method == "json_schema":
        return json.dumps(value)
    return call(NAMES.get(kind, "It"), value if isinstance(value, dict) else {"value": value})


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("kind", SCHEMAS)
async def test_the_value_comes_back_as_it_is(kind: str, method: str, make_chat: MakeChat) -> None:
    schema, value = SCHEMAS[kind]
    llm = make_chat(said(kind, method))
    structured = llm.with_structured_output(schema, method=method)
    assert structured.invoke("x") == value
    assert await structured.ainvoke("x") == value
    assert list(structured.stream("x"))[-1] == value
    raw = llm.with_structured_output(schema, method=method, include_raw=True).invoke("x")
    assert (raw["parsed"], raw["parsing_error"]) == (value, None)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    ("kind", "check"),
    [
        ("an array", lambda value: value and set(value) <= {"x", "y"}),
        ("a map", lambda value: value and all(isinstance(each, int) for each in value.values())),
        ("an enum", lambda value: value in ("east", "west")),
        ("a union", lambda value: isinstance(value, int) or value == "none"),
        ("a reference", lambda value: isinstance(value["n"], int)),
    ],
)
def test_it_is_enforced_whatever_the_model_would_say(kind: str, check: Any, method: str, make_chat: MakeChat) -> None:
    llm = make_chat("I would rather talk about the weather.")
    assert check(llm.with_structured_output(SCHEMAS[kind][0], method=method).invoke("x"))


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_class_over_a_list(method: str, make_chat: MakeChat) -> None:
    points = [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
    llm = make_chat(json.dumps(points) if method == "json_schema" else call("Path", {"value": points}))
    structured = llm.with_structured_output(Path, method=method)
    assert structured.invoke("x") == Path([Point(x=1, y=2), Point(x=3, y=4)])
    assert list(structured.stream("x"))[-1] == Path([Point(x=1, y=2), Point(x=3, y=4)])


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_refusal_stays_one(method: str, make_chat: MakeChat) -> None:
    llm = make_chat("I'm sorry, but I can't help with that.")
    with pytest.raises(RefusalError):
        llm.with_structured_output(SCHEMAS["an array"][0], method=method).invoke("something awful")
    raw = llm.with_structured_output(SCHEMAS["an array"][0], method=method, include_raw=True).invoke("something awful")
    assert raw["parsed"] is None
    assert isinstance(raw["parsing_error"], RefusalError)


def test_a_schema_bound_as_a_tool_keeps_its_parameters(make_chat: MakeChat) -> None:
    bound: Any = make_chat().bind_tools([MAP])
    parameters = bound.kwargs["tools"][0]["function"]["parameters"]
    assert parameters["additionalProperties"] == {"type": "integer"}
    with pytest.raises(UsageError, match="an object"):
        make_chat().bind_tools([SCHEMAS["an array"][0]])
