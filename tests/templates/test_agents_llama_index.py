"""LlamaIndex's agents over the published families: what their models write becomes calls, texts and thoughts, and what
agents and memories send comes back to the model whole, turn by turn."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.base.llms.types import ThinkingBlock, ToolCallBlock
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from acd_core.errors import RefusalError, TemplateError
from acd_integrations.llama_index import ACDLLM
from tests.templates import published
from tests.templates.playing import (
    FAMILIES,
    PARALLEL,
    REFUSAL,
    THINKING,
    THOUGHT,
    TIME,
    WEATHER,
    WITH_TOOLS,
    Played,
    Said,
    Script,
    Seen,
    call_text,
    guide,
    played,
)

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)

Play = Callable[..., tuple[ACDLLM, Played]]
OSLO, ROME = {"city": "Oslo"}, {"city": "Rome"}
LONG_IDS = ("call_aZ3kQ9xWm2Lr8TnYb5VcD1eF", "call_0Hs7GjUoPq4iEwXz6RvKtMyN")  # as OpenAI gives them


class Report(BaseModel):
    """Weather of a city."""

    city: str
    sky: str


REPORT = Report(city="Oslo", sky="sunny")


def get_weather(city: str) -> str:
    """Weather in a city."""
    return WEATHER.format(city)


def get_time(city: str) -> str:
    """Time in a city."""
    return TIME.format(city)


TOOLS: list[Any] = [FunctionTool.from_defaults(get_weather), FunctionTool.from_defaults(get_time)]


@pytest.fixture
def play() -> Iterator[Play]:
    """play(family, script): an ACDLLM over a model that plays the family, and what that model read."""
    with ExitStack() as stack:

        def start(family: str, script: Script = guide) -> tuple[ACDLLM, Played]:
            it = stack.enter_context(played(family, script))
            return ACDLLM.from_lm(it.lm), it

        yield start


def memory_of(llm: ACDLLM) -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=llm.token_ids)


def spoken(seen: Seen) -> list[tuple[str, str]]:
    """The turns but for thoughts, which this adapter does not send back."""
    return [turn for turn in seen.turns if turn[0] != "thought"]


def rounds(family: str, *pairs: tuple[str, dict[str, Any], str]) -> list[tuple[str, str]]:
    """Calls and their results as the family's history has them: together, or one by one."""
    calls = [("call", call_text(name, arguments)) for name, arguments, _ in pairs]
    results = [("result", result) for _, _, result in pairs]
    if family in PARALLEL:
        return [*calls, *results]
    return [turn for pair in zip(calls, results) for turn in pair]


async def run(agent: Any, asked: str, **more: Any) -> tuple[Any, list[tuple[str, dict[str, Any], str]], str, str]:
    """-> (the result, the tools called with arguments and output, the text streamed, the thoughts streamed)."""
    handler = agent.run(asked, **more)
    used, text, thoughts = [], "", ""
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            used.append((event.tool_name, event.tool_kwargs, str(event.tool_output.content)))
        if isinstance(event, AgentStream):
            text += event.delta
            thoughts += event.thinking_delta or ""
    return await handler, used, text, thoughts


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_two_turns_over_one_memory(play: Play, family: str) -> None:
    llm, it = play(family)
    agent = FunctionAgent(tools=TOOLS, llm=llm, system_prompt="Be brief.")
    memory = memory_of(llm)
    result, used, text, thoughts = await run(agent, "How is Oslo", memory=memory)
    weather = ("get_weather", OSLO, "sunny in Oslo")
    assert used == [weather]
    assert str(result) == text == "So: sunny in Oslo"
    assert thoughts == (THOUGHT * 2 if family in THINKING else "")
    assert [b.content for b in result.response.blocks if isinstance(b, ThinkingBlock)] == (
        [THOUGHT] if family in THINKING else []
    )
    assert spoken(it.last) == [("user", "How is Oslo"), *rounds(family, weather)]
    assert it.last.tools == ["get_weather", "get_time"] and "Be brief." in it.last.prompt
    result, used, text, _ = await run(agent, "What about Rome", memory=memory)
    pairs = ("get_weather", ROME, "sunny in Rome"), ("get_time", ROME, "noon in Rome")
    assert used == [*pairs]
    assert str(result) == text == "So: sunny in Rome; noon in Rome"
    assert spoken(it.last) == [
        ("user", "How is Oslo"),
        *rounds(family, weather),
        ("assistant", "So: sunny in Oslo"),
        ("user", "What about Rome"),
        *rounds(family, *pairs),
    ]
    asking = [message for message in memory.get_all() if any(isinstance(b, ToolCallBlock) for b in message.blocks)]
    assert len(asking) == (2 if family in PARALLEL else 3) and not any(message.content for message in asking)


@pytest.mark.parametrize("family", PARALLEL)
async def test_results_that_come_in_another_order_than_their_calls(play: Play, family: str) -> None:
    """The workflow hands results on as they come in: the model must not take one for the other."""
    late = asyncio.Event()

    async def get_weather(city: str) -> str:
        """Weather in a city."""
        await late.wait()
        return WEATHER.format(city)

    async def get_time(city: str) -> str:
        """Time in a city."""
        asyncio.get_running_loop().call_later(0.05, late.set)
        return TIME.format(city)

    llm, it = play(family)
    tools: list[Any] = [FunctionTool.from_defaults(async_fn=get_weather), FunctionTool.from_defaults(async_fn=get_time)]
    result, used, _, _ = await run(FunctionAgent(tools=tools, llm=llm), "What about Rome")
    assert [name for name, _, _ in used] == ["get_time", "get_weather"]
    assert str(result) == "So: sunny in Rome; noon in Rome"
    pairs = ("get_weather", ROME, "sunny in Rome"), ("get_time", ROME, "noon in Rome")
    assert spoken(it.last) == [("user", "What about Rome"), *rounds(family, *pairs)]


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_a_result_returned_directly_and_a_second_turn(play: Play, family: str) -> None:
    def look_up(word: str) -> str:
        """Looks a word up."""
        return f"{word} is a bird"

    def script(seen: Seen) -> Said:
        if seen.asked == "Look up kiwi" and not seen.since("call"):
            return Said(calls=(("look_up", {"word": "kiwi"}),))
        return guide(seen)

    llm, it = play(family, script)
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(look_up, return_direct=True)], llm=llm)
    memory = memory_of(llm)
    result, used, _, _ = await run(agent, "Look up kiwi", memory=memory)
    assert str(result) == "kiwi is a bird" and used == [("look_up", {"word": "kiwi"}, "kiwi is a bird")]
    assert len(it.asked) == 1
    result, _, _, _ = await run(agent, "And then", memory=memory)
    assert str(result) == "You said 2 things."
    assert spoken(it.last) == [
        ("user", "Look up kiwi"),
        ("call", call_text("look_up", {"word": "kiwi"})),
        ("result", "kiwi is a bird"),
        ("assistant", "kiwi is a bird"),  # the workflow itself adds it
        ("user", "And then"),
    ]


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_a_workflow_that_hands_over(play: Play, family: str) -> None:
    def script(seen: Seen) -> Said:
        if "You lead." in seen.prompt:
            return Said(calls=(("handoff", {"to_agent": "weather", "reason": "It knows."}),))
        said = guide(seen)
        return said if said.calls else Said(f"So: {seen.since('result')[-1]}")

    llm, it = play(family, script)
    lead = FunctionAgent(name="lead", description="Leads.", system_prompt="You lead.", llm=llm)
    weather = FunctionAgent(
        name="weather", description="Knows the weather.", system_prompt="You know.", tools=TOOLS, llm=llm,
        can_handoff_to=[],
    )  # fmt: skip
    result, used, text, _ = await run(AgentWorkflow(agents=[lead, weather], root_agent="lead"), "How is Oslo")
    assert [(name, kwargs) for name, kwargs, _ in used] == [
        ("handoff", {"to_agent": "weather", "reason": "It knows."}),
        ("get_weather", OSLO),
    ]
    assert result.current_agent_name == "weather"
    assert str(result) == text == "So: sunny in Oslo"
    told = used[0][2].strip()
    assert "It knows." in told
    turns = spoken(it.last)
    assert [(kind, text.strip()) for kind, text in turns] == [
        ("user", "How is Oslo"),
        ("call", call_text("handoff", {"to_agent": "weather", "reason": "It knows."})),
        ("result", told),
        ("call", call_text("get_weather", OSLO)),
        ("result", "sunny in Oslo"),
    ]
    assert it.asked[0].tools == ["handoff"] and it.last.tools == ["get_weather", "get_time"]
    assert "You know." in it.last.prompt and "You lead." not in it.last.prompt


# -- histories from elsewhere -----------------------------------------------------------------------------------------


def foreign(results: list[int]) -> list[ChatMessage]:
    """A thread that another model began: two calls at once under long ids, the results in the order given."""
    calls = [
        ToolCallBlock(tool_call_id=each, tool_name=name, tool_kwargs=OSLO)
        for name, each in zip(("get_weather", "get_time"), LONG_IDS)
    ]
    told = [
        ChatMessage(role="tool", content=text.format("Oslo"), additional_kwargs={"tool_call_id": each})
        for text, each in zip((WEATHER, TIME), LONG_IDS)
    ]
    asking = ChatMessage(role="assistant", blocks=calls)
    return [ChatMessage(role="user", content="What about Oslo"), asking, *(told[at] for at in results)]


@pytest.mark.parametrize(
    ("family", "results"),
    [
        *((family, [0, 1]) for family in WITH_TOOLS),
        *((f, [1, 0]) for f in WITH_TOOLS),
    ],
)
async def test_long_ids_and_parallel_calls_of_another_model(play: Play, family: str, results: list[int]) -> None:
    llm, it = play(family)
    answer = ChatMessage(role="assistant", content="So: sunny in Oslo; noon in Oslo")
    agent = FunctionAgent(tools=TOOLS, llm=llm)
    result, _, _, _ = await run(agent, "How is Rome", chat_history=[*foreign(results), answer])
    assert str(result) == "So: sunny in Rome"
    assert spoken(it.last) == [
        ("user", "What about Oslo"),
        *rounds(family, ("get_weather", OSLO, "sunny in Oslo"), ("get_time", OSLO, "noon in Oslo")),
        ("assistant", "So: sunny in Oslo; noon in Oslo"),
        ("user", "How is Rome"),
        *rounds(family, ("get_weather", ROME, "sunny in Rome")),
    ]


# -- structured answers, refusals -------------------------------------------------------------------------------------


def reporter(seen: Seen) -> Said:
    if "FORBIDDEN" in seen.prompt:
        return Said(REFUSAL)
    return Said(json.dumps(REPORT.model_dump())) if not seen.tools else guide(seen)


@pytest.mark.parametrize("family", FAMILIES)
async def test_structured_predictions(play: Play, family: str) -> None:
    llm, it = play(family, reporter)
    prompt = PromptTemplate("How is {place}")
    assert llm.structured_predict(Report, prompt, place="Oslo") == REPORT
    assert it.last.turns == [("user", "How is Oslo")]
    assert await llm.astructured_predict(Report, prompt, place="Oslo") == REPORT
    assert list(llm.stream_structured_predict(Report, prompt, place="Oslo"))[-1] == REPORT
    assert llm.as_structured_llm(Report).chat([ChatMessage(content="How is Oslo")]).raw == REPORT


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_an_agent_with_a_structured_answer(play: Play, family: str) -> None:
    llm, it = play(family, reporter)
    result, used, _, _ = await run(FunctionAgent(tools=TOOLS, llm=llm, output_cls=Report), "How is Oslo")
    assert used == [("get_weather", OSLO, "sunny in Oslo")]
    assert str(result) == "So: sunny in Oslo"
    assert result.get_pydantic_model(Report) == REPORT
    assert "So: sunny in Oslo" in it.last.prompt and not it.last.tools


@pytest.mark.parametrize("family", WITH_TOOLS)
async def test_a_forced_call(play: Play, family: str) -> None:
    llm, it = play(family)
    response = llm.chat_with_tools(TOOLS, "How is Oslo", tool_required=True)
    assert [(c.tool_name, c.tool_kwargs) for c in llm.get_tool_calls_from_response(response)] == [("get_weather", OSLO)]
    assert str(llm.predict_and_call(TOOLS, "How is Oslo", tool_required=True)) == "sunny in Oslo"
    agent = FunctionAgent(tools=TOOLS, llm=llm, initial_tool_choice="get_weather")
    result, used, text, _ = await run(agent, "How is Oslo")
    assert used == [("get_weather", OSLO, "sunny in Oslo")]
    assert str(result) == text == "So: sunny in Oslo"
    assert spoken(it.last) == [("user", "How is Oslo"), *rounds(family, *used)]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_refusal_is_never_a_call_nor_a_report(play: Play, family: str) -> None:
    llm, _ = play(family, reporter)
    prompt = PromptTemplate("FORBIDDEN")
    for predict in (
        lambda: llm.structured_predict(Report, prompt),
        lambda: list(llm.stream_structured_predict(Report, prompt)),
        lambda: llm.as_structured_llm(Report).chat([ChatMessage(content="FORBIDDEN")]),
    ):
        with pytest.raises(RefusalError) as refused:
            predict()
        assert refused.value.refusal == REFUSAL
    if family not in WITH_TOOLS:
        return
    response = llm.chat_with_tools(TOOLS, "FORBIDDEN", tool_required=True)
    assert response.message.content == REFUSAL
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(RefusalError):
        llm.get_tool_calls_from_response(response)
    with pytest.raises(RefusalError):
        llm.predict_and_call(TOOLS, "FORBIDDEN", tool_required=True)
    agent = FunctionAgent(tools=TOOLS, llm=llm, initial_tool_choice="get_weather")
    result, used, text, thoughts = await run(agent, "FORBIDDEN")
    assert (str(result), used, text) == (REFUSAL, [], REFUSAL)
    assert thoughts == (THOUGHT if family in THINKING else "")


# -- a family whose template shows no tools ---------------------------------------------------------------------------


async def test_gemma3_says_that_it_shows_no_tools(play: Play) -> None:
    llm, it = play("gemma3")
    assert not llm.metadata.is_function_calling_model
    with pytest.raises(ValueError, match="LLM must be a FunctionCallingLLM"):
        await run(FunctionAgent(tools=TOOLS, llm=llm), "How is Oslo")
    with pytest.raises(TemplateError, match="ignores tools"):
        llm.chat_with_tools(TOOLS, "How is Oslo")
    assert not it.asked


async def test_gemma3_in_a_chat_engine(play: Play) -> None:
    llm, it = play("gemma3")
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory_of(llm), system_prompt="Be brief.")
    assert str(engine.chat("Word 1")) == "You said 1 things."
    assert "".join(engine.stream_chat("Word 2").response_gen) == "You said 2 things."
    assert str(await engine.achat("Word 3")) == "You said 3 things."
    said = [("user", "Word 1"), ("assistant", "You said 1 things."), ("user", "Word 2")]
    assert it.last.turns == [*said, ("assistant", "You said 2 things."), ("user", "Word 3")]
    assert "Be brief." in it.last.prompt
    # A thread that another model began with calls: in words, none of them lost.
    llm.chat([*foreign([0, 1]), ChatMessage(content="And then")])
    for text in ("get_weather", "get_time", "sunny in Oslo", "noon in Oslo", "What about Oslo", "And then"):
        assert text in it.last.prompt


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_react_agent_needs_no_tools_in_the_template(play: Play, family: str) -> None:
    def script(seen: Seen) -> Said:
        observed = re.findall(r"Observation: (sunny[^<\n\[]*)", seen.prompt)
        if observed:
            return Said(f"Thought: I can answer.\nAnswer: So: {observed[-1]}")
        return Said(f"Thought: I need a tool.\nAction: get_weather\nAction Input: {json.dumps(OSLO)}")

    llm, it = play(family, script)
    result, used, _, _ = await run(ReActAgent(tools=TOOLS[:1], llm=llm), "How is Oslo")
    assert used == [("get_weather", OSLO, "sunny in Oslo")]
    assert str(result) == "So: sunny in Oslo"
    assert "How is Oslo" in it.last.prompt and not it.last.tools
