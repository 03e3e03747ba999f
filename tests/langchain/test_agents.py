"""LangChain's agents run unchanged over ChatACD."""

import json
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import ConfigurableField, RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel

from tests.langchain.conftest import MakeChat
from tests.langchain.standard_script import LURE, call, offered, turns


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    if city == "Atlantis":
        raise ValueError("no such city")
    return f"sunny in {city}"


@tool
def get_time(city: str) -> str:
    """Time in a city."""
    return f"noon in {city}"


def reply(prompt: str) -> str:
    """Ask both tools about the city at the end of the question, then tell what they said."""
    said = turns(prompt)
    role, text = said[-1]
    if role == "tool":
        results = [text for role, text in said if role == "tool"]
        return "So: " + "; ".join(results[-2:])
    if "get_weather" not in offered(prompt):
        return f"You said {len([role for role, _ in said if role == 'user'])} things."
    city = {"city": text.split()[-1]}
    return f"Let me see.\n{call('get_weather', city)}\n{call('get_time', city)}"


async def test_create_agent_with_two_tools(make_chat: MakeChat) -> None:
    agent: Any = create_agent(make_chat(reply), [get_weather, get_time], system_prompt="Help.")
    ask = {"messages": [HumanMessage("What about Oslo")]}
    for state in (agent.invoke(ask), await agent.ainvoke(ask)):
        kinds = [message.type for message in state["messages"]]
        assert kinds == ["human", "ai", "tool", "tool", "ai"]
        assert state["messages"][-1].content == "So: sunny in Oslo; noon in Oslo"
        calls = state["messages"][1].tool_calls
        assert [message.tool_call_id for message in state["messages"][2:4]] == [call["id"] for call in calls]


async def test_an_agent_streams_tokens_and_calls(make_chat: MakeChat) -> None:
    agent: Any = create_agent(make_chat(reply), [get_weather, get_time])
    ask = {"messages": [HumanMessage("What about Oslo")]}
    streamed = [message async for message, _ in agent.astream(ask, stream_mode="messages")]
    chunks = [message for message in streamed if isinstance(message, AIMessageChunk)]
    assert "".join(str(chunk.content) for chunk in chunks) == "Let me see.So: sunny in Oslo; noon in Oslo"
    assert len([chunk for chunk in chunks if chunk.tool_call_chunks]) == 2
    assert len([message for message in streamed if isinstance(message, ToolMessage)]) == 2
    assert len(list(agent.stream(ask, stream_mode="updates"))) >= 3


def test_structured_answers_of_agents(make_chat: MakeChat) -> None:
    class Weather(BaseModel):
        """Weather of a city."""

        city: str
        sky: str

    value = {"city": "Oslo", "sky": "sunny"}
    agent: Any = create_agent(make_chat(json.dumps(value)), [], response_format=Weather)
    assert agent.invoke({"messages": [HumanMessage("Oslo")]})["structured_response"] == Weather(**value)


def test_a_graph_with_memory_and_alpha_per_call(make_chat: MakeChat) -> None:
    llm = make_chat(reply).configurable_fields(alpha=ConfigurableField(id="alpha"))

    def talk(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        return {"messages": [llm.invoke(state["messages"], config)]}

    builder = StateGraph(MessagesState)
    builder.add_node("talk", talk)
    builder.add_edge(START, "talk")
    graph: Any = builder.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1", "alpha": 0.4}}
    for count in (1, 2, 3):
        state = graph.invoke({"messages": [HumanMessage("hello")]}, config)
        assert state["messages"][-1].content == f"You said {count} things."
    off: RunnableConfig = {"configurable": {"thread_id": "2", "alpha": 0.0}}
    assert graph.invoke({"messages": [HumanMessage("hello")]}, off)["messages"][-1].content == LURE
