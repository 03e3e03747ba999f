"""Several agents of LangChain over the published families, and threads that somebody else began: what they hand on to
each other comes to the model whole, turn by turn, and to whom it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import InjectedState
from langgraph.types import Command

from tests.templates import published
from tests.templates.playing import (
    PARALLEL,
    WITH_TOOLS,
    Said,
    Seen,
    call_text,
    guide,
)
from tests.templates.playing_langchain import (
    LONG_IDS,
    OSLO,
    ROME,
    TOOLS,
    Play,
    asked,
    called,
    foreign,
    get_time,
    get_weather,
    rounds,
    stage,
)

pytest.importorskip("llguidance")
pytestmark = pytest.mark.skipif(not published.names(), reason=published.ABSENT)

PLACES = (("weather", "Oslo"), ("time", "Rome"))


@pytest.fixture
def play() -> Iterator[Play]:
    with stage() as start:
        yield start


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_supervisor_whose_tools_are_agents(play: Play, family: str) -> None:
    def script(seen: Seen) -> Said:
        if "ask_weather" not in seen.tools:
            return guide(seen)
        both = [(f"ask_{kind}", {"question": f"How is it in {place}"}) for kind, place in PLACES]
        left = tuple(each for each in both if call_text(*each) not in seen.since("call"))
        if left:
            return Said(calls=left if family in PARALLEL else left[:1])
        return Said(" / ".join(seen.since("result")))

    llm, it = play(family, script)
    weather: Any = create_agent(llm, [get_weather], system_prompt="You know the weather.")
    time: Any = create_agent(llm, [get_time], system_prompt="You know the time.")

    @tool
    def ask_weather(question: str) -> str:
        """Asks who knows the weather."""
        return str(weather.invoke(asked(question))["messages"][-1].content)

    @tool
    def ask_time(question: str) -> str:
        """Asks who knows the time."""
        return str(time.invoke(asked(question))["messages"][-1].content)

    supervisor: Any = create_agent(llm, [ask_weather, ask_time], system_prompt="Ask the others.")
    messages = supervisor.invoke(asked("Tell me all"))["messages"]
    results = ["So: sunny in Oslo", "You said 1 things."]  # the second agent has no get_weather to call
    assert [message.content for message in messages if isinstance(message, ToolMessage)] == results
    assert messages[-1].content == " / ".join(results)
    questions = [{"question": f"How is it in {place}"} for _, place in PLACES]
    assert called(messages) == [("ask_weather", questions[0]), ("ask_time", questions[1])]
    assert it.last.turns == [
        ("user", "Tell me all"),
        *rounds(family, ("ask_weather", questions[0], results[0]), ("ask_time", questions[1], results[1])),
    ]
    inner = [seen for seen in it.asked if "You know the weather." in seen.prompt]
    assert inner[-1].turns == [
        ("user", "How is it in Oslo"),
        *rounds(family, ("get_weather", OSLO, "sunny in Oslo")),
    ]


def handoff(to: str) -> Any:
    """The usual tool that hands the whole conversation on, as langgraph-supervisor makes it."""

    @tool(f"transfer_to_{to}", description=f"Hands on to {to}.")
    def transfer(
        state: Annotated[dict[str, Any], InjectedState], tool_call_id: Annotated[str, InjectedToolCallId]
    ) -> Command[Any]:
        done = ToolMessage(f"Transferred to {to}", name=f"transfer_to_{to}", tool_call_id=tool_call_id)
        return Command(goto=to, graph=Command.PARENT, update={"messages": [*state["messages"], done]})

    return transfer


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_supervisor_that_hands_on_and_is_handed_back_to(play: Play, family: str) -> None:
    def script(seen: Seen) -> Said:
        if "transfer_to_weather" in seen.tools:
            if not seen.since("call"):
                return Said(calls=(("transfer_to_weather", {}),))
            return Said("All told.")
        return guide(seen)

    llm, it = play(family, script)
    supervisor: Any = create_agent(llm, [handoff("weather")], system_prompt="You lead.", name="supervisor")
    weather: Any = create_agent(llm, [get_weather], system_prompt="You know the weather.", name="weather")

    def ask_weather(state: MessagesState) -> dict[str, Any]:
        answer = weather.invoke(state)["messages"][-1]
        back = {"name": "transfer_back_to_supervisor", "args": {}, "id": LONG_IDS[0]}
        done = ToolMessage("Transferred back", name="transfer_back_to_supervisor", tool_call_id=LONG_IDS[0])
        return {"messages": [answer, AIMessage("Going back", tool_calls=[back], name="weather"), done]}

    builder = StateGraph(MessagesState)
    builder.add_node("supervisor", supervisor)
    builder.add_node("weather", ask_weather)
    builder.add_edge(START, "supervisor")
    builder.add_edge("weather", "supervisor")
    messages = builder.compile().invoke({"messages": [HumanMessage("How is Oslo")]})["messages"]
    assert messages[-1].content == "All told."
    told = "So: Transferred to weather; sunny in Oslo"
    assert told in [message.content for message in messages]
    handed = [("call", "transfer_to_weather {}"), ("result", "Transferred to weather")]
    inner = [seen for seen in it.asked if seen.tools == ["get_weather"]]
    assert [turn for turn in inner[0].turns if turn[0] != "thought"] == [("user", "How is Oslo"), *handed]
    whole = [turn for turn in it.last.turns if turn[0] != "thought"]
    assert [turn for turn in whole if turn != ("assistant", "Going back")] == [
        ("user", "How is Oslo"),
        *handed,
        ("assistant", told),
        ("call", "transfer_back_to_supervisor {}"),
        ("result", "Transferred back"),
    ]
    assert it.last.tools == ["transfer_to_weather"]


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_history_that_begins_with_a_greeting(play: Play, family: str, system: str | None) -> None:
    llm, it = play(family)
    agent: Any = create_agent(llm, TOOLS, system_prompt=system)
    begun = [AIMessage("Welcome. I am your guide."), HumanMessage("How is Oslo")]
    assert agent.invoke({"messages": begun})["messages"][-1].content == "So: sunny in Oslo"
    turns = it.last.turns
    assert ("assistant", "Welcome. I am your guide.") in turns
    at = turns.index(("assistant", "Welcome. I am your guide."))
    assert turns[:at] in ([], [("user", "Hello.")])
    assert turns[at + 1 :] == [("user", "How is Oslo"), *rounds(family, ("get_weather", OSLO, "sunny in Oslo"))]
    assert system is None or system in it.last.prompt


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_an_agent_that_is_handed_nothing_but_the_call_that_called_it(play: Play, family: str) -> None:
    llm, it = play(family)
    agent: Any = create_agent(llm, TOOLS, system_prompt="Be brief.")
    call = {"name": "transfer_to_weather", "args": {}, "id": LONG_IDS[0]}
    handed = [AIMessage("", tool_calls=[call]), ToolMessage("Tell of Oslo", tool_call_id=LONG_IDS[0])]
    assert agent.invoke({"messages": handed})["messages"][-1].content == "So: Tell of Oslo"
    assert it.last.turns[-2:] == [("call", "transfer_to_weather {}"), ("result", "Tell of Oslo")]
    assert it.last.turns[:-2] in ([], [("user", "Hello.")])
    assert "Be brief." in it.last.prompt


# -- histories from elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "results"),
    [
        *((family, [0, 1]) for family in WITH_TOOLS),
        *((f, [1, 0]) for f in WITH_TOOLS),
    ],
)
def test_long_ids_and_parallel_calls_of_another_model(play: Play, family: str, results: list[int]) -> None:
    """The results stand behind their calls in every family, also in those whose template shows no ids."""
    llm, it = play(family)
    agent: Any = create_agent(llm, TOOLS)
    pairs = ("get_weather", OSLO, "sunny in Oslo"), ("get_time", OSLO, "noon in Oslo")
    messages = agent.invoke({"messages": foreign(results)})["messages"]
    assert messages[-1].content == "So: sunny in Oslo; noon in Oslo"
    assert it.last.turns == [("user", "What about Oslo"), *rounds(family, *pairs, thinks=False)]
    more = agent.invoke({"messages": [*messages, HumanMessage("How is Rome")]})["messages"]
    assert more[-1].content == "So: sunny in Rome"
    assert it.last.turns == [
        ("user", "What about Oslo"),
        *rounds(family, *pairs, thinks=False),
        ("assistant", "So: sunny in Oslo; noon in Oslo"),
        ("user", "How is Rome"),
        *rounds(family, ("get_weather", ROME, "sunny in Rome")),
    ]
