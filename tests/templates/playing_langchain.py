"""What the tests of LangChain's agents over played families share: tools, a model to play with, histories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from acd_integrations.langchain import ChatACD
from tests.templates.playing import PARALLEL, THINKING, THOUGHT, TIME, WEATHER, Played, Script, call_text, guide, played

Play = Callable[..., tuple[ChatACD, Played]]
OSLO, ROME = {"city": "Oslo"}, {"city": "Rome"}
LONG_IDS = ("call_aZ3kQ9xWm2Lr8TnYb5VcD1eF", "call_0Hs7GjUoPq4iEwXz6RvKtMyN")
"""As OpenAI gives them."""


class Report(BaseModel):
    """Weather of a city."""

    city: str
    sky: str


REPORT = Report(city="Oslo", sky="sunny")


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return WEATHER.format(city)


@tool
def get_time(city: str) -> str:
    """Time in a city."""
    return TIME.format(city)


TOOLS = [get_weather, get_time]


@contextmanager
def stage() -> Iterator[Play]:
    """Gives play(family, script): a ChatACD over a model that plays the family, and what that model read."""
    with ExitStack() as stack:

        def play(family: str, script: Script = guide) -> tuple[ChatACD, Played]:
            it = stack.enter_context(played(family, script))
            return ChatACD.from_lm(it.lm), it

        yield play


def asked(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def thoughts(family: str) -> list[tuple[str, str]]:
    """The turn that stands before a call in the same round of tools, where the family's template keeps thoughts."""
    return [("thought", THOUGHT)] if family in THINKING else []


def called(messages: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for m in messages if isinstance(m, AIMessage) for call in m.tool_calls]


def answers(messages: list[Any]) -> list[AIMessage]:
    return [message for message in messages if isinstance(message, AIMessage)]


def rounds(family: str, *pairs: tuple[str, dict[str, Any], str], thinks: bool = True) -> list[tuple[str, str]]:
    """Calls and their results as the family's history has them: together, or one by one."""
    thought = thoughts(family) if thinks else []
    calls = [("call", call_text(name, arguments)) for name, arguments, _ in pairs]
    results = [("result", result) for _, _, result in pairs]
    if family in PARALLEL:
        return [*thought, *calls, *results]
    return [turn for call, result in zip(calls, results) for turn in (*thought, call, result)]


def foreign(results: list[int]) -> list[Any]:
    """A thread that another model began: two calls at once under long ids, the results in the order given."""
    calls = [{"name": name, "args": OSLO, "id": each} for name, each in zip(("get_weather", "get_time"), LONG_IDS)]
    told = [ToolMessage(text.format("Oslo"), tool_call_id=each) for text, each in zip((WEATHER, TIME), LONG_IDS)]
    asking = AIMessage("", tool_calls=calls)
    return [SystemMessage("Be brief."), HumanMessage("What about Oslo"), asking, *(told[at] for at in results)]
