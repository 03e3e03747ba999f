"""What the stock local adapter (langchain-huggingface's ChatHuggingFace over a pipeline) gets wrong, one test each.

Numbers are issues of langchain-ai/langchain. benchmarks/langchain_table.py shows both adapters on the same calls.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from acd_core.bundled import REFERENCE_MODEL_DIR
from acd_integrations.langchain import ChatACD
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import call, offered, turns

TEXT = "one, two, three, four"


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return f"sunny in {city}"


@tool
def get_time(city: str) -> str:
    """Time in a city."""
    return f"noon in {city}"


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


def reply(prompt: str) -> str:
    said = turns(prompt) or [("", "")]  # a prompt may be half filled in yet
    if said[-1][0] == "tool":
        return f"It is {said[-1][1]}."
    return call("get_weather", {"city": "Oslo"}) if "get_weather" in offered(prompt) else TEXT


def test_the_prompt_is_no_part_of_the_reply(make_chat: MakeChat) -> None:
    """24437, 24430: the answer began with the whole prompt, template marks included."""
    assert make_chat(TEXT).invoke("A question that must not come back").content == TEXT


def test_usage_finish_reason_and_model_name_are_there(make_chat: MakeChat) -> None:
    """usage_metadata was None and response_metadata empty, streamed or not."""
    llm = make_chat(TEXT)
    for message in (llm.invoke("x"), functools.reduce(lambda a, b: a + b, llm.stream("x"))):
        assert message.usage_metadata is not None
        assert message.usage_metadata["output_tokens"] == len(TEXT)
        assert message.response_metadata["finish_reason"] == "stop"
        assert message.response_metadata["model_name"] == "scripted"


async def test_async_works(make_chat: MakeChat) -> None:
    """3869, 34134: ainvoke raised NotImplementedError, astream AttributeError (no async_client)."""
    llm = make_chat(TEXT)
    assert (await llm.ainvoke("x")).content == TEXT
    assert "".join([str(piece.content) async for piece in llm.astream("x")]) == TEXT
    assert [each.content for each in await llm.abatch(["x", "y"])] == [TEXT, TEXT]
    assert [each.content for each in await asyncio.gather(llm.ainvoke("x"), llm.ainvoke("y"))] == [TEXT, TEXT]


def test_tools_reach_the_model_and_calls_come_back(make_chat: MakeChat) -> None:
    """22379, 30453, 26620: bound tools were dropped without a word, and calls never parsed."""
    seen: list[str] = []

    def note(prompt: str) -> str:
        seen.append(prompt)
        return reply(prompt)

    message = make_chat(note).bind_tools([get_weather]).invoke("x")
    assert all(offered(prompt) == ["get_weather"] for prompt in seen if turns(prompt))
    assert [(each["name"], each["args"]) for each in message.tool_calls] == [("get_weather", {"city": "Oslo"})]


def test_a_choice_among_several_tools(make_chat: MakeChat) -> None:
    """tool_choice with two tools raised ValueError."""
    llm = make_chat(reply)
    for choice in ("any", "get_weather"):
        message = llm.bind_tools([get_weather, get_time], tool_choice=choice).invoke("x")
        assert [each["name"] for each in message.tool_calls] == ["get_weather"]


def test_histories_that_do_not_end_with_a_human(make_chat: MakeChat) -> None:
    """15232: "Last message must be a HumanMessage!", and a ToolMessage had no mapping at all."""
    made = {"name": "get_weather", "args": {"city": "Oslo"}, "id": "c1", "type": "tool_call"}
    history = [HumanMessage("x"), AIMessage("", tool_calls=[made]), ToolMessage("sunny", tool_call_id="c1")]
    assert make_chat(reply).bind_tools([get_weather]).invoke(history).content == "It is sunny."
    assert make_chat(TEXT).invoke([HumanMessage("x"), SystemMessage("y")]).content == TEXT
    assert isinstance(make_chat(TEXT).invoke([HumanMessage("x"), AIMessage("one,")]), AIMessage)


def test_an_agent_runs(make_chat: MakeChat) -> None:
    """22379: so no agent could."""
    agent: Any = create_agent(make_chat(reply), [get_weather, get_time])
    assert agent.invoke({"messages": [HumanMessage("x")]})["messages"][-1].content == "It is sunny in Oslo."


def test_roles_need_not_alternate(make_chat: MakeChat) -> None:
    """16992: strict templates raised on two messages of one role."""
    twice = [SystemMessage("a"), SystemMessage("b"), HumanMessage("c"), HumanMessage("d")]
    strict = (
        "{% set n = namespace(turns=0) %}{% for m in messages %}{% if m.role != 'system' %}"
        "{% if (m.role == 'user') != (n.turns % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% set n.turns = n.turns + 1 %}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}<|im_start|>assistant{{ '\\n' }}"
    )
    assert make_chat(TEXT).invoke(twice).content == TEXT
    assert make_chat(TEXT, template=strict).invoke([*twice, AIMessage("e"), HumanMessage("f")]).content == TEXT


def test_settings_of_a_call_count(make_chat: MakeChat) -> None:
    """25219, 7192: max_new_tokens was ignored and settings of a call were dropped; an unknown one went unnoticed."""
    llm = make_chat(TEXT)
    message = llm.invoke("x", max_tokens=3)
    assert (message.content, message.response_metadata["finish_reason"]) == (TEXT[:3], "length")
    drawn = {str(llm.invoke("x", temperature=50.0, seed=seed, max_tokens=8).content) for seed in (1, 1, 2)}
    assert len(drawn) == 2
    with pytest.raises(Exception, match="max_new_tokens"):
        llm.invoke("x", max_new_tokens=3)


def test_stop_texts_of_several_tokens(make_chat: MakeChat) -> None:
    """stop was ignored by invoke, and by stream taken for one token each, so that longer ones never matched."""
    llm = make_chat(TEXT)
    assert llm.invoke("x", stop=["three"]).content == "one, two, "
    assert "".join(str(piece.content) for piece in llm.stream("x", stop=["three"])) == "one, two, "


@pytest.mark.parametrize("schema", [Joke, Joke.model_json_schema()])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(schema: Any, method: str, make_chat: MakeChat) -> None:
    """29569, 23660: a Pydantic class raised NotImplementedError, a JSON schema was ignored and failed to parse."""
    found = make_chat("What a question.").with_structured_output(schema, method=method).invoke("Tell me a joke.")
    assert set(found if isinstance(found, dict) else found.model_dump()) == {"setup", "punchline"}


@pytest.mark.skipif(not (REFERENCE_MODEL_DIR / "config.json").is_file(), reason="the bundled model is not built")
def test_there_is_one_bos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template was rendered to text and encoded again with special tokens: BOS stood there twice."""
    llm = ChatACD(model="reference", method="rose", max_tokens=1)
    seen: list[list[int]] = []
    submit = llm.lm.engine.submit
    noting = lambda request: (seen.extend(each.ids for each in request.branches), submit(request))  # noqa: E731
    monkeypatch.setattr(llm.lm.engine, "submit", noting)
    llm.invoke([SystemMessage("Be brief."), HumanMessage("Hello")])
    bos = llm.lm.backbone.tokenizer.bos_token_id
    assert [(ids[0], ids.count(bos)) for ids in map(list, seen)] == [(bos, 1), (bos, 1)]


def test_an_error_of_the_model_reaches_the_caller_of_a_stream(make_chat: MakeChat) -> None:
    """It was lost in the generation thread; the reader waited a minute for a timeout of its own."""

    def fail(prompt: str) -> str:
        raise RuntimeError("broken on purpose")

    with pytest.raises(Exception, match="broken on purpose"):
        list(make_chat(fail).stream("x"))


def test_counting_tokens_needs_no_download(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts came from GPT-2's tokenizer, fetched from the network."""

    def refuse(*_: Any, **__: Any) -> Iterator[Any]:
        raise AssertionError("a network connection was tried")

    llm = make_chat(TEXT)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert llm.get_num_tokens("Grüße") == len("Grüße".encode())
    messages = [HumanMessage("Hello")]
    counted = llm.get_num_tokens_from_messages(messages)
    assert counted == llm.invoke(messages, method="none").usage_metadata["input_tokens"]


def test_a_batch_shares_forward_passes(make_chat: MakeChat) -> None:
    """31533: a batch was a thread pool over one pipeline, a forward for each prompt and token."""
    llm = make_chat(TEXT, step_s=0.002)
    assert [each.content for each in llm.batch([f"{n}" for n in range(12)])] == [TEXT] * 12
    assert llm.lm.engine.counters.decode_forwards < 6 * len(TEXT)
    assert llm.lm.engine.counters.most_rows > 12, "six at a time, as LangChain's own pool has it on two cores"


def test_the_profile_says_what_the_model_can_do(make_chat: MakeChat) -> None:
    """It was there for known hub ids only."""
    profile = ChatACD.from_lm(make_chat(TEXT, max_positions=777).lm).profile
    assert profile is not None
    assert profile["tool_calling"]
    assert profile["max_input_tokens"] < 777


REFUSED: list[Callable[[], Any]] = [
    lambda: HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]),
    lambda: HumanMessage(
        [{"type": "text", "text": "x"}, {"type": "audio", "base64": "AA==", "mime_type": "audio/wav"}]
    ),
]


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_text_model_cannot_read_is_refused_by_name(message: Callable[[], Any], make_chat: MakeChat) -> None:
    """Blocks went into the template as they were: the model read a Python dict, or nothing."""
    with pytest.raises(Exception, match="reads text only"):
        make_chat(TEXT).invoke([message()])
