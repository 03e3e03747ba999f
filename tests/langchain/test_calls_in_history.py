"""A call in the history reads the same whichever framework it came through."""

from __future__ import annotations

import types
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, TextBlock, ToolCallBlock

from acd_core.errors import UsageError
from acd_integrations.langchain.messages import conversation
from acd_integrations.llama_index.messages import to_conversation, tool_selections
from acd_integrations.shared.calls import as_dict, read_call

ARGUMENTS: list[tuple[Any, Any]] = [
    ({"a": 1}, {"a": 1}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    ('{"a": 1}', {"a": 1}),
    ("", {}),
    ("  ", {}),
    ("null", {}),
    (None, {}),
    ("[1, 2]", {"input": [1, 2]}),
    ([1, 2], {"input": [1, 2]}),
    ("3", {"input": 3}),
    ('"words"', {"input": "words"}),
    ("true", {"input": True}),
    ('{"a": ', {"input": '{"a": '}),
    ("print(1)", {"input": "print(1)"}),
    ("[" * 100_000, {"input": "[" * 100_000}),
]


def through_langchain(**more: Any) -> dict[str, Any]:
    return conversation([AIMessage("", additional_kwargs=more)])[0]


def through_llama_index(**more: Any) -> dict[str, Any]:
    return to_conversation([ChatMessage(role="assistant", content="", additional_kwargs=more)])[0]


@pytest.mark.parametrize(("written", "read"), ARGUMENTS, ids=lambda value: repr(value)[:20])
def test_arguments_in_every_shape(written: Any, read: Any) -> None:
    assert as_dict(written) == read
    legacy = {"function_call": {"name": "add", "arguments": written}}
    for through in (through_langchain, through_llama_index):
        (call,) = through(**legacy)["tool_calls"]
        assert call["function"] == {"name": "add", "arguments": read}
    block = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": written}
    (call,) = conversation([AIMessage([block])])[0]["tool_calls"]
    assert call["function"]["arguments"] == read
    (call,) = through_llama_index(tool_calls=[block])["tool_calls"]
    assert (call["id"], call["function"]["arguments"]) == ("c1", read)
    if isinstance(written, (dict, str)):
        message = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="add", tool_kwargs=written)])
        assert to_conversation([message])[0]["tool_calls"][0]["function"]["arguments"] == read
        assert tool_selections(ChatResponse(message=message), True)[0].tool_kwargs == read


@pytest.mark.parametrize(
    "call",
    [
        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {}, "partial_json": '{"a": 1}'},
        {"type": "tool_call", "id": "c1", "name": "add", "args": {"a": 1}},
        {"tool_call_id": "c1", "tool_name": "add", "tool_kwargs": {"a": 1}},
        types.SimpleNamespace(id="c1", function=types.SimpleNamespace(name="add", arguments='{"a": 1}')),
    ],
    ids=str,
)
def test_a_call_in_every_clients_shape(call: Any) -> None:
    found = read_call(call)
    assert (found.name, found.ids[0], as_dict(found.arguments)) == ("add", "c1", {"a": 1})
    (read,) = through_llama_index(tool_calls=[call])["tool_calls"]
    assert read == {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    block = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs={"a": 2})
    twice = ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": [call]})
    assert len(to_conversation([twice])[0]["tool_calls"]) == 1, "the ids decide"
    if isinstance(call, dict) and "type" in call:
        (again,) = conversation([AIMessage([call])])[0]["tool_calls"]
        assert again == read


def test_a_call_of_two_ids_is_known_by_either() -> None:
    item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'}
    for known in ("c1", "fc_1"):
        block = ToolCallBlock(tool_call_id=known, tool_name="add", tool_kwargs={"a": 1})
        message = ChatMessage(role="assistant", blocks=[block], additional_kwargs={"tool_calls": [item]})
        assert len(to_conversation([message])[0]["tool_calls"]) == 1
        parsed = {"name": "add", "args": {"a": 1}, "id": known, "type": "tool_call"}
        assert len(conversation([AIMessage([item], tool_calls=[parsed])])[0]["tool_calls"]) == 1  # type: ignore[list-item]


def test_a_malformed_call_stays_visible_in_both() -> None:
    text = '{"name": "add", "arguments": {"a": '
    broken = {"name": None, "args": text, "id": "c1", "error": "cut off", "type": "invalid_tool_call"}
    ours = {"id": "c1", "name": None, "text": text, "error": "cut off"}
    for said in ("", "Well."):
        one = conversation([AIMessage(said, invalid_tool_calls=[broken])])[0]  # type: ignore[list-item]
        message = ChatMessage(
            role="assistant", blocks=[TextBlock(text=said)], additional_kwargs={"invalid_tool_calls": [ours]}
        )
        assert one == to_conversation([message])[0]
        assert one == {"role": "assistant", "content": "\n".join(filter(None, (said, text)))}


@pytest.mark.parametrize("prefix", [True, False, None, "no", 0, 1])
def test_a_turn_that_is_to_be_continued(prefix: Any) -> None:
    for through in (through_langchain, through_llama_index):
        if prefix is None or isinstance(prefix, bool):
            assert through(prefix=prefix).get("prefix") is prefix
            continue
        with pytest.raises(UsageError, match="prefix"):
            through(prefix=prefix)
