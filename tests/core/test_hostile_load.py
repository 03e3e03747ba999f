"""Innocent requests among hostile ones, small: benchmarks/hostile_load.py measures the same at length."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from acd_core.engine import EngineOptions
from benchmarks.hostile_load import alone, together, wrong_with
from benchmarks.hostile_requests import HUGE, KINDS, PREFIX_BYTES, STOPS, Fronts, fronts, hostiles

INNOCENTS, HOSTILE = 40, 2 * len(KINDS)


@pytest.fixture
def made() -> Iterator[Fronts]:
    with fronts(EngineOptions(prefix_bytes=PREFIX_BYTES)) as open_:
        yield open_


def of_others(thread: threading.Thread, made: Fronts) -> bool:
    """Whether it is the timer of an engine that an earlier test file left to its rest."""
    mine = [each.lm.engine for each in made.values()]
    return isinstance(thread, threading.Timer) and not any(thread.args[0]() is engine for engine in mine)


@pytest.mark.slow
def test_innocents_are_answered_as_if_alone_and_nothing_is_left(made: Fronts) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    expected = alone(made, INNOCENTS)
    assert not any(isinstance(reply, Exception) for reply in expected.values())
    assert len({str(reply) for reply in expected.values()}) > INNOCENTS // 2
    heavy = [STOPS, STOPS[0], *HUGE.values()]
    held = [sys.getrefcount(each) for each in heavy]
    found = together(made, INNOCENTS, hostiles(HOSTILE, most_calls=5), spread=2.0)
    assert wrong_with(found, expected, "mixed") == []
    assert set(found.outcomes) == set(KINDS)
    gc.collect()
    assert [sys.getrefcount(each) for each in heavy] == held, "something holds on to what a hostile request sent"
    engine = made["gated"].lm.engine
    assert engine.prefixes.used_bytes <= PREFIX_BYTES
    for each in made.values():
        each.lm.close()
    assert (engine.closed, engine.active_rows) == (True, 0)
    until = time.monotonic() + 10.0
    left = {"?"}
    while left and time.monotonic() < until:  # threads are told to end, and do so by themselves
        new = [each for each in threading.enumerate() if each.ident not in before and not of_others(each, made)]
        left = {each.name.split("_")[0] for each in new}
        time.sleep(0.05)
    assert not left
