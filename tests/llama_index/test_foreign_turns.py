"""Threads that another LLM class began go on with ACDLLM, and text that is not whole does not end them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from acd_core.errors import UsageError
from acd_core.lm import ContrastiveLM
from acd_integrations.llama_index import ACDLLM
from acd_integrations.llama_index.messages import to_conversation
from tests.llama_index.contract import collected, run
from tests.llama_index.subjects import scripted_lm

HIGH, LOW = "\ud83d", "\ude00"
LONE, PAIR = f"a{HIGH}b", f"a{HIGH}{LOW}b"
MENDED, JOINED = "a\ufffdb", "a😀b"
FUNCTION = {"name": "add", "arguments": {"a": 1}}
BLOCK = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 1})
SHAPES: dict[str, Any] = {
    "chat completions": {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    "responses": {"id": "fc_1", "call_id": "c1", "type": "function_call", "name": "add", "arguments": '{"a": 1}'},
    "responses object": SimpleNamespace(
        id="fc_1", call_id="c1", type="function_call", name="add", arguments='{"a": 1}', status="completed"
    ),
    "anthropic": {"id": "c1", "type": "tool_use", "name": "add", "input": {"a": 1}},
    "gemini": {"name": "add", "args": {"a": 1}},
    "selection": SimpleNamespace(tool_id="c1", tool_name="add", tool_kwargs={"a": 1}),
}
BOOKKEEPING = [
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
]


def assistant(text: str = "", **more: Any) -> dict[str, Any]:
    blocks = more.pop("blocks", [TextBlock(text=text)])
    return to_conversation([ChatMessage(role="assistant", blocks=blocks, additional_kwargs=more)])[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_of_every_library_are_kept_and_none_is_said_twice(shape: str) -> None:
    item = SHAPES[shape]
    alone = assistant("Yes.", tool_calls=[*BOOKKEEPING, item])
    assert alone["content"] == "Yes."
    assert [call["function"] for call in alone["tool_calls"]] == [FUNCTION]
    both = assistant(blocks=[TextBlock(text="Yes."), BLOCK], tool_calls=[item, *BOOKKEEPING])
    assert [call["function"] for call in both["tool_calls"]] == [FUNCTION]
    assert both["tool_calls"][0]["id"] == "c1"
    other = ToolCallBlock(tool_call_id="c2", tool_name="add", tool_kwargs={"a": 2})
    calls = assistant(blocks=[other], tool_calls=[item])["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [{"a": 2}, {"a": 1}]


def test_the_function_call_from_before_there_were_tools() -> None:
    legacy = {"name": "add", "arguments": '{"a": 1}'}
    for call in (legacy, SimpleNamespace(**legacy)):
        assert [c["function"] for c in assistant(function_call=call)["tool_calls"]] == [FUNCTION]
        assert len(assistant(blocks=[BLOCK], function_call=call)["tool_calls"]) == 1
    assert "tool_calls" not in assistant("x", function_call=None, tool_calls=None)
    result = ChatMessage(role="function", content="3", additional_kwargs={"name": "add"})
    assert to_conversation([result]) == [{"role": "tool", "content": "3", "name": "add"}]


def test_a_call_that_was_cut_off_stays_in_the_history() -> None:
    block = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs='{"a": ')
    assert assistant(blocks=[block])["tool_calls"][0]["function"]["arguments"] == {"input": '{"a": '}
    with pytest.raises(UsageError, match="no function name"):
        assistant(tool_calls=[{"id": "c1", "type": "function", "function": {}}])


def test_thinking_and_cache_points_are_no_obstacle_and_pictures_are() -> None:
    kept = assistant(blocks=[ThinkingBlock(content="Hm."), CachePoint(cache_control={"type": "ephemeral"}), BLOCK])
    assert [call["function"] for call in kept["tool_calls"]] == [FUNCTION]
    for role in ("user", "assistant", "tool"):
        for block in (ImageBlock(image=b"x"), AudioBlock(audio=b"x"), DocumentBlock(data=b"x")):
            with pytest.raises(UsageError, match="reads text only"):
                to_conversation([ChatMessage(role=role, blocks=[TextBlock(text="look"), block])])


# -- whole characters --------------------------------------------------------------------------------------------------


def reader(prompt: str) -> str:
    if "<|im_start|>tool" in prompt:
        return "done"
    if '"say"' in prompt:
        return '<tool_call>\n{"name": "say", "arguments": {"text": "a\\ud83db"}}\n</tool_call>'
    return '{"text": "fine"}' if "JSON" in prompt else f"one {JOINED} two"


@pytest.fixture
def lm() -> Iterator[ContrastiveLM]:
    with scripted_lm(reader, lure=None) as opened:
        yield opened


def test_every_message_of_a_thread(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm, system_prompt=f"system {LONE}")
    call = ToolCallBlock(tool_call_id=f"c{HIGH}", tool_name=f"f{HIGH}", tool_kwargs={f"k{LOW}": [PAIR, {"x": LONE}]})
    thread = [
        ChatMessage(role="user", content=f"user {LONE} {PAIR}"),
        ChatMessage(role="assistant", blocks=[TextBlock(text=f"said {LONE}"), call]),
        ChatMessage(role="tool", content=f"result {LONE}", additional_kwargs={"tool_call_id": f"c{HIGH}"}),
        ChatMessage(
            role="assistant",
            additional_kwargs={"tool_calls": [{"function": {"name": "g", "arguments": '{"x": "\\ud83d"}'}}]},
        ),
    ]
    json.dumps(to_conversation(thread), ensure_ascii=False).encode()
    for ask in (
        lambda: llm.chat(thread),
        lambda: list(llm.stream_chat(thread))[-1],
        lambda: run(llm.achat(thread)),
        lambda: run(collected(llm.astream_chat(thread)))[-1],
    ):
        assert ask().message.content == "done"
    longest = max(lm.backbone.model.prompts, key=len)
    for text in (f"system {MENDED}", f"user {MENDED} {JOINED}", f"said {MENDED}", f"result {MENDED}"):
        assert text in longest
    assert llm.complete(LONE).text == f"one {JOINED} two"
    assert len(llm.token_ids(LONE)) == llm.count_tokens(LONE) == len(MENDED.encode())
    assert llm.count_tokens(thread) > 50


def test_stop_strings(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    for stop in (HIGH + LOW, [HIGH + LOW], ("never" + HIGH, HIGH + LOW)):
        assert llm.complete("x", stop=stop).text == "one a"
    assert ACDLLM.from_lm(lm, stop=HIGH + LOW).complete("x").text == "one a"


def test_a_models_own_arguments_do_not_poison_the_thread(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    heard: list[str] = []

    def say(text: str) -> str:
        heard.append(text)
        return text

    tool = FunctionTool.from_defaults(say, description=f"Say. {LONE}")
    asked = ChatMessage(role="user", content="x")
    for response in (
        llm.chat_with_tools([tool], chat_history=[asked]),
        list(llm.stream_chat_with_tools([tool], chat_history=[asked]))[-1],
    ):
        (call,) = llm.get_tool_calls_from_response(response)
        assert call.tool_kwargs == {"text": MENDED}
        response.message.model_dump_json().encode()
        result = ChatMessage(role="tool", content=MENDED, additional_kwargs={"tool_call_id": call.tool_id})
        assert llm.chat_with_tools([tool], chat_history=[asked, response.message, result]).message.content == "done"
    assert any(f"Say. {MENDED}" in prompt for prompt in lm.backbone.model.prompts)

    async def ask() -> str:
        return str(await FunctionAgent(tools=[tool], llm=llm).run(f"say {LONE}"))

    assert run(ask()) == "done"
    assert heard == [MENDED]


class Said(BaseModel):
    text: str = Field(description=f"what was said {LONE}")


def test_structured_prediction(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    assert llm.structured_predict(Said, PromptTemplate("JSON of {x}"), x=LONE) == Said(text="fine")


# -- begun replies -----------------------------------------------------------------------------------------------------


def test_prefix_false_asks_for_a_new_turn(lm: ContrastiveLM) -> None:
    llm = ACDLLM.from_lm(lm)
    asked = ChatMessage(role="user", content="Write.")
    begun = ChatMessage(role="assistant", content="one", additional_kwargs={"prefix": False})
    assert to_conversation([asked, begun])[1] == {"role": "assistant", "content": "one", "prefix": False}
    assert llm.chat([asked, begun]).message.content == f"one {JOINED} two"
    for prompt in lm.backbone.model.prompts:
        assert prompt.endswith("one<|im_end|>\n<|im_start|>assistant\n")
    begun.additional_kwargs["prefix"] = "no"
    with pytest.raises(UsageError, match="prefix"):
        llm.chat([asked, begun])
