"""Threads that another provider began go on with ChatACD: what that provider kept for itself is no obstacle."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, ChatMessage, FunctionMessage, HumanMessage, ToolMessage

from acd_core import Policy
from acd_core.errors import PolicyError, UsageError
from acd_integrations.langchain import ChatACD
from acd_integrations.langchain.messages import conversation
from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import turns

CALL = {"name": "add", "args": {"a": 1}, "id": "c1", "type": "tool_call"}
OURS = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
OTHER = {"id": "c2", "type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
SAID: dict[str, Any] = {"type": "text", "text": "Yes."}

OPENAI: list[Any] = [
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q"}},
    {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "results": None},
    {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1", "outputs": [{"type": "logs", "logs": "2"}]},
    {"type": "mcp_list_tools", "id": "m", "tools": []},
    {"type": "output_text", "text": "Yes.", "annotations": [{"type": "url_citation", "url": "u"}], "logprobs": []},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
]
ANTHROPIC: list[Any] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
    {"type": "redacted_thinking", "data": "cipher"},
    {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"type": "web_search_result", "url": "u"}]},
    {"type": "code_execution_tool_result", "tool_use_id": "srv_2", "content": {"stdout": "2"}},
    {"type": "text", "text": "Yes.", "citations": [{"cited_text": "c"}], "cache_control": {"type": "ephemeral"}},
    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
]
GEMINI: list[Any] = [
    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
    {"type": "executable_code", "executable_code": "1+1", "language": "PYTHON"},
    {"type": "code_execution_result", "code_execution_result": "2", "outcome": 1},
    {"type": "text", "text": "Yes.", "extras": {"signature": "sig"}},
    {"type": "function_call", "name": "add", "args": {"a": 1}},
]
BEDROCK: list[Any] = [
    {"type": "reasoning_content", "reasoning_content": {"text": "Hm.", "signature": "sig"}},
    SAID,
    {"cachePoint": {"type": "default"}},
    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
]
MISTRAL: list[Any] = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    {"type": "reference", "reference_ids": [1]},
    SAID,
    CALL,
]
STANDARD: list[Any] = [
    {"type": "reasoning", "reasoning": "Hm.", "extras": {"signature": "sig"}},
    {"type": "server_tool_call", "id": "s", "name": "web_search", "args": {}},
    {"type": "server_tool_result", "tool_call_id": "s", "status": "success", "output": "x"},
    SAID,
    {"type": "non_standard", "value": {"anything": 1}},
    CALL,
]
PROVIDERS = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "bedrock": BEDROCK,
    "mistral": MISTRAL,
    "standard": STANDARD,
}


def one(message: Any) -> dict[str, Any]:
    return conversation([message])[0]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_text_calls_and_thoughts_stay_and_the_rest_is_left_out(provider: str) -> None:
    content = PROVIDERS[provider]
    wanted = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "tool_calls": [OURS]}
    assert one(AIMessage(content, tool_calls=[CALL])) == wanted, "the call is said twice"
    alone = one(AIMessage(content))
    assert [call["function"] for call in alone["tool_calls"]] == [OURS["function"]], "the call was lost"
    assert {**alone, "tool_calls": [OURS]} == wanted
    second = {**CALL, "args": {"a": 2}, "id": "c2"}
    calls = one(AIMessage(content, tool_calls=[second]))["tool_calls"]
    assert [call["function"] for call in calls] == [OTHER["function"], OURS["function"]]
    both = one(AIMessage(content, tool_calls=[second, CALL]))["tool_calls"]
    assert both == [OTHER, OURS]


def test_openais_older_shapes() -> None:
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]}
    assert one(AIMessage([item]))["content"] == "Yes."
    thought = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": t} for t in ("A", "B")]}
    assert one(AIMessage("Yes.", additional_kwargs={"reasoning": thought}))["reasoning_content"] == "A\n\nB"
    assert "reasoning_content" not in one(AIMessage("Yes.", additional_kwargs={"reasoning": {"summary": []}}))
    sound = {"id": "audio_1", "data": "...", "transcript": "Yes."}
    assert one(AIMessage("", additional_kwargs={"audio": sound}))["content"] == "Yes."
    refused = [{"type": "refusal", "refusal": "I can't."}]
    assert one(AIMessage(refused)) == {"role": "assistant", "content": "I can't."}
    custom = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "run", "input": "print(1)"}
    call = {"name": "run", "args": {"__arg1": "print(1)"}, "id": "c1", "type": "tool_call"}
    assert [c["function"]["arguments"] for c in one(AIMessage([custom], tool_calls=[call]))["tool_calls"]] == [
        {"__arg1": "print(1)"}
    ]
    assert one(AIMessage([custom]))["tool_calls"][0]["function"]["arguments"] == {"input": "print(1)"}


def test_the_function_call_from_before_there_were_tools() -> None:
    legacy = {"function_call": {"name": "add", "arguments": '{"a": 1}'}}
    assert one(AIMessage("", additional_kwargs=legacy))["tool_calls"] == [{**OURS, "id": ""}]
    assert one(AIMessage("", additional_kwargs=legacy, tool_calls=[CALL]))["tool_calls"] == [OURS]
    assert one(ChatMessage("", role="assistant", additional_kwargs=legacy))["tool_calls"] == [{**OURS, "id": ""}]
    broken = {"function_call": {"name": "add", "arguments": '{"a": '}}
    assert one(AIMessage("", additional_kwargs=broken))["tool_calls"][0]["function"]["arguments"] == {"input": '{"a": '}
    assert one(FunctionMessage("3", name="add")) == {"role": "tool", "content": "3", "name": "add"}
    assert one(ChatMessage("3", role="function", name="add")) == {"role": "tool", "content": "3", "name": "add"}


def test_calls_that_say_the_same_are_two_if_their_ids_differ() -> None:
    twice = [{"type": "tool_use", "id": name, "name": "add", "input": {"a": 1}} for name in ("c1", "c9")]
    assert [call["id"] for call in one(AIMessage(twice))["tool_calls"]] == ["c1", "c9"]
    assert [call["id"] for call in one(AIMessage(twice, tool_calls=[CALL]))["tool_calls"]] == ["c1", "c9"]


def test_a_malformed_call_in_a_block_is_said_once_as_text() -> None:
    broken = {"name": "add", "args": '{"a": ', "id": "c1", "error": "e", "type": "invalid_tool_call"}
    block = {"type": "tool_use", "id": "c1", "name": "add", "input": '{"a": '}
    for content in (
        [block],
        [broken],
        [{"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": '}],
    ):
        assert one(AIMessage(content, invalid_tool_calls=[broken])) == {"role": "assistant", "content": '{"a": '}
    assert one(AIMessage([broken])) == {"role": "assistant", "content": '{"a": '}
    assert one(AIMessage([{"type": "tool_use", "id": "c1", "input": {"a": 1}}]))["content"] == '{"a": 1}'


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "audio", "video", "file", "document"])
def test_pictures_sound_and_files_are_refused_in_every_turn(kind: str) -> None:
    block = {"type": kind, "data": "..."}
    for message in (HumanMessage([SAID, block]), AIMessage([SAID, block]), ToolMessage([block], tool_call_id="c1")):
        with pytest.raises(UsageError, match=repr(kind)):
            one(message)


@pytest.mark.parametrize("kind", ["reasoning", "tool_use", "executable_code", "server_tool_use", "anything"])
def test_what_a_person_sends_is_never_left_out(kind: str) -> None:
    with pytest.raises(UsageError, match=repr(kind)):
        one(HumanMessage([SAID, {"type": kind, "data": "..."}]))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_the_thread_goes_on(provider: str, make_chat: MakeChat) -> None:
    seen: list[str] = []

    def reply(prompt: str) -> str:
        seen.append(prompt)
        return "Going on."

    llm = make_chat(reply)
    thread = [
        HumanMessage("Add."),
        AIMessage(PROVIDERS[provider], tool_calls=[CALL]),
        ToolMessage("1", tool_call_id="c1"),
        AIMessage([*PROVIDERS[provider][:-1]]),
        HumanMessage("And now?"),
    ]
    assert llm.invoke(thread).content == "Going on."
    assert "".join(str(piece.content) for piece in llm.stream(thread)) == "Going on."
    assert (await llm.ainvoke(thread)).content == "Going on."
    shown = turns(max(seen, key=len))
    assert [role for role, _ in shown][-5:] == ["user", "assistant", "tool", "assistant", "user"]
    assert shown[-4][1].count('"add"') == 1
    assert shown[-2][1].strip() == "Yes."
    assert "cipher" not in str(shown) and "sig" not in str(shown)


def test_prefix_false_asks_for_a_new_turn(make_chat: MakeChat) -> None:
    seen: list[str] = []

    def reply(prompt: str) -> str:
        seen.append(prompt)
        return "new"

    llm = make_chat(reply)
    ask = [HumanMessage("Write."), AIMessage("Once upon a time", additional_kwargs={"prefix": False})]
    assert conversation(ask)[1] == {"role": "assistant", "content": "Once upon a time", "prefix": False}
    assert llm.invoke(ask).content == "new"
    assert all(prompt.endswith("Once upon a time<|im_end|>\n<|im_start|>assistant\n") for prompt in seen)
    for given in ("no", 0, "False"):
        with pytest.raises(UsageError, match="prefix"):
            llm.invoke([ask[0], AIMessage("x", additional_kwargs={"prefix": given})])
    begun = [ask[0], AIMessage("ne", additional_kwargs={"prefix": True})]
    with pytest.raises(PolicyError, match="begun"):
        llm.invoke(begun)
    assert ChatACD.from_lm(llm.lm, policy=Policy(begun_replies=True)).invoke(begun).content == "w"
