"""LangChain's agents over the published families: what their models write becomes calls, texts and thoughts, and what
agents send comes back to the model whole, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError, ToolStrategy
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from acd_core.errors import RefusalError, TemplateError
from acd_integrations.langchain import ChatACD
from tests.templates import published
from tests.templates.playing import (
    FAMILIES,
    PARALLEL,
    REFUSAL,
    THINKING,
    THOUGHT,
    WITH_TOOLS,
    Said,
    Seen,
    call_text,
    guide,
)
from tests.templates.playing_langchain import (
    OSLO,
    REPORT,
    ROME,
    TOOLS,
    Play,
    Report,
    answers,
    asked,
    called,
    foreign,
    get_weather,
    rounds,
    stage,
)

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)


@pytest.fixture
def play() -> Iterator[Play]:
    with stage() as start:
        yield start


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_one_call_then_an_answer(play: Play, family: str) -> None:
    llm, it = play(family)
    agent: Any = create_agent(llm, TOOLS, system_prompt="Be brief.")
    messages = agent.invoke(asked("How is Oslo"))["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai"]
    assert called(messages) == [("get_weather", OSLO)]
    assert [message.content for message in messages[1:]] == ["", "sunny in Oslo", "So: sunny in Oslo"]
    assert messages[2].tool_call_id == messages[1].tool_calls[0]["id"]
    for message in answers(messages):
        assert message.additional_kwargs.get("reasoning_content") == (THOUGHT if family in THINKING else None)
        assert not message.invalid_tool_calls
    assert [m.response_metadata["finish_reason"] for m in answers(messages)] == ["tool_calls", "stop"]
    assert it.last.turns == [("user", "How is Oslo"), *rounds(family, ("get_weather", OSLO, "sunny in Oslo"))]
    assert it.last.tools == ["get_weather", "get_time"]
    assert "Be brief." in it.last.prompt and len(it.asked) == 2


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_two_calls(play: Play, family: str) -> None:
    llm, it = play(family)
    agent: Any = create_agent(llm, TOOLS)
    messages = (await agent.ainvoke(asked("What about Rome")))["messages"]
    kinds = ["ai", "tool", "tool"] if family in PARALLEL else ["ai", "tool", "ai", "tool"]
    assert [message.type for message in messages] == ["human", *kinds, "ai"]
    assert called(messages) == [("get_weather", ROME), ("get_time", ROME)]
    assert messages[-1].content == "So: sunny in Rome; noon in Rome"
    ids = [call["id"] for message in answers(messages) for call in message.tool_calls]
    assert [m.tool_call_id for m in messages if isinstance(m, ToolMessage)] == ids and len(set(ids)) == 2
    pairs = ("get_weather", ROME, "sunny in Rome"), ("get_time", ROME, "noon in Rome")
    assert it.last.turns == [("user", "What about Rome"), *rounds(family, *pairs)]


@pytest.mark.parametrize("family", THINKING)
def test_words_before_a_call(play: Play, family: str) -> None:
    """They are text of the turn that calls, and the model reads them again where its template shows them."""

    def script(seen: Seen) -> Said:
        said = guide(seen)
        return Said("Let me look.", said.calls) if said.calls else said

    llm, it = play(family, script)
    agent: Any = create_agent(llm, TOOLS)
    messages = agent.invoke(asked("How is Oslo"))["messages"]
    assert [message.content for message in messages[1:]] == ["Let me look.", "sunny in Oslo", "So: sunny in Oslo"]
    assert called(messages) == [("get_weather", OSLO)]
    assert messages[1].additional_kwargs["reasoning_content"] == THOUGHT
    kept = [text for kind, text in it.last.turns if kind in ("assistant", "thought")]
    assert "Let me look." in " ".join(kept) and it.last.since("result") == ["sunny in Oslo"]


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_result_returned_directly_and_a_second_turn(play: Play, family: str) -> None:
    @tool(return_direct=True)
    def look_up(word: str) -> str:
        """Looks a word up."""
        return f"{word} is a bird"

    def script(seen: Seen) -> Said:
        if seen.asked == "Look up kiwi" and not seen.since("call"):
            return Said(calls=(("look_up", {"word": "kiwi"}),))
        return guide(seen)

    llm, it = play(family, script)
    agent: Any = create_agent(llm, [look_up], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    first = agent.invoke(asked("Look up kiwi"), thread)["messages"]
    assert [message.type for message in first] == ["human", "ai", "tool"] and first[-1].content == "kiwi is a bird"
    second = agent.invoke(asked("And then"), thread)["messages"]
    assert second[-1].content == "You said 2 things."
    turns = it.last.turns
    assert turns[0] == ("user", "Look up kiwi") and turns[-1] == ("user", "And then")
    between = [turn for turn in turns[1:-1] if turn[0] != "thought"]
    assert between[:2] == [("call", call_text("look_up", {"word": "kiwi"})), ("result", "kiwi is a bird")]
    # a template that wants an assistant between a result and a user gets the result as the answer that it was
    assert between[2:] in ([], [("assistant", "kiwi is a bird")])


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_conversation_goes_on_from_a_checkpoint(play: Play, family: str) -> None:
    llm, it = play(family)
    saver, thread = InMemorySaver(), {"configurable": {"thread_id": "1"}}
    first: Any = create_agent(llm, TOOLS, checkpointer=saver)
    first.invoke(asked("How is Oslo"), thread)
    again: Any = create_agent(ChatACD.from_lm(it.lm), TOOLS, checkpointer=saver)
    assert len(again.get_state(thread).values["messages"]) == 4
    messages = again.invoke(asked("How is Rome"), thread)["messages"]
    assert called(messages) == [("get_weather", OSLO), ("get_weather", ROME)]
    assert messages[-1].content == "So: sunny in Rome"
    assert it.last.turns == [
        ("user", "How is Oslo"),
        *rounds(family, ("get_weather", OSLO, "sunny in Oslo"), thinks=False),  # thoughts of earlier turns are dropped
        ("assistant", "So: sunny in Oslo"),
        ("user", "How is Rome"),
        *rounds(family, ("get_weather", ROME, "sunny in Rome")),
    ]


# -- structured answers -----------------------------------------------------------------------------------------------


def reporter(seen: Seen) -> Said:
    """Asks get_weather, then writes the report: as a call where that is offered, else as JSON."""
    if "FORBIDDEN" in seen.asked:
        return Said(REFUSAL)
    if "get_weather" in seen.tools and not seen.since("result"):
        return Said(calls=(("get_weather", OSLO),))
    if "Report" in seen.tools:
        return Said(calls=(("Report", REPORT.model_dump()),))
    return Said(json.dumps(REPORT.model_dump()))


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        ("qwen3", ToolStrategy),
        ("llama3.1", ToolStrategy),
        ("mistral-v0.3", ToolStrategy),
        ("gpt-oss", ToolStrategy),
        ("qwen3", ProviderStrategy),
        ("llama3.1", ProviderStrategy),
        ("mistral-v0.3", ProviderStrategy),
        ("gpt-oss", ProviderStrategy),
    ],
)
def test_a_structured_answer_after_a_call(play: Play, family: str, strategy: Any) -> None:
    llm, it = play(family, reporter)
    agent: Any = create_agent(llm, [get_weather], response_format=strategy(Report))
    state = agent.invoke(asked("How is Oslo"), {"recursion_limit": 8})
    assert state.get("structured_response") == REPORT
    calls = [("get_weather", OSLO), *([("Report", REPORT.model_dump())] if strategy is ToolStrategy else [])]
    assert called(state["messages"]) == calls
    assert it.last.turns == [("user", "How is Oslo"), *rounds(family, ("get_weather", OSLO, "sunny in Oslo"))]
    reasoning = [message.additional_kwargs.get("reasoning_content") for message in answers(state["messages"])]
    assert reasoning == [THOUGHT if family in THINKING else None] * 2
    if strategy is ProviderStrategy:
        assert Report.model_validate_json(state["messages"][-1].content) == REPORT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_structured_answer_without_tools(play: Play, family: str) -> None:
    llm, it = play(family, reporter)
    for response_format in (Report, ProviderStrategy(Report)):
        agent: Any = create_agent(llm, [], response_format=response_format)
        assert agent.invoke(asked("How is Oslo"))["structured_response"] == REPORT
    assert it.last.turns == [("user", "How is Oslo")]
    assert llm.with_structured_output(Report).invoke("How is Oslo") == REPORT


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_structured_answer_as_a_call(play: Play, family: str) -> None:
    llm, _ = play(family, reporter)
    assert llm.with_structured_output(Report, method="function_calling").invoke("How is Oslo") == REPORT


@pytest.mark.parametrize("family", FAMILIES)
def test_a_refusal_is_never_a_call_nor_a_report(play: Play, family: str) -> None:
    llm, _ = play(family, reporter)
    provided: Any = create_agent(llm, [], response_format=ProviderStrategy(Report))
    with pytest.raises(StructuredOutputValidationError) as told:
        provided.invoke(asked("FORBIDDEN"))
    assert (told.value.ai_message.content, told.value.ai_message.additional_kwargs["refusal"]) == (REFUSAL, REFUSAL)
    with pytest.raises(RefusalError) as refused:
        llm.with_structured_output(Report).invoke("FORBIDDEN")
    assert refused.value.refusal == REFUSAL
    if family not in WITH_TOOLS:
        return
    forced = llm.bind_tools(TOOLS, tool_choice="any").invoke("FORBIDDEN")
    assert isinstance(forced, AIMessage)
    assert (forced.content, forced.tool_calls, forced.additional_kwargs["refusal"]) == (REFUSAL, [], REFUSAL)
    assert forced.additional_kwargs.get("reasoning_content") == (THOUGHT if family in THINKING else None)
    with pytest.raises(RefusalError):
        llm.with_structured_output(Report, method="function_calling").invoke("FORBIDDEN")
    agent: Any = create_agent(llm, [get_weather], response_format=ToolStrategy(Report))
    state = agent.invoke(asked("FORBIDDEN"))  # forced to call something
    assert state["messages"][-1].content == REFUSAL
    assert state.get("structured_response") is None and called(state["messages"]) == []


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_streamed_messages_and_events(play: Play, family: str) -> None:
    llm, _ = play(family)
    agent: Any = create_agent(llm, TOOLS)
    kinds: list[str] = []
    text = reasoning = ""
    pieces: list[Any] = []
    async for event in agent.astream_events(asked("How is Oslo"), version="v2"):
        kinds.append(event["event"])
        if event["event"] == "on_chat_model_stream":
            piece = event["data"]["chunk"]
            text += piece.content
            reasoning += piece.additional_kwargs.get("reasoning_content", "")
            pieces += piece.tool_call_chunks
    assert text == "So: sunny in Oslo"
    assert reasoning == (THOUGHT * 2 if family in THINKING else "")
    assert [(piece["name"], json.loads(piece["args"])) for piece in pieces] == [("get_weather", OSLO)]
    assert (kinds.count("on_chat_model_end"), kinds.count("on_tool_start"), kinds.count("on_tool_end")) == (2, 1, 1)
    streamed = [message for message, _ in agent.stream(asked("How is Oslo"), stream_mode="messages")]
    chunks = [message for message in streamed if isinstance(message, AIMessageChunk)]
    assert "".join(str(chunk.content) for chunk in chunks) == "So: sunny in Oslo"
    assert [message.content for message in streamed if isinstance(message, ToolMessage)] == ["sunny in Oslo"]


# -- a family whose template shows no tools ---------------------------------------------------------------------------


def test_gemma3_says_that_it_shows_no_tools(play: Play) -> None:
    llm, it = play("gemma3")
    agents: list[Any] = [create_agent(llm, TOOLS), create_agent(llm, [], response_format=ToolStrategy(Report))]
    for ask in (
        lambda: llm.bind_tools(TOOLS),
        lambda: agents[0].invoke(asked("How is Oslo")),
        lambda: agents[1].invoke(asked("How is Oslo")),
        lambda: llm.with_structured_output(Report, method="function_calling"),
    ):
        with pytest.raises(TemplateError, match="'gemma3' ignores tools"):
            ask()
    assert not it.asked
    assert not llm.profile or not llm.profile.get("tool_calling")


def test_gemma3_in_a_chain_and_an_agent_without_tools(play: Play) -> None:
    llm, it = play("gemma3")
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{it}")]) | llm | StrOutputParser()
    assert chain.invoke({"it": "Hello"}) == "".join(chain.stream({"it": "Hello"})) == "You said 1 things."
    assert "Be brief." in it.last.prompt
    agent: Any = create_agent(llm, [], checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "1"}}
    for count in (1, 2):
        assert agent.invoke(asked(f"Word {count}"), thread)["messages"][-1].content == f"You said {count} things."
    assert it.last.turns == [("user", "Word 1"), ("assistant", "You said 1 things."), ("user", "Word 2")]
    # Welcomed by the assistant, and a thread that another model began with calls: in words, none of them lost.
    assert llm.invoke([AIMessage("Welcome."), HumanMessage("Hello")]).content == "You said 2 things."
    assert it.last.turns == [("user", "Hello."), ("assistant", "Welcome."), ("user", "Hello")]
    llm.invoke([*foreign([0, 1]), HumanMessage("And then")])
    for text in ("get_weather", "get_time", "sunny in Oslo", "noon in Oslo", "What about Oslo", "And then"):
        assert text in it.last.prompt
