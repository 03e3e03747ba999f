"""Tools and structured output: what is forced is kept, what is malformed is said, and a refusal stays a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal, Optional

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from acd_core.errors import RefusalError, TemplateError, UsageError
from acd_integrations.langchain import ChatACD
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import call, offered

REFUSAL = "I'm sorry, but I can't help with that."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def now() -> str:
    """The time."""
    return "noon"


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0, le=150)
    nick: Optional[str] = None  # noqa: UP045 - as users write it


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


ANN = {"name": "Ann", "age": 30, "nick": "A"}
ADD = call("add", {"a": 1, "b": 2})


# -- tools -----------------------------------------------------------------------------------------------------


async def test_a_call_by_every_road(make_chat: MakeChat) -> None:
    llm = make_chat(f"I will add.\n{ADD}").bind_tools([add, now])
    messages: list[Any] = [llm.invoke("x"), await llm.ainvoke("x"), *llm.batch(["x"])]
    streamed: Any = None
    for piece in llm.stream("x"):
        streamed = piece if streamed is None else streamed + piece
    astreamed: Any = None
    async for piece in llm.astream("x"):
        astreamed = piece if astreamed is None else astreamed + piece
    for message in (*messages, streamed, astreamed):
        assert message.content == "I will add."
        assert [(c["name"], c["args"]) for c in message.tool_calls] == [("add", {"a": 1, "b": 2})]
        assert message.tool_calls == messages[0].tool_calls
        assert message.response_metadata["finish_reason"] == "tool_calls"


def test_parallel_calls_keep_apart_when_streamed(make_chat: MakeChat) -> None:
    llm = make_chat(f"{ADD}\n{call('now', {})}").bind_tools([add, now])
    whole: Any = None
    for piece in llm.stream("x"):
        whole = piece if whole is None else whole + piece
    assert [c["name"] for c in whole.tool_calls] == ["add", "now"]
    assert len({c["id"] for c in whole.tool_calls}) == 2
    assert [c["name"] for c in llm.invoke("x").tool_calls] == ["add", "now"]


def test_malformed_calls_are_invalid_calls(make_chat: MakeChat) -> None:
    for broken in ('<tool_call>\n{"name": "add", "arguments": {"a": 1', "<tool_call>nonsense</tool_call>"):
        llm = make_chat(f"Well.{broken}").bind_tools([add])
        whole: Any = None
        for piece in llm.stream("x"):
            whole = piece if whole is None else whole + piece
        for message in (llm.invoke("x"), whole):
            assert message.content == "Well."
            assert message.tool_calls == []
            assert len(message.invalid_tool_calls) == 1


def test_tool_choice_in_every_form(make_chat: MakeChat) -> None:
    def reply(prompt: str) -> str:
        return call("now", {}) if "now" in offered(prompt) else "no tools"

    llm = make_chat(reply)
    for choice in ("any", "required", True, "now", {"type": "function", "function": {"name": "now"}}, {"type": "any"}):
        message = llm.bind_tools([add, now], tool_choice=choice).invoke("x")
        assert message.tool_calls[0]["name"] == "now", choice
    forced = llm.bind_tools([add, now], tool_choice={"type": "tool", "name": "add"}).invoke("x")
    assert forced.tool_calls[0]["name"] == "add"
    assert set(forced.tool_calls[0]["args"]) == {"a", "b"}
    assert llm.bind_tools([add, now], tool_choice="none").invoke("x").content == "no tools"
    for choice in ("auto", None, False):
        assert llm.bind_tools([add, now], tool_choice=choice).invoke("x").tool_calls, choice
    for choice in ("sub", {"type": "function", "function": {"name": "sub"}}, 3):
        with pytest.raises(UsageError, match="add, now"):
            llm.bind_tools([add, now], tool_choice=choice)
    with pytest.raises(UsageError, match="not a function tool"):
        llm.bind_tools([{"type": "web_search"}])
    assert llm.invoke("x", tools=[add, now], tool_choice="any").tool_calls[0]["name"] == "now"


def test_a_forced_call_can_still_be_refused(make_chat: MakeChat) -> None:
    message = make_chat(REFUSAL).bind_tools([add], tool_choice="any").invoke("something awful")
    assert message.tool_calls == []
    assert message.content == REFUSAL
    assert message.additional_kwargs["refusal"] == REFUSAL
    assert message.response_metadata["finish_reason"] == "refusal"


def test_a_template_that_ignores_tools_is_said_in_bind_tools(make_chat: MakeChat, tmp_path: Any) -> None:
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    plain = "{% for m in messages %}" + turn + "{% endfor %}<|im_start|>assistant\n"
    with pytest.raises(TemplateError, match="ignores tools"):
        make_chat(template=plain).bind_tools([add])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": plain}))
    with pytest.raises(TemplateError, match="ignores tools"):
        ChatACD(model=str(tmp_path)).bind_tools([add])


def test_other_keywords_are_bound_as_they_are(make_chat: MakeChat) -> None:
    bound: Any = make_chat().bind_tools([add], alpha=0.2, stop=["x"])
    assert bound.kwargs["alpha"] == 0.2
    assert bound.kwargs["stop"] == ["x"]
    with pytest.raises(UsageError, match="nonsense"):
        make_chat().bind_tools([add], nonsense=1).invoke("x")


@tool
def sky(of: Literal["day", "night"], note: str = "") -> str:
    """The sky."""
    return of


async def test_strict_holds_a_call_of_the_models_own_accord_to_its_schema(make_chat: MakeChat) -> None:
    llm = make_chat(f"Let me look. {call('sky', {'of': 'dusk'})}")
    assert llm.bind_tools([sky]).invoke("x").tool_calls[0]["args"] == {"of": "dusk"}
    in_the_tool = {"type": "function", "function": {**convert_to_openai_tool(sky)["function"], "strict": True}}
    for bound in (llm.bind_tools([sky], strict=True), llm.bind_tools([in_the_tool])):
        messages = [bound.invoke("x"), await bound.ainvoke("x"), add_up(bound.stream("x"))]
        for message in messages:
            assert message.content == "Let me look."
            assert message.tool_calls[0]["args"] == {"of": "day"}, "an optional argument may be left out"
    assert llm.bind_tools([in_the_tool], strict=False).invoke("x").tool_calls[0]["args"] == {"of": "dusk"}


def test_strict_leaves_the_prompt_alone(make_chat: MakeChat) -> None:
    llm = make_chat()
    plain, strict = llm.bind_tools([sky]), llm.bind_tools([sky], strict=True)
    counts = [bound.invoke("x", method="none").usage_metadata["input_tokens"] for bound in (plain, strict)]
    counts.append(llm.get_num_tokens_from_messages([HumanMessage("x")], tools=strict.kwargs["tools"]))
    assert len(set(counts)) == 1


async def test_one_call_where_one_is_asked_for(make_chat: MakeChat) -> None:
    llm = make_chat(f"{ADD}\n{call('now', {})}")
    ways: list[dict[str, Any]] = [
        {"parallel_tool_calls": False}, {"tool_choice": "any", "parallel_tool_calls": False},
        {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        {"strict": True, "parallel_tool_calls": False},
    ]  # fmt: skip
    for way in ways:
        bound = llm.bind_tools([add, now], **way)
        for message in (bound.invoke("x"), await bound.ainvoke("x"), add_up(bound.stream("x"))):
            assert [each["name"] for each in message.tool_calls] == ["add"], way
    assert len(llm.bind_tools([add, now], tool_choice="any").invoke("x").tool_calls) == 2


def add_up(pieces: Iterable[Any]) -> Any:
    whole: Any = None
    for piece in pieces:
        whole = piece if whole is None else whole + piece
    return whole


def test_what_was_spoken_before_a_forced_call_is_counted(make_chat: MakeChat) -> None:
    llm = make_chat(ADD).bind_tools([add], tool_choice="any")
    message = llm.invoke("x")
    usage = message.usage_metadata
    spoken, written = usage["output_token_details"]["probe"], len(ADD) - len("<tool_call></tool_call>") + 2
    assert (spoken, usage["output_tokens"]) == (24, 24 + written)
    whole = add_up(llm.stream("x"))
    assert whole.usage_metadata["output_token_details"] == {"probe": 24}
    assert whole.usage_metadata["output_tokens"] == usage["output_tokens"]


# -- structured output -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_values_by_every_method_and_road(make_chat: MakeChat, method: str) -> None:
    text = call("Person", ANN) if method == "function_calling" else json.dumps(ANN)
    llm = make_chat(text)
    structured = llm.with_structured_output(Person, method=method)
    expected = Person(name="Ann", age=30, nick="A")
    assert structured.invoke("x") == expected
    assert await structured.ainvoke("x") == expected
    assert structured.batch(["x"]) == [expected]
    assert list(structured.stream("x"))[-1] == expected
    assert [piece async for piece in structured.astream("x")][-1] == expected
    raw = llm.with_structured_output(Person, method=method, include_raw=True).invoke("x")
    assert raw["parsed"] == expected
    assert raw["parsing_error"] is None
    assert isinstance(raw["raw"], AIMessage)


@pytest.mark.parametrize(
    "schema", [Person.model_json_schema(), PersonDict, {**Person.model_json_schema(), "title": "P"}]
)
def test_dicts_come_back_for_dicts(make_chat: MakeChat, schema: Any) -> None:
    value = {"name": "Ann", "age": 30}
    assert make_chat(json.dumps(value)).with_structured_output(schema).invoke("x") == value


def test_the_schema_is_enforced_not_hoped_for(make_chat: MakeChat) -> None:
    value = make_chat("I would rather talk about the weather.").with_structured_output(Person).invoke("x")
    assert isinstance(value, Person)
    raw = make_chat("The weather.").with_structured_output(None, method="json_mode").invoke("x")
    assert isinstance(raw, dict)


async def test_a_refusal_is_a_typed_result(make_chat: MakeChat) -> None:
    for method in ("json_schema", "function_calling", "json_mode"):
        llm = make_chat(REFUSAL)
        structured = llm.with_structured_output(Person, method=method)
        with pytest.raises(RefusalError) as refused:
            structured.invoke("something awful")
        assert refused.value.refusal == REFUSAL
        with pytest.raises(RefusalError):
            await structured.ainvoke("something awful")
        with pytest.raises(RefusalError):
            list(structured.stream("something awful"))
        with pytest.raises(RefusalError):
            [piece async for piece in structured.astream("something awful")]
        raw = llm.with_structured_output(Person, method=method, include_raw=True).invoke("something awful")
        assert raw["parsed"] is None
        assert isinstance(raw["parsing_error"], RefusalError)
        assert raw["raw"].additional_kwargs["refusal"] == REFUSAL


def test_json_that_was_cut_off_is_said(make_chat: MakeChat) -> None:
    for method in ("json_schema", "function_calling"):
        text = call("Person", ANN) if method == "function_calling" else json.dumps(ANN)
        # The cut falls behind a value: completing the brackets would give a Person with its nick missing.
        llm = make_chat(text, max_tokens=text.index(', "nick"'))
        with pytest.raises(OutputParserException, match="max_tokens"):
            llm.with_structured_output(Person, method=method).invoke("x")
        with pytest.raises(OutputParserException, match="max_tokens"):
            list(llm.with_structured_output(Person, method=method).stream("x"))


def test_what_cannot_be_asked_for(make_chat: MakeChat) -> None:
    class Unique(BaseModel):
        """A set."""

        values: set[int]

    llm = make_chat()
    with pytest.raises(UsageError, match="uniqueItems"):
        llm.with_structured_output(Unique).invoke("x")
    with pytest.raises(UsageError, match="telepathy"):
        llm.with_structured_output(Person, method="telepathy")
    with pytest.raises(UsageError, match="needs a schema"):
        llm.with_structured_output(None)
    with pytest.raises(UsageError, match="nonsense"):
        llm.with_structured_output(Person, nonsense=True)
    with pytest.raises(UsageError, match="no schema"):
        llm.with_structured_output(42)


def test_stop_texts_do_not_cut_a_forced_format(make_chat: MakeChat) -> None:
    assert make_chat(json.dumps(ANN), stop=["Ann"]).with_structured_output(Person).invoke("x").name == "Ann"


def test_a_schema_that_contains_itself(make_chat: MakeChat) -> None:
    class Tree(BaseModel):
        """A tree."""

        name: str
        parts: list[Tree] = []

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    value = {"name": "a", "parts": [{"name": "b", "parts": []}]}
    tree = make_chat(json.dumps(value)).with_structured_output(Tree).invoke("x")
    assert tree.model_dump() == value


def test_response_format_in_openais_shape(make_chat: MakeChat) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}}
    message = make_chat(json.dumps(ANN)).invoke([HumanMessage("x")], response_format=form)
    assert json.loads(message.content) == ANN
    with pytest.raises(UsageError, match="response_format"):
        make_chat().invoke("x", response_format={"type": "poem"})
