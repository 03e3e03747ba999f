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
from acd_core.reply.planning_threads import THREADS, PlanningThreads
from tests.scripted import HERMES, ScriptedModel, make_tokenizer

POOL = PlanningThreads()


def test_a_deadline_ends_the_wait_for_a_plan() -> None:
    go = threading.Event()
    with pytest.raises(DeadlineError):
        POOL.within(lambda: go.wait(60), time.monotonic() + 0.05)
    with pytest.raises(DeadlineError):
        asyncio.run(POOL.awithin(lambda: go.wait(60), time.monotonic() + 0.05))
    go.set()
    assert POOL.within(lambda: 3, time.monotonic() + 60) == 3
    assert POOL.within(lambda: 3, None) == 3
    assert asyncio.run(POOL.awithin(lambda: 3, None)) == 3


def test_errors_of_planning_come_through() -> None:
    def late() -> None:
        raise TimeoutError("its own")

    def wrong() -> None:
        raise UsageError("wrong")

    for deadline in (None, time.monotonic() + 60):
        with pytest.raises(TimeoutError, match="its own"):
            POOL.within(late, deadline)
        with pytest.raises(TimeoutError, match="its own"):
            asyncio.run(POOL.awithin(late, deadline))
        with pytest.raises(UsageError, match="wrong"):
            asyncio.run(POOL.awithin(wrong, deadline))


def test_short_plans_pass_long_ones_and_the_application_keeps_its_executor() -> None:
    go = threading.Event()

    async def run() -> None:
        long = [asyncio.ensure_future(POOL.awithin(lambda: go.wait(60), None)) for _ in range(THREADS - 1)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(POOL.awithin(lambda: "short", None), 30) == "short"
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
        waiting = asyncio.ensure_future(POOL.awithin(wrong, None))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        go.set()
        assert await POOL.awithin(lambda: 3, None) == 3
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


def test_an_endless_template_holds_up_its_own_model_only() -> None:
    """More calls than a pool has threads, to a model whose planning does not end; another one answers beside it."""
    go, tokenizer = threading.Event(), make_tokenizer(HERMES)
    stuck, fine = (
        ScriptedModel(tokenizer, lambda _: "Well."),
        ScriptedModel(make_tokenizer(HERMES), lambda _: "Well."),
    )
    with ContrastiveLM.from_model(stuck, tokenizer) as lm, ContrastiveLM.from_model(fine, fine.tokenizer) as other:
        known = lm.formats.resolve

        def endless(settings: Any) -> Any:
            go.wait(60)
            return known(settings)

        lm.formats.resolve = endless  # type: ignore[method-assign]

        async def run() -> None:
            calls = [asyncio.ensure_future(lm.agenerate("x", max_tokens=1)) for _ in range(THREADS + 4)]
            await asyncio.sleep(0.05)
            reply = await asyncio.wait_for(other.agenerate("x", max_tokens=1), 30)
            assert reply.token_ids
            assert not any(each.done() for each in calls)
            go.set()
            await asyncio.gather(*calls)

        asyncio.run(run())


def test_a_closed_pool_ends_its_threads_and_starts_again() -> None:
    pool = PlanningThreads()
    assert asyncio.run(pool.awithin(lambda: threading.current_thread().name, None)).startswith("acd-planning")
    pool.close()
    assert asyncio.run(pool.awithin(lambda: 3, None)) == 3
    pool.close()
    pool.close()
