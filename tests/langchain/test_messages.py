"""LangChain messages of any provider's shape become conversations; what a text model cannot read is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from acd_core.errors import UsageError
from acd_core.params import (
    ContrastReport,
    Done,
    Generation,
    InvalidToolCall,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    Usage,
)
from acd_core.params import ToolCallDelta as Delta
from acd_integrations.langchain.messages import chunk, conversation, result

CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
OURS = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
FACTS: dict[str, Any] = {"model_name": "m", "count": len, "decode": lambda ids: "x"}


def one(message: Any) -> dict[str, Any]:
    return conversation([message])[0]


def test_plain_roles() -> None:
    messages = [SystemMessage("s"), HumanMessage("u", name="Ann"), AIMessage("a"), ChatMessage("c", role="developer")]
    assert conversation(messages) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u", "name": "Ann"},
        {"role": "assistant", "content": "a"},
        {"role": "system", "content": "c"},
    ]
    assert one(FunctionMessage("r", name="f")) == {"role": "tool", "content": "r", "name": "f"}
    with pytest.raises(UsageError, match="RemoveMessage"):
        one(RemoveMessage(id="x"))


def test_list_content_is_joined() -> None:
    blocks: list[Any] = ["a", {"type": "text", "text": "b"}, {"type": "text-plain", "text": "c"}]
    assert one(HumanMessage(blocks))["content"] == "abc"
    assert one(HumanMessage([]))["content"] == ""


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "input_audio", "video", "file", "document", None])
def test_other_blocks_are_refused_by_name(kind: str | None) -> None:
    block: dict[str, Any] = {"type": kind, "data": "..."} if kind else {"data": "..."}
    for message in (HumanMessage([block]), ToolMessage([block], tool_call_id="c1"), SystemMessage([block])):
        with pytest.raises(UsageError, match=repr(kind)):
            one(message)


def test_calls_in_every_providers_shape() -> None:
    use = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}
    raw = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    for message in (
        AIMessage("", tool_calls=[CALL]),
        AIMessage([use]),
        AIMessage([{"type": "text", "text": ""}, use], tool_calls=[CALL]),
        AIMessage([{**use, "input": '{"a": 1}'}]),
        AIMessage("", additional_kwargs={"tool_calls": [raw]}),
        AIMessage([{"type": "tool_call", **CALL}], tool_calls=[CALL], response_metadata={"output_version": "v1"}),
        AIMessageChunk("", tool_call_chunks=[{"name": "add", "args": '{"a": 1}', "id": "c1", "index": 0}]),
    ):
        assert one(message) == {"role": "assistant", "content": "", "tool_calls": [OURS]}


def test_a_malformed_call_stays_visible_as_text() -> None:
    broken = {"name": None, "args": '{"name": "add"', "id": "c1", "error": "e", "type": "invalid_tool_call"}
    assert one(AIMessage("I try.", invalid_tool_calls=[broken]))["content"] == 'I try.\n{"name": "add"'


def test_thoughts_are_kept_apart() -> None:
    expected = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    assert one(AIMessage("Yes.", additional_kwargs={"reasoning_content": "Hm."})) == expected
    assert one(AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes."}])) == expected
    assert one(AIMessage([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Yes."}])) == expected


def test_tool_results() -> None:
    base = {"role": "tool", "tool_call_id": "c1"}
    assert one(ToolMessage("3", tool_call_id="c1")) == {**base, "content": "3"}
    assert one(ToolMessage("3", tool_call_id="c1", name="add")) == {**base, "content": "3", "name": "add"}
    blocks: list[Any] = [{"type": "text", "text": "3"}, {"type": "json", "json": {"é": 1}}]
    assert one(ToolMessage(blocks, tool_call_id="c1")) == {**base, "content": '3{"é": 1}'}
    failed = ToolMessage("no such city", tool_call_id="c1", status="error")
    assert one(failed) == {**base, "content": "Error: no such city"}
    assert one(ToolMessage("Error: x", tool_call_id="c1", status="error"))["content"] == "Error: x"


def test_tool_results_within_a_human_turn() -> None:
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "3"}]}
    said: list[Any] = ["And ", {"type": "input_text", "text": "then?"}]
    assert conversation([HumanMessage([result, {**result, "content": "no", "is_error": True}, *said], name="Ann")]) == [
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "tool", "tool_call_id": "c1", "content": "Error: no"},
        {"role": "user", "content": "And then?", "name": "Ann"},
    ]
    with pytest.raises(UsageError, match="'image'"):
        conversation([HumanMessage([{**result, "content": [{"type": "image", "data": "..."}]}])])


GENERATION = Generation(
    text="Hi.",
    finish_reason="tool_calls",
    usage=Usage(10, 5, 4),
    tool_calls=(ToolCall("c1", "add", {"a": 1}), ToolCall("c2", "add", {})),
    invalid_tool_calls=(InvalidToolCall("c3", '{"name": "add", "arguments": {"a": 1', "cut off"),),
    reasoning="Hm, hm.",
    refusal="No.",
    report=ContrastReport("acd", 0.4, 5, 0.1),
)


def test_a_reply_and_the_sum_of_its_chunks_say_the_same() -> None:
    events = [
        ReasoningDelta("Hm, "), ReasoningDelta("hm."), TextDelta("H"), TextDelta("i."),
        *(Delta(place, call) for place, call in enumerate(GENERATION.tool_calls)), Done(GENERATION),
    ]  # fmt: skip
    chunks = [chunk(event, FACTS) for event in events]
    whole = chunks[0]
    for piece in chunks[1:]:
        whole += piece
    added, message = whole.message, result(GENERATION, FACTS).message
    assert isinstance(added, AIMessageChunk)
    assert isinstance(message, AIMessage)
    for name in ("content", "tool_calls", "usage_metadata", "response_metadata", "additional_kwargs"):
        assert getattr(added, name) == getattr(message, name), name
    assert added.content_blocks[0] == message.content_blocks[0] == {"type": "reasoning", "reasoning": "Hm, hm."}
    # A call that was cut off must not come out whole: LangChain completes JSON when it adds chunks up.
    assert [call["args"] for call in added.invalid_tool_calls] == [call["args"] for call in message.invalid_tool_calls]
    assert json.loads(str(message.invalid_tool_calls[0]["args"])) == GENERATION.invalid_tool_calls[0].text
    assert added.chunk_position == "last"
    assert message.usage_metadata == {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_token_details": {"cache_read": 4},
        "output_token_details": {"reasoning": len("Hm, hm.")},
    }
