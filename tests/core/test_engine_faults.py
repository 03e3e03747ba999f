"""One request's fault stays its own: infinities, ids beyond the embedding, forwards, sinks and threads that fail."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from acd_core import ContrastiveLM, PromptPair
from acd_core.engine import Asked, Branch, EngineOptions, Request, TextPiece, TextStream, scheduler, soft_branch
from acd_core.engine.faults import isolate_failures
from acd_core.engine.request import Reply
from acd_core.errors import ACDError, DeadlineError, EngineClosedError, EngineError, ModelError, UsageError
from acd_core.methods.sampling import Sampler
from acd_core.params import GenerationParams
from tests.core.tiny import family
from tests.core.waiting import quiet, run_apart

PAIR = PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data")
CLEAN = [f"the quick brown fox {'jumps ' * n}over data {n}" for n in range(6)]
MARK = "questions"  # a token of its own, which no clean prompt holds
GUILTY = f"hello {MARK} world " * 3
NEW = 12


@pytest.fixture
def model() -> Any:
    """A model of one's own, to be broken."""
    return copy.deepcopy(family("llama")[0])


def open_lm(model: Any, **options: Any) -> ContrastiveLM:
    return ContrastiveLM.from_model(model, family("llama")[1], PAIR, options=EngineOptions(**options))


def mark_of(lm: ContrastiveLM) -> int:
    """The id of the token that marks a guilty prompt."""
    return lm.token_ids(f" {MARK}")[-1]


def outcomes(lm: ContrastiveLM, prompts: Sequence[str], **settings: Any) -> list[Any]:
    """Replies' ids, or errors, of requests that are sent at once."""

    def one(prompt: str) -> Any:
        try:
            return lm.generate(prompt, max_tokens=NEW, **settings).token_ids
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(prompts)) as pool:
        with lm.engine._lock:  # none joins before most of them are planned
            found = pool.map(one, prompts)
            time.sleep(0.3)
        return list(found)


def held(lm: ContrastiveLM) -> torch.Tensor:
    """Everything in the cache but the trash slot, as one vector."""
    buffers = [buffer for layer in lm.engine._cache.slots for buffer in layer.buffers]
    return torch.cat([buffer[:, :, :-1].flatten() for buffer in buffers])


def ask(lm: ContrastiveLM, ids: Sequence[int], sink: Callable[[Any], None], **settings: Any) -> Request:
    """A request below the planner."""
    asked: dict[str, Any] = {"max_tokens": 4, **settings}
    return Request(
        Asked(asked.pop("branches", (Branch(tuple(ids)),)), eos_ids=frozenset(), **asked),
        sampler=Sampler(GenerationParams(), torch.device("cpu")),
        sink=sink,
        text=TextStream(lm.backbone.tokenizer),
    )


def heard(lm: ContrastiveLM, request: Callable[[Callable[[Any], None]], Request]) -> Any:
    """The last word on a request."""
    last: list[Any] = []
    over = threading.Event()

    def sink(item: Any) -> None:
        last.append(item)
        if not isinstance(item, TextPiece):
            over.set()

    lm.engine.submit(request(sink))
    assert over.wait(20)
    return last[-1]


# -- what is not finite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decode", "value", "settings"),
    [
        ("eager", float("nan"), {"method": "none"}),
        ("eager", float("inf"), {"alpha": 0.4}),
        ("static", float("nan"), {"alpha": 0.4}),
        ("eager", -float("inf"), {"temperature": 0.8, "seed": 4}),
    ],
    ids=str,
)
def test_rows_that_are_not_finite_fail_alone_and_leave_nothing(
    decode: str, value: float, settings: dict[str, Any], model: Any
) -> None:
    with open_lm(model, decode=decode, max_rows=6) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW, **settings).token_ids for prompt in CLEAN]
    assert all(mark_of(lm) not in reply for reply in expected), "a reply itself would be spoilt"
    with torch.no_grad():
        model.get_input_embeddings().weight[mark_of(lm)] = value
    with open_lm(model, decode=decode, max_rows=6) as lm:
        for _ in range(3):
            found = outcomes(lm, [GUILTY, *CLEAN[:3], GUILTY, *CLEAN[3:]], **settings)
            assert [each for each in found if not isinstance(each, Exception)] == expected
            errors = [each for each in found if isinstance(each, Exception)]
            assert len(errors) == 2
            for error in errors:
                assert isinstance(error, EngineError)
                assert "not finite in the kept branch" in str(error)
        quiet(lm)
        assert bool((held(lm) == 0).all()), "freed rows left something behind"
        assert not any(mark_of(lm) in entry.ids for entry in lm.engine.prefixes._entries.values())


@pytest.mark.parametrize("sampled", [False, True])
def test_the_subtracted_branch_is_named_where_it_is_not_finite(sampled: bool, model: Any) -> None:
    spoilt = PromptPair.from_texts("be safe", f"{MARK} {MARK}")
    with ContrastiveLM.from_model(model, family("llama")[1], spoilt) as lm:
        with torch.no_grad():
            model.get_input_embeddings().weight[mark_of(lm)] = float("nan")
        drawn: dict[str, Any] = {"temperature": 1.0, "seed": 1} if sampled else {}
        with pytest.raises(EngineError, match=r"not finite in the subtracted branch.*row \d.*NaN"):
            lm.generate(CLEAN[0], max_tokens=3, **drawn)
        assert lm.generate(CLEAN[0], max_tokens=3, method="sp", **drawn).token_ids
        assert lm.generate(CLEAN[0], max_tokens=3, alpha=0.0, **drawn).token_ids


def test_tokens_that_the_model_itself_rules_out_stay_out_under_a_contrast(model: Any) -> None:
    banned = 40

    def mask(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[..., banned:] = -torch.inf
        return output

    with open_lm(model) as lm:
        model.get_output_embeddings().register_forward_hook(mask)
        for settings in ({"method": "none"}, {"alpha": 0.5}, {"alpha": 0.5, "temperature": 0.7, "seed": 2}):
            ids = lm.generate(CLEAN[0], max_tokens=NEW, **settings).token_ids
            assert ids
            assert max(ids) < banned


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1 - 1e-12},
        {"alpha": 1 - 1e-12, "temperature": 0.7},
        {"alpha": 1 - 1e-12, "method": "adacd"},
        {"temperature": 1e-38},
        {"temperature": 5e-324},
    ],
    ids=str,
)
def test_settings_at_the_edge_of_their_range_give_replies(settings: dict[str, Any]) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        assert len(lm.generate(CLEAN[0], max_tokens=NEW, seed=0, **settings).token_ids) == NEW


def test_the_coldest_temperature_is_greedy() -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        greedy = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]
        for temperature in (1e-6, 1e-38, 5e-324):
            found = [lm.generate(prompt, max_tokens=NEW, temperature=temperature, seed=1).token_ids for prompt in CLEAN]
            assert found == greedy


def test_alpha_near_one_picks_what_the_unscaled_contrast_picks() -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        for alpha in (0.9999999, 1 - 1e-12):
            scaled, plain = (
                lm.generate(CLEAN[0], max_tokens=NEW, alpha=alpha, rescale=rescale) for rescale in (True, False)
            )
            assert scaled.token_ids == plain.token_ids


def test_a_penalty_that_overflows_is_told_to_its_own_request() -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]

        def bad() -> Exception | None:
            try:
                lm.generate(CLEAN[0], max_tokens=NEW, repetition_penalty=1e-38, temperature=0.5)
            except EngineError as error:
                return error
            return None

        with ThreadPoolExecutor(1) as pool:
            failing = pool.submit(bad)
            assert outcomes(lm, CLEAN) == expected
        assert "repetition_penalty" in str(failing.result())


# -- before a request joins --------------------------------------------------------------------------------------------


def test_a_token_beyond_the_embedding_fails_its_own_request_only(model: Any) -> None:
    wider = copy.deepcopy(family("llama")[1])
    wider.add_tokens([f"zebra{n}" for n in range(40)])
    with ContrastiveLM.from_model(model, wider, PAIR) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]
        found = outcomes(lm, ["see zebra39", *CLEAN, "zebra30"])
        assert found[1:-1] == expected
        for error in (found[0], found[-1]):
            assert isinstance(error, ModelError)
            assert str(model.get_input_embeddings().num_embeddings) in str(error)
        assert lm.generate("zebra0", max_tokens=2).token_ids, "a token that the embedding has"


def test_a_chosen_token_that_cannot_be_embedded_ends_its_own_request(model: Any) -> None:
    """An output layer wider than the embedding."""
    head, rows = model.get_output_embeddings(), model.get_input_embeddings().num_embeddings
    wide = torch.nn.Linear(48, rows + 1, bias=False)
    with torch.no_grad():
        wide.weight[:rows] = head.weight
        wide.weight[rows] = 0
    model.lm_head = wide
    with open_lm(model) as lm:
        expected = lm.generate(CLEAN[0], max_tokens=NEW).token_ids
        wide.register_forward_hook(lambda _, __, out: out.index_fill(-1, torch.tensor([rows]), 1e4))
        with pytest.raises(ModelError, match=f"token {rows}, but embeds only"):
            lm.generate(CLEAN[0], max_tokens=NEW, method="none")
        quiet(lm)
    assert expected


def test_a_penalty_meets_no_token_without_a_logit(model: Any) -> None:
    """An output layer narrower than the embedding: looking such a token up ends a whole process on a GPU."""
    narrow = torch.nn.Linear(48, 300, bias=False)
    narrow.weight.data = model.lm_head.weight.data[:300].clone()
    model.lm_head = narrow
    with open_lm(model) as lm:
        ids = [1, 5, 310, 7]
        asked = GenerationParams(repetition_penalty=1.3)
        bending = Sampler(asked, torch.device("cpu"))
        with pytest.raises(ModelError, match="token 310"):
            lm.engine.submit(dataclasses.replace(ask(lm, ids, print), sampler=bending))
        assert isinstance(heard(lm, lambda sink: ask(lm, ids, sink)), Reply)
        within = heard(lm, lambda sink: dataclasses.replace(ask(lm, ids[:2], sink), sampler=bending))
        assert isinstance(within, Reply)


def test_the_row_limit_is_tried_less_and_less_often_where_memory_stays_short() -> None:
    with ContrastiveLM.from_model(*family("llama"), options=EngineOptions(max_rows=64)) as lm:
        room = lm.engine._room

        def until_whole(most: int) -> list[int]:
            """Forwards between two times that more than `most` rows run out of memory, over 3000 forwards."""
            waits, since = [], 0
            for _ in range(3000):
                since += 1
                room.went_well()
                if room.rows > most:
                    waits.append(since)
                    since = 0
                    room.ran_out(room.rows, 8)
            return waits

        room.ran_out(7, 3)
        assert room.rows == 3
        for _ in range(100):
            room.went_well()
        assert room.rows == 64
        waits = until_whole(20)
        assert len(waits) < 12
        assert waits[-1] > 10 * waits[1]
        assert room.rows <= 20


@pytest.mark.parametrize("side", ["kept", "other"])
@pytest.mark.parametrize(
    ("vectors", "what"),
    [
        (torch.zeros(3, 7), "shape"),
        (torch.full((3, 48), 1e30), "1e\\+30"),
        (torch.full((3, 48), torch.inf), "inf"),
    ],
    ids=["width", "norm", "infinite"],
)
def test_soft_vectors_that_do_not_fit_are_refused_on_either_side(side: str, vectors: torch.Tensor, what: str) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        ids = lm.token_ids(CLEAN[0])
        branches = {"kept": Branch(tuple(ids)), "other": Branch(tuple(ids))}
        branches[side] = soft_branch(ids[:1], vectors, ids[1:])
        with pytest.raises(UsageError, match=what):
            lm.engine.submit(ask(lm, ids, print, alpha=0.4, branches=(branches["kept"], branches["other"])))
        with pytest.raises(UsageError, match="places for soft vectors"):
            lm.engine.submit(ask(lm, (*ids, -5), print))


# -- forwards that fail ------------------------------------------------------------------------------------------------


def break_forward(lm: ContrastiveLM, when: Callable[[Any], bool]) -> list[int]:
    """Forwards over a row with the mark in its prompt fail in the last layer, when most of the cache is written.

    when: of the embeddings [rows, tokens, width] of the forward. Returns a list that gets how many rows those had.
    """
    mark, engine, failed = mark_of(lm), lm.engine, []
    model = engine.backbone.model
    sizes: list[int] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        step = engine._cache.step
        rows = [*engine._rows.decoding, *engine._rows.filling]
        mine = [row for row in rows if step.low <= row.slot < step.high]
        guilty = any(mark in row.request.kept.ids for row in mine)
        sizes[:] = [len(mine)] if guilty and when(given["inputs_embeds"]) else []

    def fail(*_: Any) -> None:
        if sizes:
            failed.append(sizes[0])
            raise ValueError("this forward fails")

    model.register_forward_pre_hook(note, with_kwargs=True)
    model.model.layers[-1].register_forward_pre_hook(fail)
    return failed


@pytest.mark.parametrize(
    ("phase", "decode", "settings"),
    [
        ("prefill", "eager", {"method": "none"}),
        ("prefill", "static", {"alpha": 0.4}),
        ("decode", "eager", {"alpha": 0.4}),
        ("decode", "static", {"alpha": 0.4}),
    ],
    ids=str,
)
def test_a_forward_that_fails_costs_the_guilty_request_only(
    phase: str, decode: str, settings: dict[str, Any], model: Any
) -> None:
    with open_lm(model, decode=decode, prefix_bytes=0) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW, **settings).token_ids for prompt in CLEAN]
        failed = break_forward(lm, lambda embeds: (embeds.shape[1] == 1) == (phase == "decode"))
        found = outcomes(lm, [*CLEAN[:2], GUILTY, *CLEAN[2:]], **settings)
        assert isinstance(found[2], ValueError)
        assert [*found[:2], *found[3:]] == expected
        assert max(failed) > 1, "it was never in a forward with others"
        quiet(lm)
        assert bool((held(lm) == 0).all())
        assert lm.generate(CLEAN[0], max_tokens=NEW, **settings).token_ids == expected[0]


def test_the_guilty_are_found_by_halving() -> None:
    calls: list[int] = []

    def work(part: Sequence[int]) -> None:
        calls.append(len(part))
        for each in part:
            if each in (3, 11):
                raise KeyError(each)

    found = isolate_failures(range(16), work)
    assert [(item, error.args) for item, error in found] == [(3, (3,)), (11, (11,))]
    assert len(calls) <= 2 * 2 * 4 + 1
    with pytest.raises(MemoryError):
        isolate_failures([1, 2], lambda _: (_ for _ in ()).throw(MemoryError()))


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_row_limit_recovers_from_memory_that_ran_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR, options=EngineOptions(max_rows=16)) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]
        stepper, calls = lm.engine._stepper, []
        plain = stepper.decode

        def short(rows: Any, tokens: Any) -> torch.Tensor:
            calls.append(len(rows))
            if len(rows) > 4 and lm.engine.counters.out_of_memory == 0:
                raise torch.OutOfMemoryError("out of memory")
            return plain(rows, tokens)

        monkeypatch.setattr(stepper, "decode", short)
        assert [reply.token_ids for reply in lm.generate(CLEAN, max_tokens=NEW)] == expected
        assert lm.engine.counters.out_of_memory == 1
        for _ in range(8):
            lm.generate(CLEAN, max_tokens=NEW)
        calls.clear()
        assert [reply.token_ids for reply in lm.generate(CLEAN, max_tokens=NEW)] == expected
        assert max(calls) == 12


@pytest.mark.parametrize("method", ["none", "acd"])
def test_memory_for_one_request_serves_one_after_another(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        asked: dict[str, Any] = {"max_tokens": NEW, "method": method}
        expected = [lm.generate(prompt, **asked).token_ids for prompt in CLEAN]
        stepper, most = lm.engine._stepper, 1 if method == "none" else 2
        plain = stepper.decode

        def short(rows: Any, tokens: Any) -> torch.Tensor:
            if len(rows) > most:
                raise torch.OutOfMemoryError("out of memory")
            return plain(rows, tokens)

        monkeypatch.setattr(stepper, "decode", short)
        assert [reply.token_ids for reply in lm.generate(CLEAN, **asked, deadline_s=60)] == expected
        assert lm.engine.counters.out_of_memory < NEW
        quiet(lm)


@pytest.mark.parametrize("method", ["none", "acd"])
def test_who_finds_no_room_to_join_takes_nobody_along(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        expected = [lm.generate(prompt, max_tokens=150, method=method).token_ids for prompt in CLEAN[:2]]
        lm.engine._release()
        cache = lm.engine._cache
        plain = cache.resize

        def short(rows: int, capacity: int, used: int, slots: int) -> None:
            if used:
                cache.rows = rows  # as far as it came
                raise torch.OutOfMemoryError("out of memory")
            plain(rows, capacity, used, slots)

        monkeypatch.setattr(cache, "resize", short)
        events = lm.stream(CLEAN[0], max_tokens=150, method=method, deadline_s=60)
        next(events)
        joining = lm.generate(CLEAN[1], max_tokens=400, method=method, deadline_s=60)
        *_, done = events
        assert lm.engine.counters.out_of_memory >= 1
        assert [done.generation.token_ids, joining.token_ids[:150]] == expected  # type: ignore[union-attr]


def test_one_request_that_is_too_large_does_not_lower_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        stepper = lm.engine._stepper
        plain = stepper.prefill

        def short(rows: Any, budget: int) -> bool:
            if any(len(row.ids) > 200 for row in rows):
                raise torch.OutOfMemoryError("out of memory")
            return plain(rows, budget)

        monkeypatch.setattr(stepper, "prefill", short)
        with pytest.raises(ACDError, match="no room"):
            lm.generate("data " * 120, max_tokens=2)
        lm.generate(CLEAN, max_tokens=NEW)
        assert lm.engine.counters.most_rows == 12


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "gemma3", "opt"])
def test_the_byte_limit_holds_from_the_first_burst(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = family(name)
    sizes: list[int] = []
    limit = 700_000
    pair = PromptPair.from_texts("be safe", "be bad")
    with ContrastiveLM.from_model(model, tokenizer, pair, options=EngineOptions(max_cache_bytes=limit)) as lm:
        cache = lm.engine._cache
        assert cache.bytes_per_slot > 0
        lazily = scheduler.Engine._admit

        def admit(engine: Any) -> None:
            lazily(engine)
            sizes.append(cache.rows * (cache.capacity + 1) * cache.bytes_per_slot)

        monkeypatch.setattr(scheduler.Engine, "_admit", admit)
        replies = lm.generate([f"fox {n}" for n in range(12)], max_tokens=24)
        assert len(replies) == 12
        real = sum(buffer.nbytes for layer in cache.slots for buffer in layer.buffers)
        assert 0 < max(sizes) <= limit
        assert real <= limit
        assert real == cache.rows * (cache.capacity + 1) * cache.bytes_per_slot


def test_an_idle_engine_holds_no_cache_and_knows_its_prefixes_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(scheduler, "HOLD_SECONDS", 0.05)

    def waited(for_what: Callable[[], bool]) -> bool:
        until = time.monotonic() + 10
        while not for_what() and time.monotonic() < until:
            time.sleep(0.01)
        return for_what()

    def kept(lm: ContrastiveLM) -> int:
        return sum(buffer.nbytes for layer in lm.engine._cache.slots for buffer in layer.buffers)

    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        first = lm.generate(CLEAN[0], max_tokens=NEW)
        assert waited(lambda: lm.engine._thread is None)
        assert kept(lm) > 0  # for whoever asks on in a minute
        monkeypatch.setattr(scheduler, "KEEP_SECONDS", 0.05)
        assert lm.generate(CLEAN[0], max_tokens=NEW).token_ids == first.token_ids
        assert waited(lambda: kept(lm) == 0)
        assert 0 < lm.engine.prefixes.used_bytes <= lm.engine.options.prefix_bytes
        again = lm.generate(CLEAN[0], max_tokens=NEW)
        assert again.token_ids == first.token_ids
        assert again.usage.cached_tokens > 0


def test_a_reply_that_is_over_does_not_end_the_wait_for_the_next() -> None:
    """Whoever reads a stream to its end cancels it, which wakes the engine."""
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        lm.generate(CLEAN[0], max_tokens=3)
        thread = lm.engine._thread
        time.sleep(0.1)
        assert lm.engine._thread is thread is not None
        lm.generate(CLEAN[0], max_tokens=3)
        assert lm.engine._thread is thread


# -- threads, sinks, time ----------------------------------------------------------------------------------------------


def test_a_thread_that_cannot_start_is_told_and_the_next_request_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        with monkeypatch.context() as broken:

            def refuse(_: threading.Thread) -> None:
                raise RuntimeError("can't start new thread")

            broken.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                with pytest.raises(EngineError, match="can't start new thread"):
                    lm.generate(CLEAN[0], max_tokens=3)
            assert lm.engine.queued == 0
        assert lm.generate(CLEAN[0], max_tokens=3).token_ids


@pytest.mark.parametrize("where", ["_drop_ended", "_admit", "_prefill", "_decode", "_reserve"])
def test_a_thread_that_dies_tells_everyone_and_a_new_one_serves(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(BaseException):
        pass

    with ContrastiveLM.from_model(*family("llama"), PAIR, options=EngineOptions(max_rows=4)) as lm:
        expected = lm.generate(CLEAN[0], max_tokens=NEW).token_ids

        def die(*_: Any) -> None:
            raise Dying("of something unheard of")

        with monkeypatch.context() as broken:
            broken.setattr(lm.engine, where, die)
            found = outcomes(lm, CLEAN)
            assert all(isinstance(each, EngineError) and "unheard of" in str(each) for each in found)
        quiet(lm)
        assert lm.generate(CLEAN[0], max_tokens=NEW).token_ids == expected


@pytest.mark.parametrize("where", ["take", "open", "begin"])
def test_an_error_between_the_queue_and_the_rows_reaches_its_request(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]
        engine = lm.engine
        owner: Any = {"take": engine._room, "open": engine._rows, "begin": engine._reuse}[where]
        plain, left = getattr(owner, where), [1]

        def once(*given: Any, **named: Any) -> Any:
            if left:
                left.pop()
                raise ValueError("between queue and rows")
            return plain(*given, **named)

        monkeypatch.setattr(owner, where, once)
        with pytest.raises(ValueError, match="between queue and rows"):
            lm.generate(CLEAN[0], max_tokens=NEW)
        assert [reply.token_ids for reply in lm.generate(CLEAN, max_tokens=NEW)] == expected
        quiet(lm)


@pytest.mark.parametrize("at", ["first piece", "reply", "always"])
def test_a_sink_that_raises_harms_nobody_else(at: str, caplog: pytest.LogCaptureFixture) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        expected = [lm.generate(prompt, max_tokens=NEW).token_ids for prompt in CLEAN]

        def sink(item: Any) -> None:
            if at == "always" or isinstance(item, TextPiece) == (at == "first piece"):
                raise ValueError("nobody listens")

        with ThreadPoolExecutor(1) as pool:
            good = pool.submit(outcomes, lm, CLEAN)
            for _ in range(4):
                lm.engine.submit(ask(lm, lm.token_ids(CLEAN[0]), sink))
            assert good.result() == expected
        quiet(lm)
        if at != "first piece":
            assert "sink raised" in caplog.text


def test_a_deadline_holds_in_the_queue_and_through_a_slow_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    with ContrastiveLM.from_model(*family("llama"), PAIR, options=EngineOptions(max_rows=2)) as lm:
        first = lm.stream(CLEAN[0], max_tokens=400)
        next(first)  # holds both rows
        with pytest.raises(DeadlineError):
            lm.generate(CLEAN[1], max_tokens=3, deadline_s=0.05)
        first.close()  # type: ignore[attr-defined]
        quiet(lm)
        plain = lm.engine._stepper.prefill

        def slow(*given: Any) -> bool:
            time.sleep(0.2)
            return plain(*given)

        monkeypatch.setattr(lm.engine._stepper, "prefill", slow)
        with pytest.raises(DeadlineError):
            lm.generate(CLEAN[1], max_tokens=1, deadline_s=0.05)
        quiet(lm)


@pytest.fixture
def released() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("timeout", [0.2, None])
@pytest.mark.parametrize("what", ["forward", "sink"])
def test_closing_returns_whatever_hangs(
    what: str,
    timeout: float | None,
    released: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(scheduler, "CLOSE_SECONDS", 0.2)
    lm = ContrastiveLM.from_model(*family("llama"), PAIR)
    hanging = threading.Event()

    def hang(*_: Any) -> Any:
        hanging.set()
        released.wait(30)

    if what == "forward":
        monkeypatch.setattr(lm.engine._stepper, "decode", hang)
    ids = lm.token_ids(CLEAN[0])
    last: list[Any] = []
    lm.engine.submit(ask(lm, ids, hang if what == "sink" else last.append))
    lm.engine.submit(ask(lm, ids, last.append, max_tokens=50))
    assert hanging.wait(20)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="acd_core"):
        lm.engine.close(timeout=timeout)
    assert time.monotonic() - began < 5
    assert "has not ended" in caplog.text
    assert sum(isinstance(each, EngineClosedError) for each in last) == (2 if what == "forward" else 1)
    with pytest.raises(EngineClosedError):
        lm.generate(CLEAN[0])
    thread = lm.engine._thread
    released.set()
    if thread is not None:
        thread.join(20)
    assert (lm.engine._thread, lm.engine._cache.layers, lm.engine.active_rows) == (None, [], 0)
    lm.close()


def test_closing_while_draining_waits_for_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "CLOSE_SECONDS", 0.2)
    with ContrastiveLM.from_model(*family("llama"), PAIR) as lm:
        plain = lm.engine._stepper.decode

        def slow(*given: Any) -> torch.Tensor:
            time.sleep(0.02)
            return plain(*given)

        monkeypatch.setattr(lm.engine._stepper, "decode", slow)
        last: list[Any] = []
        lm.engine.submit(ask(lm, lm.token_ids(CLEAN[0]), last.append, max_tokens=30))
        lm.engine.close(drain=True)
        assert isinstance(last[-1], Reply)
        assert len(last[-1].token_ids) == 30


FORK = """
import os, sys, threading
import torch
torch.set_num_threads(1)
from tests.core.tiny import family
from acd_core import ContrastiveLM
lm = ContrastiveLM.from_model(*family("llama"))
expected = lm.generate("hello world", max_tokens=8).token_ids
stream = lm.stream("hello world", max_tokens=200)
next(stream)
held, done = threading.Event(), threading.Event()
def hold():
    with lm.engine._lock:
        held.set()
        done.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    os._exit(0 if lm.generate("hello world", max_tokens=8).token_ids == expected else 3)
_, status = os.waitpid(child, 0)
done.set()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_serves_though_the_lock_was_held_when_it_was_forked() -> None:
    run_apart(FORK)
