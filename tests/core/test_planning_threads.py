"""Calls are planned within their deadline, and a long plan keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Any

import pytest

from acd_core.errors import DeadlineError, UsageError
from acd_core.lm import ContrastiveLM
from acd_core.planning_threads import THREADS, aplan_within, plan_within
from tests.scripted import HERMES, ScriptedModel, make_tokenizer


def test_a_deadline_ends_the_wait_for_a_plan() -> None:
    go = threading.Event()
    with pytest.raises(DeadlineError):
        plan_within(lambda: go.wait(60), time.monotonic() + 0.05)
    with pytest.raises(DeadlineError):
        asyncio.run(aplan_within(lambda: go.wait(60), time.monotonic() + 0.05))
    go.set()
    assert plan_within(lambda: 3, time.monotonic() + 60) == 3
    assert plan_within(lambda: 3, None) == 3
    assert asyncio.run(aplan_within(lambda: 3, None)) == 3


def test_errors_of_planning_come_through() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    def wrong() -> None:
        raise UsageError("wrong")

    for deadline in (None, time.monotonic() + 60):
        with pytest.raises(TimeoutError, match="its own"):
            plan_within(late, deadline)
        with pytest.raises(TimeoutError, match="its own"):
            asyncio.run(aplan_within(late, deadline))
        with pytest.raises(UsageError, match="wrong"):
            asyncio.run(aplan_within(wrong, deadline))


def test_short_plans_pass_long_ones_and_the_application_keeps_its_executor() -> None:
    go = threading.Event()

    async def run() -> None:
        long = [asyncio.ensure_future(aplan_within(lambda: go.wait(60), None)) for _ in range(THREADS - 1)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(aplan_within(lambda: "short", None), 30) == "short"
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "theirs"), 30) == "theirs"
        assert not any(each.done() for each in long)
        go.set()
        await asyncio.gather(*long)

    asyncio.run(run())


def test_the_deadline_begins_with_the_call_and_not_with_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(HERMES)
    model = ScriptedModel(tokenizer, lambda _: "Well.")
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        lm.generate("x", max_tokens=1)
        known = lm.formats.resolve

        def slow(settings: Any) -> Any:
            time.sleep(0.3)
            return known(settings)

        with monkeypatch.context() as patch:
            patch.setattr(lm.formats, "resolve", slow)
            with pytest.raises(DeadlineError):
                lm.generate("x", max_tokens=1, deadline_s=0.1)
            with pytest.raises(DeadlineError):
                asyncio.run(lm.agenerate("x", max_tokens=1, deadline_s=0.1))
        assert lm.generate("x", max_tokens=1, deadline_s=60).finish_reason is not None


def test_a_schema_that_is_wrong_costs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = make_tokenizer(HERMES)
    model = ScriptedModel(tokenizer, lambda _: "Well.")
    schema = {"type": "object", "properties": {"a": {"not": {"type": "string"}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        made: list[Any] = []
        compiled = lm.formats._compile

        def counted(*asked: Any) -> Any:
            made.append(asked)
            return compiled(*asked)

        monkeypatch.setattr(lm.formats, "_compile", counted)
        for _ in range(3):
            with pytest.raises(UsageError, match="not"):
                lm.generate("x", response_format=form)
        assert len(made) == 1


def test_whoever_is_cancelled_leaves_no_plan_that_complains_later() -> None:
    go, told = threading.Event(), list[Any]()

    def wrong() -> None:
        go.wait(30)
        raise UsageError("wrong")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        waiting = asyncio.ensure_future(aplan_within(wrong, None))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        assert await aplan_within(lambda: 3, None) == 3
        await asyncio.sleep(0.1)
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert told == []


def test_how_calls_are_written_is_told_though_another_thread_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests with documents of their own push each other's entries out."""

    class Forgetful(dict[Any, Any]):
        def __setitem__(self, *_: Any) -> None:
            self.clear()

    tokenizer = make_tokenizer(HERMES)
    with ContrastiveLM.from_model(ScriptedModel(tokenizer, lambda _: "Well."), tokenizer) as lm:
        expected = lm.formats._wires({"context": "x" * 2000})
        monkeypatch.setattr(lm.formats, "_known_wires", Forgetful())
        assert lm.formats._wires({"context": "y" * 2000}) == expected
