"""What callers send to the two adapters by mistake or on purpose: errors of ours, and no policy is weakened by it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import ConfigurableField
from llama_index.core.llms import ChatMessage

from acd_core import ContrastiveLM, Policy
from acd_core.errors import ACDError, PolicyError, UsageError
from acd_integrations.langchain import ChatACD
from acd_integrations.llama_index import ACDLLM
from tests.core.gated import gate, open_lm

HI = "hello"
TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
LOOP: dict[str, Any] = {}
LOOP["a"] = LOOP
DEEP: list[Any] = []
for _ in range(3000):
    DEEP = [DEEP]
ODD: list[Any] = [
    3,
    0.5,
    True,
    "x",
    b"x",
    [],
    [1],
    [None],
    ["a"],
    {},
    {"a": 1},
    {1: 2},
    {1, 2},
    LOOP,
    [LOOP],
    DEEP,
    len,
]
SECRET = "my door opens with 4711, I am away on Monday"


@pytest.fixture(scope="module")
def lm() -> Iterator[ContrastiveLM]:
    with open_lm(found=gate(0.5)) as found:
        yield found


@pytest.mark.parametrize(
    "changed", [{"pair": None}, {"gate_floor": 0.5}, {"model": "other"}, {"chat_template_kwargs": {}}], ids=str
)
def test_a_copy_keeps_what_it_was_made_of(changed: dict[str, Any]) -> None:
    made: dict[str, Any] = {"model": "reference", "pair": "reference", "chat_template_kwargs": {"guard": True}}
    locked = {**made, "policy": Policy(as_served=True), "max_tokens": 1}
    chat, llm = ChatACD(**locked), ACDLLM(**locked)
    assert chat.invoke(HI).response_metadata["acd"]["method"] == "acd"
    assert llm.complete(HI).raw["contrast"]["method"] == "acd"
    ((name, value),) = changed.items()
    choice = chat.configurable_fields(**{name: ConfigurableField(id="it")})
    for road in (
        lambda: chat.model_copy(update=changed).invoke(HI),
        lambda: choice.invoke(HI, config={"configurable": {"it": value}}),
        lambda: llm.model_copy(update=changed).complete(HI),
    ):
        with pytest.raises(PolicyError):
            road()


def test_a_copy_without_a_method_is_none() -> None:
    for policy in (Policy(as_served=True), Policy(max_plausibility=0.5), Policy(max_recheck=8)):
        llm = ACDLLM(model="reference", pair="reference", policy=policy, max_tokens=1)
        with pytest.raises(PolicyError):
            llm.model_copy(update={"method": "none"}).complete(HI)
        assert llm.model_copy(update={"seed": 3}).complete(HI).raw["contrast"]["method"] == "acd"


def test_what_is_no_pair_is_said_by_the_call() -> None:
    for made in (ChatACD, ACDLLM):
        with pytest.raises(ACDError):
            made(model="reference", pair=42, policy=Policy(as_served=True)).lm  # noqa: B018


def test_names_of_namespaces_do_not_run_together(lm: ContrastiveLM) -> None:
    asked = "the quick brown fox jumps over a lazy dog while data " * 4

    def cached(own: str, given: str | None) -> int:
        llm = ACDLLM.from_lm(lm, namespace=own, max_tokens=1)
        found: int = llm.complete(asked, namespace=given).raw["usage"]["cached_tokens"]
        return found

    cached("a", "b/c")
    assert cached("a", "b/c") > 20
    nothing = cached("other", None)  # but what stands in front of every prompt
    assert cached("a/b", "c") == cached("a/b/c", None) == nothing < 10


def test_a_cache_tells_namespaces_apart(lm: ContrastiveLM) -> None:
    one, other = (ChatACD.from_lm(lm, namespace=name)._get_llm_string() for name in ("one", "other"))
    assert one != other


@pytest.mark.parametrize("odd", ODD, ids=lambda each: type(each).__name__)
def test_odd_tools_and_choices(lm: ContrastiveLM, odd: Any) -> None:
    chat, llm = ChatACD.from_lm(lm, max_tokens=1), ACDLLM.from_lm(lm, max_tokens=1)
    shaped: Any = {**TOOL, "function": odd}
    for road in (
        lambda: chat.bind_tools(odd),
        lambda: chat.bind_tools([odd]),
        lambda: chat.bind_tools([TOOL], tool_choice=odd),
        lambda: chat.invoke(HI, tools=odd),
        lambda: chat.invoke(HI, contrast=odd),
        lambda: chat.invoke(HI, response_format=odd),
        lambda: chat.invoke(HI, model=odd),
        lambda: llm.chat_with_tools(odd, HI),
        lambda: llm.chat_with_tools([odd], HI),
        lambda: llm.chat_with_tools([shaped], HI),
        lambda: llm.chat_with_tools([TOOL], HI, tool_choice=odd),
        lambda: llm.chat_with_tools([TOOL], HI, tool_choice={"type": "function", "function": odd}),
    ):
        with contextlib.suppress(ACDError):
            road()


@pytest.mark.parametrize("odd", ODD, ids=lambda each: type(each).__name__)
def test_odd_fields_of_messages(lm: ContrastiveLM, odd: Any) -> None:
    chat, llm = ChatACD.from_lm(lm, max_tokens=1), ACDLLM.from_lm(lm, max_tokens=1)
    names = ("prefix", "tool_calls", "function_call", "invalid_tool_calls", "reasoning_content", "tool_call_id", "name")
    for name in names:
        more = {name: odd}
        for role in ("assistant", "tool"):
            turn = ChatMessage(role=role, content="b", additional_kwargs=more)
            with contextlib.suppress(ACDError):
                llm.chat([ChatMessage(role="user", content=HI), turn, ChatMessage(role="user", content=HI)])
        if name == "tool_calls":  # LangChain reads those itself
            continue
        with contextlib.suppress(ACDError):
            chat.invoke([HumanMessage(HI), AIMessage("b", additional_kwargs=more), HumanMessage(HI)])


@pytest.mark.parametrize(
    "call",
    [
        {"tool_choice": SECRET},
        {"tools": [TOOL], "tool_choice": SECRET},
        {"response_format": {"type": SECRET}},
        {"namespace": [SECRET]},
    ],
    ids=str,
)
def test_errors_do_not_quote_prompts(lm: ContrastiveLM, call: dict[str, Any]) -> None:
    for road in (
        lambda: lm.generate(HI, **call),
        lambda: ChatACD.from_lm(lm).invoke(HI, **call),
        lambda: ACDLLM.from_lm(lm).complete(HI, **call),
    ):
        with pytest.raises(ACDError) as caught:
            road()
        assert "4711" not in str(caught.value)


def test_a_role_is_no_place_for_a_prompt(lm: ContrastiveLM) -> None:
    with pytest.raises(UsageError, match="unknown role a str of") as caught:
        lm.generate([{"role": SECRET, "content": ""}])
    assert "4711" not in str(caught.value)
