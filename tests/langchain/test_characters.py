"""Halves of characters, from PDFs and from a model's own arguments, in every place where text comes in or goes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field

from acd_integrations.langchain import ChatACD
from acd_integrations.langchain.messages import conversation
from acd_integrations.shared.characters import whole, whole_texts
from tests.langchain.conftest import MakeChat

HIGH, LOW = "\ud83d", "\ude00"
LONE, PAIR = f"a{HIGH}b", f"a{HIGH}{LOW}b"
MENDED, JOINED = "a\ufffdb", "a😀b"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("plain 😀 text\x00", "plain 😀 text\x00"),
        (HIGH + LOW, "😀"),
        (HIGH, "\ufffd"),
        (LOW, "\ufffd"),
        (LOW + HIGH, "\ufffd\ufffd"),
        (HIGH + HIGH + LOW, "\ufffd😀"),
        (HIGH + "\n", "\ufffd\n"),
        ("\ufeff" + LOW + "x", "\ufeff\ufffdx"),
    ],
)
def test_whole(given: str, wanted: str) -> None:
    assert whole(given) == wanted
    assert whole_texts({given: [given, (given, 1)], "n": None}) == {wanted: [wanted, (wanted, 1)], "n": None}


def spoken(llm: ChatACD) -> list[str]:
    return list(llm.lm.backbone.model.prompts)


async def test_every_message_of_a_thread(make_chat: MakeChat) -> None:
    llm = make_chat("fine")
    call = {"name": f"f{HIGH}", "args": {f"k{LOW}": [PAIR, {"x": LONE}]}, "id": f"c{HIGH}", "type": "tool_call"}
    thread = [
        SystemMessage(f"system {LONE}"),
        HumanMessage([{"type": "text", "text": f"user {LONE} {PAIR}"}], name=f"Ann{HIGH}"),
        AIMessage(f"said {LONE}", tool_calls=[call], additional_kwargs={"reasoning_content": LONE}),
        ToolMessage(f"result {LONE}", tool_call_id=f"c{HIGH}"),
        AIMessage("", additional_kwargs={"function_call": {"name": "g", "arguments": '{"x": "\\ud83d"}'}}),
        HumanMessage("go on"),
    ]
    json.dumps(conversation(thread), ensure_ascii=False).encode()
    assert llm.invoke(thread).content == "fine"
    assert "".join(str(piece.content) for piece in llm.stream(thread)) == "fine"
    assert (await llm.ainvoke(thread)).content == "fine"
    assert [message.content for message in llm.batch([thread, thread])] == ["fine", "fine"]
    longest = max(spoken(llm), key=len)
    for text in (f"system {MENDED}", f"user {MENDED} {JOINED}", f"said {MENDED}", f"result {MENDED}"):
        assert text in longest
    assert llm.get_num_tokens_from_messages(thread) > 50
    assert llm.get_num_tokens(LONE) == len(MENDED.encode())


class Arguments(BaseModel):
    text: str = Field(description=f"what to say {LONE}")


def test_tools_and_schemas(make_chat: MakeChat) -> None:
    said = f'<tool_call>\n{{"name": "say", "arguments": {{"text": "{JOINED}"}}}}\n</tool_call>'
    llm = make_chat(said)
    tool = StructuredTool.from_function(
        lambda text: text, name="say", description=f"Say. {LONE}", args_schema=Arguments
    )
    for choice in ("auto", "any", "say"):
        message = llm.bind_tools([tool], tool_choice=choice).invoke("x")
        assert message.tool_calls[0]["args"]["text"], choice
    assert any(f"Say. {MENDED}" in prompt for prompt in spoken(llm))
    raw = {"type": "function", "function": {"name": f"say{HIGH}", "description": "d", "parameters": {"type": "object"}}}
    assert llm.bind_tools([raw], tool_choice="auto").invoke("x") is not None
    assert make_chat(json.dumps({"text": "x"})).with_structured_output(Arguments).invoke("x") == Arguments(text="x")


def test_stop_strings(make_chat: MakeChat) -> None:
    llm = make_chat(f"one {JOINED} two \ufffd three")
    assert llm.invoke("x", stop=[HIGH + LOW]).content == "one a"
    assert llm.bind(stop=HIGH + LOW).invoke("x").content == "one a"
    assert make_chat("one 😀 two", stop=HIGH + LOW).invoke("x").content == "one "
    assert llm.invoke("x", stop=[f"never{HIGH}"]).content == f"one {JOINED} two \ufffd three"


async def test_a_models_own_arguments_do_not_poison_the_thread(make_chat: MakeChat) -> None:
    """The model writes half a character as JSON allows; what comes out is whole, and the next turn goes through."""
    said = '<tool_call>\n{"name": "say", "arguments": {"text": "a\\ud83db", "k\\ude00": 1}}\n</tool_call>'

    def reply(prompt: str) -> str:
        return "done" if "<|im_start|>tool" in prompt else said

    llm = make_chat(reply)
    bound = llm.bind_tools([StructuredTool.from_function(lambda text: text, name="say", description="Say.")])
    whole_stream: Any = None
    for piece in bound.stream("x"):
        whole_stream = piece if whole_stream is None else whole_stream + piece
    for message in (bound.invoke("x"), whole_stream, await bound.ainvoke("x")):
        (call,) = message.tool_calls
        assert call["args"] == {"text": MENDED, "k\ufffd": 1}
        dumps(message).encode()
        message.model_dump_json()
        thread = [HumanMessage("x"), message, ToolMessage(call["args"]["text"], tool_call_id=call["id"])]
        assert bound.invoke(thread).content == "done"
