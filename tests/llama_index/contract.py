"""What a LlamaIndex LLM must do, as checks that take any LLM class. LlamaIndex has no such suite of its own.

Each check raises where the class falls short. `test_contract.py` runs them on ACDLLM; `compare.py` prints what ACDLLM
and the stock HuggingFaceLLM pass over the same weights.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import llama_index.core.instrumentation as instrument
from llama_index.core import PromptHelper, PromptTemplate, get_response_synthesizer
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import LLM, ChatMessage
from llama_index.core.program.utils import FlexibleModel
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

ASK = [ChatMessage(role="user", content="How do I plant a tree in the garden?")]
WEATHER = "What is the weather in Fenmoor?"  # an invented place: the bundled model copies those


@dataclass
class Subject:
    """A class under test, over one set of weights.

    make(max_tokens=...) builds an LLM; other settings go by the names in `names`. broken() builds one whose forward
    raises. forwards() counts forwards of the model so far. secret is a folder that must not be seen in events. window
    is the model's context. slow() builds one that takes at least a second for a long reply.
    """

    name: str
    make: Callable[..., LLM]
    broken: Callable[[], LLM]
    slow: Callable[[], LLM]
    forwards: Callable[[], int]
    secret: str
    window: int
    letters_per_token: int = 4
    names: dict[str, str] = field(default_factory=dict)

    def arguments(self, **settings: Any) -> dict[str, Any]:
        return {self.names.get(name, name): value for name, value in settings.items()}


class City(BaseModel):
    """A city and how many people live there."""

    name: str = Field(max_length=20)  # a small model would go on and on
    people: int = Field(ge=0, le=10**8)


def get_weather(location: str) -> str:
    """Get the current weather in a location."""
    return f"It is sunny in {location}."


# -- the same words from all eight methods -----------------------------------------------------------------------------


def parity_of_chat(subject: Subject) -> None:
    llm = subject.make(max_tokens=24)
    text = llm.chat(ASK).message.content
    assert text, "chat gave no text"
    assert list(llm.stream_chat(ASK))[-1].message.content == text, "stream_chat differs from chat"
    assert run(llm.achat(ASK)).message.content == text, "achat differs from chat"
    assert run(collected(llm.astream_chat(ASK)))[-1].message.content == text, "astream_chat differs from chat"


def parity_of_complete(subject: Subject) -> None:
    llm = subject.make(max_tokens=24)
    prompt = str(ASK[0].content)
    text = llm.complete(prompt).text
    assert text, "complete gave no text"
    assert list(llm.stream_complete(prompt))[-1].text == text, "stream_complete differs from complete"
    assert run(llm.acomplete(prompt)).text == text, "acomplete differs from complete"
    assert run(collected(llm.astream_complete(prompt)))[-1].text == text, "astream_complete differs from complete"


def delta_sums(subject: Subject) -> None:
    llm = subject.make(max_tokens=24)
    chats = [(r.delta, r.message.content) for r in llm.stream_chat(ASK)]
    chats_async = [(r.delta, r.message.content) for r in run(collected(llm.astream_chat(ASK)))]
    completions = [(r.delta, r.text) for r in llm.stream_complete("Tell me about trees.")]
    for name, pieces in (("stream_chat", chats), ("astream_chat", chats_async), ("stream_complete", completions)):
        so_far = ""
        for delta, text in pieces:
            so_far += delta or ""
            assert text == so_far, f"{name}: text is not the sum of the deltas"
        assert len(pieces) > 2 or "chat" not in name, f"{name} came in {len(pieces)} piece(s)"


# -- events and counts -------------------------------------------------------------------------------------------------


def events(subject: Subject) -> None:
    llm = subject.make(max_tokens=6)
    plans: list[tuple[str, Callable[[], Any], list[str]]] = [
        ("chat", lambda: llm.chat(ASK), ["LLMChatStartEvent", "LLMChatEndEvent"]),
        ("achat", lambda: run(llm.achat(ASK)), ["LLMChatStartEvent", "LLMChatEndEvent"]),
        ("stream_chat", lambda: list(llm.stream_chat(ASK)), ["LLMChatStartEvent", "LLMChatEndEvent"]),
        ("astream_chat", lambda: run(collected(llm.astream_chat(ASK))), ["LLMChatStartEvent", "LLMChatEndEvent"]),
        ("complete", lambda: llm.complete("Hi"), ["LLMCompletionStartEvent", "LLMCompletionEndEvent"]),
        ("acomplete", lambda: run(llm.acomplete("Hi")), ["LLMCompletionStartEvent", "LLMCompletionEndEvent"]),
        (
            "stream_complete",
            lambda: list(llm.stream_complete("Hi")),
            ["LLMCompletionStartEvent", "LLMCompletionEndEvent"],
        ),
    ]
    for name, call, wanted in plans:
        with heard() as seen:
            call()
        kinds = [type(event).__name__ for event in seen if type(event).__name__.startswith("LLM")]
        assert [kind for kind in kinds if "InProgress" not in kind] == wanted, f"{name}: {kinds}"
        assert ("stream" in name) == any("InProgress" in kind for kind in kinds), f"{name}: {kinds}"


def payload_without_paths(subject: Subject) -> None:
    llm = subject.make(max_tokens=4)
    with heard() as seen:
        response = llm.chat(ASK)
    for event in seen:
        if type(event).__name__ == "LLMChatStartEvent":
            assert subject.secret not in json.dumps(event.model_dump(), default=str), "a path in an event"
    assert subject.secret not in str(llm.to_payload()), "a path in to_payload"
    assert len(str(response.raw)) < 2000, "raw is large"
    json.dumps(response.raw)  # no tensor, nothing that a tracer cannot store


def counts(subject: Subject) -> None:
    llm = subject.make(max_tokens=8)
    whole = llm.chat(ASK)
    last = list(llm.stream_chat(ASK))[-1]
    completed = llm.complete("Hi")
    for name, response in (("chat", whole), ("stream_chat", last), ("complete", completed)):
        numbers = {**(response.raw or {}).get("usage", {}), **response.additional_kwargs}
        assert numbers.get("prompt_tokens", 0) > 0, f"{name} reports no prompt_tokens"
        assert 0 < numbers.get("completion_tokens", 0) <= 8, f"{name} reports no completion_tokens"
        assert numbers["total_tokens"] == numbers["prompt_tokens"] + numbers["completion_tokens"]
    counter = TokenCountingHandler(verbose=False)
    llm.callback_manager = CallbackManager([counter])
    llm.complete("Hi")
    assert len(counter.llm_token_counts) == 1, f"one call was counted {len(counter.llm_token_counts)} times"
    assert counter.prompt_llm_token_count == completed.additional_kwargs["prompt_tokens"], (
        "TokenCountingHandler estimates"
    )


# -- settings of one call ----------------------------------------------------------------------------------------------


def per_call_arguments(subject: Subject) -> None:
    llm = subject.make(max_tokens=24)
    text = llm.chat(ASK).message.content or ""
    short = llm.chat(ASK, **subject.arguments(max_tokens=2)).message.content or ""
    assert len(short) < len(text), "max_tokens per call is ignored by chat"
    assert text.startswith(short)
    streamed = list(llm.stream_chat(ASK, **subject.arguments(max_tokens=2)))[-1].message.content
    assert streamed == short, "max_tokens per call is ignored by stream_chat"
    assert run(llm.achat(ASK, **subject.arguments(max_tokens=2))).message.content == short
    draws = {llm.chat(ASK, temperature=50.0, seed=seed).message.content for seed in range(3)}
    assert len(draws) > 1, "temperature and seed per call are ignored"
    assert len({llm.chat(ASK, temperature=50.0, seed=7).message.content for _ in range(2)}) == 1


def unknown_argument_refused(subject: Subject) -> None:
    llm = subject.make(max_tokens=4)
    for call in (lambda: llm.chat(ASK, temprature=1.0), lambda: list(llm.stream_complete("Hi", no_such_setting=1))):
        try:
            call()
        except (TypeError, ValueError):
            continue
        raise AssertionError("an unknown setting was ignored in silence")


def stop_strings(subject: Subject) -> None:
    llm = subject.make(max_tokens=24)
    text = llm.chat(ASK).message.content or ""
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    wanted = text[: text.index(stop)]
    for name, got in (
        ("chat", llm.chat(ASK, stop=[stop]).message.content),
        ("stream_chat", list(llm.stream_chat(ASK, stop=[stop]))[-1].message.content),
        ("achat", run(llm.achat(ASK, stop=[stop])).message.content),
        ("astream_chat", run(collected(llm.astream_chat(ASK, stop=[stop])))[-1].message.content),
    ):
        assert got == wanted, f"{name} with stop={stop!r} gave {got!r} instead of {wanted!r}"


# -- errors, the event loop, cancellation ------------------------------------------------------------------------------


def errors_at_once(subject: Subject) -> None:
    llm = subject.broken()
    calls: dict[str, Callable[[], Any]] = {
        "chat": lambda: llm.chat(ASK),
        "stream_chat": lambda: list(llm.stream_chat(ASK)),
        "achat": lambda: run(llm.achat(ASK)),
        "astream_chat": lambda: run(collected(llm.astream_chat(ASK))),
    }
    for name, call in calls.items():
        outcome = within(3.0, call)
        assert outcome is not None, f"{name} hangs when the model fails"
        assert isinstance(outcome[0], Exception), f"{name} gave {outcome[0]!r} though the model failed"
        assert outcome[1] < 1.0, f"{name} took {outcome[1]:.1f} s to report the error"


def loop_never_blocked(subject: Subject) -> None:
    llm = subject.slow()

    async def ticking(work: Awaitable[Any]) -> tuple[int, float, float]:
        ticks, longest, running = 0, 0.0, True

        async def tick() -> None:
            nonlocal ticks, longest
            last = time.perf_counter()
            while running:
                await asyncio.sleep(0.005)
                now = time.perf_counter()
                ticks, longest, last = ticks + 1, max(longest, now - last), now

        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0.02)
        started = time.perf_counter()
        await work
        taken = time.perf_counter() - started
        running = False
        await ticker
        return ticks, longest, taken

    for name, make in (("achat", lambda: llm.achat(ASK)), ("astream_chat", lambda: collected(llm.astream_chat(ASK)))):
        ticks, longest, taken = run(ticking(make()))
        assert longest < max(0.15, taken / 4), f"{name}: the loop stood still for {longest:.2f} s of {taken:.2f} s"
        assert ticks > taken / 0.05, f"{name}: {ticks} ticks in {taken:.2f} s"


def cancellation_frees(subject: Subject) -> None:
    llm = subject.slow()

    def settles(name: str) -> None:
        """No forward may run once the answer is not wanted any more."""
        time.sleep(0.3)
        before = subject.forwards()
        time.sleep(0.3)
        assert subject.forwards() == before, f"{name}: the model goes on computing after the caller left"

    stream = llm.stream_chat(ASK)
    next(stream)
    stream.close()
    settles("closing stream_chat")

    async def cancelled() -> None:
        task = asyncio.create_task(_coroutine(llm.achat(ASK)))
        await asyncio.sleep(0.2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(cancelled())
    settles("cancelling achat")

    async def left() -> None:
        async for _ in await llm.astream_chat(ASK):
            break
        await asyncio.sleep(0.05)

    run(left())
    settles("leaving astream_chat")


# -- tools and structured values ---------------------------------------------------------------------------------------


def tool_round_trip(subject: Subject) -> None:
    llm: Any = subject.make(max_tokens=96)
    assert llm.metadata.is_function_calling_model, "the class says it cannot call functions"
    tool = FunctionTool.from_defaults(get_weather)
    question = ChatMessage(role="user", content=WEATHER)
    for name, response in (
        ("chat_with_tools", llm.chat_with_tools([tool], chat_history=[question])),
        ("achat_with_tools", run(llm.achat_with_tools([tool], user_msg=question))),
        ("stream_chat_with_tools", list(llm.stream_chat_with_tools([tool], user_msg=WEATHER))[-1]),
        ("tool_required", llm.chat_with_tools([tool], user_msg=WEATHER, tool_required=True)),
        ("tool_choice", llm.chat_with_tools([tool], user_msg=WEATHER, tool_choice="get_weather")),
    ):
        calls = llm.get_tool_calls_from_response(response)
        assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", {"location": "Fenmoor"})], (
            name
        )
        assert calls[0].tool_id
    result = ChatMessage(
        role="tool", content=get_weather("Fenmoor"), additional_kwargs={"tool_call_id": calls[0].tool_id}
    )
    answer = llm.chat_with_tools([tool], chat_history=[question, response.message, result])
    assert not llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
    assert "sunny" in (answer.message.content or ""), f"the tool's result is lost: {answer.message.content!r}"
    try:
        llm.get_tool_calls_from_response(answer)
    except ValueError:
        return
    raise AssertionError("a reply without calls passed for one with calls")


def structured_values(subject: Subject) -> None:
    llm: Any = subject.make(max_tokens=96)
    prompt = PromptTemplate("Name a city and how many people live there. {hint}")
    values: list[tuple[str, Any]] = [
        ("structured_predict", llm.structured_predict(City, prompt, hint="")),
        ("astructured_predict", run(llm.astructured_predict(City, prompt, hint=""))),
        ("as_structured_llm", llm.as_structured_llm(City).chat(ASK).raw),
    ]
    partial = list(llm.stream_structured_predict(City, prompt, hint=""))
    values.append(("stream_structured_predict", partial[-1]))
    values.append(
        ("astream_structured_predict", run(collected(llm.astream_structured_predict(City, prompt, hint="")))[-1])
    )
    for name, value in values:
        assert isinstance(value, City), f"{name} gave {value!r}"
    assert all(isinstance(value, (City, FlexibleModel)) for value in partial)


# -- packing -----------------------------------------------------------------------------------------------------------


def packing(subject: Subject) -> None:
    """A document set several times the context: LlamaIndex packs it by `metadata`, and every prompt must fit."""
    llm = subject.make(max_tokens=16)
    assert 0 < llm.metadata.context_window <= subject.window
    sentence = "The tool number {} hangs on the green wall behind the door of the workshop. "
    nodes = []
    lines = 2 * subject.window * subject.letters_per_token // len(sentence)
    for start in range(0, lines, 20):
        text = "".join(sentence.format(line) for line in range(start, start + 20))
        nodes.append(NodeWithScore(node=TextNode(text=text), score=1.0))
    count = getattr(llm, "token_ids", None)
    helper = PromptHelper.from_llm_metadata(llm.metadata, tokenizer=count)
    synthesizer = get_response_synthesizer(llm=llm, prompt_helper=helper)
    with heard() as seen:
        answer = synthesizer.synthesize("Where does tool number 7 hang?", nodes)
    assert str(answer), "an empty answer"
    prompts = [event for event in seen if type(event).__name__ in ("LLMChatStartEvent", "LLMCompletionStartEvent")]
    assert len(prompts) > 1, "everything fitted into one prompt; the check checks nothing"


CHECKS: dict[str, Callable[[Subject], None]] = {
    check.__name__: check
    for check in (
        parity_of_chat,
        parity_of_complete,
        delta_sums,
        events,
        payload_without_paths,
        counts,
        per_call_arguments,
        unknown_argument_refused,
        stop_strings,
        errors_at_once,
        loop_never_blocked,
        cancellation_frees,
        tool_round_trip,
        structured_values,
        packing,
    )
}


# -- means -------------------------------------------------------------------------------------------------------------


class _Ear(BaseEventHandler):
    seen: list[Any] = []

    @classmethod
    def class_name(cls) -> str:
        return "_Ear"

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.seen.append(event)


@contextmanager
def heard() -> Iterator[list[Any]]:
    """Every instrumentation event fired in the block."""
    root = instrument.get_dispatcher()
    ear = _Ear(seen=[])
    root.add_event_handler(ear)
    try:
        yield ear.seen
    finally:
        root.event_handlers.remove(ear)


def run(work: Awaitable[Any]) -> Any:
    return asyncio.run(_coroutine(work))


async def _coroutine(work: Awaitable[Any]) -> Any:
    return await work


async def collected(stream: Awaitable[Any]) -> list[Any]:
    return [item async for item in await stream]


def within(seconds: float, call: Callable[[], Any]) -> tuple[Any, float] | None:
    """(result or exception, seconds taken) of `call`; None when it was not back in time."""
    outcome: list[tuple[Any, float]] = []

    def work() -> None:
        started = time.perf_counter()
        try:
            result = call()
        except Exception as error:
            result = error
        outcome.append((result, time.perf_counter() - started))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else None
