"""Whoever waits for a reply gets one, or an error: deadlines over a hung forward, streams carried over a fork."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from acd_core import ContrastiveLM
from acd_core.engine import EngineOptions
from acd_core.errors import ContextLengthError, DeadlineError, EngineError
from acd_core.reply import driving
from tests.core.tiny import family


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContrastiveLM]:
    """A model whose forward does not come back until the test is over."""
    model, tokenizer = family("llama", 21)
    go = threading.Event()
    monkeypatch.setattr(driving, "GRACE_SECONDS", 0.1)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        lm.generate("hello", max_tokens=1)
        real = type(lm.backbone.model).forward

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            go.wait(60)
            return real(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(lm.backbone.model), "forward", forward)
            yield lm
            go.set()
    go.set()


def test_a_deadline_holds_while_a_forward_hangs(hung: ContrastiveLM) -> None:
    roads = [
        lambda: hung.generate("the fox", deadline_s=0.2),
        lambda: hung.generate(["the fox", "the dog"], deadline_s=0.2),
        lambda: list(hung.stream("the fox", deadline_s=0.2)),
        lambda: asyncio.run(hung.agenerate("the fox", deadline_s=0.2)),
        lambda: asyncio.run(hung.agenerate(["the fox", "the dog"], deadline_s=0.2)),
    ]
    for road in roads:
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            road()
        assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_stream_of_the_parent_in_a_child() -> None:
    """An error there, and a child that asks anew gets its reply; the parent's stream goes on."""
    model, tokenizer = family("llama", 22)
    with ContrastiveLM.from_model(model, tokenizer) as lm:
        whole = lm.generate("hello", max_tokens=30)
        stream = lm.stream("hello", max_tokens=30)
        next(stream)
        child = os.fork()
        if not child:
            code = 1
            try:
                next(stream)
            except EngineError as error:
                code = 7 if "fork" in str(error) else 2
            os._exit(code)
        deadline = time.monotonic() + 60
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(ended[1]) == 7
        rest = list(stream)
        assert rest[-1].generation.token_ids == whole.token_ids  # type: ignore[union-attr]


def many(lm: ContrastiveLM, road: str, conversations: list[Any], **settings: Any) -> list[Any]:
    if road == "generate":
        return list(lm.generate(conversations, **settings))
    return list(asyncio.run(lm.agenerate(conversations, **settings)))


@pytest.mark.parametrize("road", ["generate", "agenerate"])
def test_a_long_list_is_handed_to_the_engine_a_window_at_a_time(road: str) -> None:
    """Its queue never holds more than twice its rows, so that a list may be longer than any queue."""
    model, tokenizer = family("llama", 23)
    options = EngineOptions(max_rows=2, max_queue=4)
    with ContrastiveLM.from_model(model, tokenizer, options=options) as lm:
        asked = [f"{'hello ' * (1 + number % 3)}{number}" for number in range(20)]
        alone = [lm.generate(each, max_tokens=4).token_ids for each in asked]
        assert [each.token_ids for each in many(lm, road, asked, max_tokens=4)] == alone


@pytest.mark.parametrize("road", ["generate", "agenerate"])
def test_an_error_of_one_cancels_those_that_run_and_starts_no_more(road: str) -> None:
    model, tokenizer = family("llama", 24)
    with ContrastiveLM.from_model(model, tokenizer, options=EngineOptions(max_rows=2)) as lm:
        window = 2 * lm.engine.options.max_rows
        wrong = [{"role": "user", "content": "hello " * lm.context_length}]
        for place in (window - 1, window + 2):  # met before anything is heard, and while others are under way
            before = replace(lm.engine.counters)
            with pytest.raises(ContextLengthError):
                many(lm, road, ["the fox"] * place + [wrong] + ["the dog"] * 20, max_tokens=40)
            lm.generate("hello", max_tokens=1)  # what was cancelled is gone by then
            after = lm.engine.counters
            finished, cancelled = after.finished - before.finished - 1, after.cancelled - before.cancelled
            assert finished + cancelled == place, "of those behind it none was started"
            assert cancelled >= 1, "two rows cannot have finished three replies at once"
