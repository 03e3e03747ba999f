"""The engine under faults: cancelling, raising, running out of memory, slow consumers, closing. Survivors are exact."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.engine import EngineOptions
from acd_core.errors import (
    ContextLengthError,
    DeadlineError,
    EngineClosedError,
    OutOfMemoryError,
    QueueFullError,
    UsageError,
)
from acd_core.params import Done
from tests.core.tiny import family
from tests.core.waiting import quiet, run_apart

PAIR = PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data")
PROMPTS = [f"the quick brown fox {'jumps ' * (n % 7)}over data {n}" for n in range(24)]


@pytest.fixture
def lm() -> Iterator[ContrastiveLM]:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as made:
        yield made


def test_closing_a_stream_frees_its_rows(lm: ContrastiveLM) -> None:
    stream = lm.stream(PROMPTS[0], max_tokens=400)
    next(stream)
    assert lm.engine.active_rows == 2
    stream.close()  # type: ignore[attr-defined]
    quiet(lm)
    assert lm.engine.counters.cancelled == 1


def test_cancelling_a_task_frees_its_rows(lm: ContrastiveLM) -> None:
    async def main() -> None:
        task = asyncio.create_task(lm.agenerate(PROMPTS[0], max_tokens=400))
        while not lm.engine.active_rows:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    quiet(lm)


def test_a_slow_consumer_blocks_nobody(lm: ContrastiveLM) -> None:
    slow = lm.stream(PROMPTS[0], max_tokens=60)
    next(slow)  # and then nobody reads it for a while
    others = lm.generate(PROMPTS[1:5], max_tokens=60)
    assert len(others) == 4
    rest = list(slow)
    assert isinstance(rest[-1], Done)
    assert rest[-1].generation.token_ids == lm.generate(PROMPTS[0], max_tokens=60).token_ids


def test_a_requests_own_error_is_its_own(lm: ContrastiveLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from acd_core.methods import sampling

    alone = [lm.generate(prompt, max_tokens=20, temperature=0.8, seed=5).token_ids for prompt in PROMPTS[:4]]
    plain = sampling.Sampler.draw

    def draw(self: Any, warped: torch.Tensor) -> torch.Tensor:
        if self.seed == 13:
            raise ValueError("a processor of this request raised")
        return plain(self, warped)

    monkeypatch.setattr(sampling.Sampler, "draw", draw)
    failed: list[BaseException] = []

    def bad() -> None:
        try:
            lm.generate(PROMPTS[9], max_tokens=20, temperature=0.8, seed=13)
        except ValueError as error:
            failed.append(error)

    threads = [threading.Thread(target=bad) for _ in range(3)]
    for thread in threads:
        thread.start()
    together = lm.generate(PROMPTS[:4], max_tokens=20, temperature=0.8, seed=5)
    for thread in threads:
        thread.join()
    assert [reply.token_ids for reply in together] == alone
    assert len(failed) == 3
    quiet(lm)


def test_out_of_memory_halves_the_rows_and_loses_nothing(lm: ContrastiveLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [lm.generate(prompt, max_tokens=16).token_ids for prompt in PROMPTS[:8]]
    stepper = lm.engine._stepper
    plain = stepper.decode
    calls = {"count": 0}

    def decode(rows: Any, tokens: Any) -> torch.Tensor:
        calls["count"] += 1
        if len(rows) > 4 and calls["count"] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        return plain(rows, tokens)

    monkeypatch.setattr(stepper, "decode", decode)
    replies = lm.generate(PROMPTS[:8], max_tokens=16)
    assert [reply.token_ids for reply in replies] == expected
    assert lm.engine.counters.out_of_memory >= 1
    quiet(lm)


def test_a_request_too_large_even_alone_is_told_so() -> None:
    model, tokenizer = family("llama")
    with ContrastiveLM.from_model(model, tokenizer, PAIR, options=EngineOptions(max_cache_bytes=20_000)) as lm:
        assert len(lm.generate("hi", max_tokens=1, method="none").token_ids) <= 1  # the layers are known from here on
        with pytest.raises(OutOfMemoryError, match="budget"):
            lm.generate(PROMPTS[0], max_tokens=300)
        quiet(lm)


def test_a_full_queue_says_so() -> None:
    model, tokenizer = family("llama")
    options = EngineOptions(max_rows=2, max_queue=2)
    with ContrastiveLM.from_model(model, tokenizer, PAIR, options=options) as lm:
        first = lm.stream(PROMPTS[0], max_tokens=400)
        next(first)  # holds both rows
        replies: list[Any] = []
        waiting = [
            threading.Thread(target=lambda n=n: replies.append(lm.generate(PROMPTS[n], max_tokens=5))) for n in (1, 2)
        ]
        for thread in waiting:
            thread.start()
        while lm.engine.queued < 2:
            time.sleep(0.005)
        with pytest.raises(QueueFullError, match="max_queue"):
            lm.generate(PROMPTS[3], max_tokens=5)
        first.close()  # type: ignore[attr-defined]
        for thread in waiting:
            thread.join()
        assert len(replies) == 2


def test_a_deadline_is_kept(lm: ContrastiveLM) -> None:
    with pytest.raises(DeadlineError):
        lm.generate(PROMPTS[0], max_tokens=400, deadline_s=0.02)
    quiet(lm)
    with pytest.raises(TimeoutError):
        lm.generate(PROMPTS[0], max_tokens=400, deadline_s=0.02)


def test_closing_cancels_what_runs_and_refuses_what_comes() -> None:
    lm = ContrastiveLM.from_model(*family("llama"), PAIR)
    stream = lm.stream(PROMPTS[0], max_tokens=400)
    next(stream)
    lm.close()
    with pytest.raises(EngineClosedError):
        list(stream)
    with pytest.raises(EngineClosedError):
        lm.generate("hello")
    assert not [thread for thread in threading.enumerate() if thread.name == "acd-engine"]


def test_draining_answers_what_was_submitted() -> None:
    lm = ContrastiveLM.from_model(*family("llama"), PAIR)
    stream = lm.stream(PROMPTS[0], max_tokens=30)
    next(stream)
    lm.engine.close(drain=True)
    assert isinstance(list(stream)[-1], Done)


@pytest.mark.parametrize("running", [False, True], ids=["idle", "in the middle"])
def test_a_closed_engine_holds_no_memory(running: bool) -> None:
    """Whoever tunes the model next wants it, and the model may outlive every engine over it."""
    lm = ContrastiveLM.from_model(*family("llama"), PAIR)
    stream = lm.stream(PROMPTS[0], max_tokens=400)
    next(stream)
    engine = lm.engine
    if not running:
        stream.close()
        lm.generate(PROMPTS[0], max_tokens=3)
        quiet(lm)
    held = len(engine._cache.layers), engine.active_rows, engine.prefixes.used_bytes
    lm.close()
    assert held[0] > 0
    assert (held[1] > 0) if running else (held[2] > 0)
    for _ in range(2):
        assert (engine._cache.layers, engine.active_rows, engine.prefixes.used_bytes) == ([], 0, 0)
        engine.close()  # a second time changes nothing


@pytest.mark.parametrize("how", ["without waiting", "on the engine's own thread"])
def test_an_engine_that_nobody_waited_for_gives_its_memory_back_too(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = ContrastiveLM.from_model(*family("llama"), PAIR)
    engine = lm.engine
    stream = lm.stream(PROMPTS[0], max_tokens=400)
    next(stream)
    thread = engine._thread
    assert thread is not None
    if how == "without waiting":
        engine.close(timeout=0.0)
    else:
        decode = engine._decode

        def closing() -> None:
            decode()
            engine.close()

        monkeypatch.setattr(engine, "_decode", closing)
    with pytest.raises(EngineClosedError):
        list(stream)
    thread.join(30)
    assert not thread.is_alive()
    assert (engine._cache.layers, engine.active_rows, engine.prefixes.used_bytes) == ([], 0, 0)
    lm.close()


def test_lms_over_one_model_share_one_engine_until_the_last_closes() -> None:
    first = ContrastiveLM.from_model(*family("llama"), PAIR)
    second = ContrastiveLM.from_model(*family("llama"))
    assert first.engine is second.engine
    with pytest.raises(UsageError, match="other options"):
        ContrastiveLM.from_model(*family("llama"), options=EngineOptions(max_rows=3))
    first.close()
    assert second.generate("hello", max_tokens=3).token_ids
    second.close()
    assert second.engine.closed


def test_an_unused_lm_leaves_no_thread_and_no_memory() -> None:
    import weakref

    lm = ContrastiveLM.from_model(*family("qwen2"), PAIR)
    lm.generate("hello", max_tokens=3)
    engine = weakref.ref(lm.engine)
    lm.close()
    del lm
    gc.collect()
    assert engine() is None


def test_context_length_says_how_long_and_how_much_fits(lm: ContrastiveLM) -> None:
    with pytest.raises(ContextLengthError, match=r"takes \d+ tokens.*holds 512(?s:.*)At most \d+ tokens"):
        lm.generate("hello " * 600, max_tokens=20)
    with pytest.raises(ContextLengthError, match="lower max_tokens"):
        lm.generate("hello", max_tokens=512)


def test_many_requests_with_cancellations_and_errors_leave_exact_survivors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small version of benchmarks/soak.py, which runs a thousand."""
    model, tokenizer = family("qwen2")
    draws = random.Random(0)
    settings = [
        {"max_tokens": draws.randint(3, 24), "method": draws.choice(["acd", "none", "rose", "sp"]), "seed": 1}
        | ({"alpha": draws.choice([0.2, 0.5])} if draws.random() < 0.5 else {})
        | ({"temperature": 0.9, "top_p": 0.9} if draws.random() < 0.4 else {})
        | ({"contrast_tokens": 3} if draws.random() < 0.3 else {})
        for _ in range(60)
    ]
    with ContrastiveLM.from_model(model, tokenizer, PAIR, options=EngineOptions(max_rows=10)) as lm:
        solo = [lm.generate(PROMPTS[n % 24], **one).token_ids for n, one in enumerate(settings)]

        async def one(n: int) -> tuple[int, ...] | None:
            await asyncio.sleep(draws.random() * 0.2)
            events = lm.astream(PROMPTS[n % 24], **settings[n])
            fate = n % 5
            seen = 0
            async for event in events:
                seen += 1
                if fate == 0 and seen > 2:
                    await events.aclose()  # type: ignore[attr-defined]
                    return None
                if fate == 1:
                    await asyncio.sleep(0.01)
                if isinstance(event, Done):
                    return event.generation.token_ids
            return None

        async def everything() -> list[tuple[int, ...] | None]:
            return await asyncio.gather(*(one(n) for n in range(len(settings))))

        replies = asyncio.run(everything())
        quiet(lm)
        wrong = [n for n, reply in enumerate(replies) if reply is not None and reply != solo[n]]
        assert not wrong
        assert sum(reply is not None for reply in replies) >= 45
        assert lm.engine.counters.most_rows > 2, "nothing ran together"
    assert not [thread for thread in threading.enumerate() if thread.name == "acd-engine"]


FORK = """
import os, sys
from tests.core.tiny import family
from acd_core import ContrastiveLM
lm = ContrastiveLM.from_model(*family("llama"))
stream = lm.stream("hello world", max_tokens=200)
next(stream)
child = os.fork()
if child == 0:
    import torch
    torch.set_num_threads(1)
    os._exit(0 if lm.engine.active_rows == 0 and lm.engine.queued == 0 else 3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_and_interpreter_exit_leave_no_hanging_thread() -> None:
    run_apart(FORK)
