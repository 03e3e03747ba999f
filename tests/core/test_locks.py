"""Properties that are kept without a lock over all objects of their class; locks that a fork leaves free."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any

import pytest

from acd_core import locks
from acd_core.grammar.cache import OncePerKey
from acd_core.locks import ForkSafeLock, Locks, after_fork, lazy


class Slow:
    def __init__(self, go: threading.Event) -> None:
        self.go, self.made = go, 0

    @lazy
    def value(self) -> list[int]:
        """What it is."""
        self.made += 1
        assert self.go.wait(30)
        return [self.made]


def test_a_slow_property_of_one_object_keeps_nobody_from_another() -> None:
    waiting, ready = Slow(threading.Event()), Slow(threading.Event())
    ready.go.set()
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(waiting.value)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert ready.value is ready.value
    assert ready.made == 1
    waiting.go.set()
    for thread in threads:
        thread.join()
    assert all(each is found[0] for each in found)  # however many made one
    assert waiting.value is found[0]
    assert Slow.value.__doc__ == "What it is."


def test_an_error_is_not_kept() -> None:
    class Failing:
        tries = 0

        @lazy
        def value(self) -> int:
            self.tries += 1
            if self.tries == 1:
                raise ValueError("once")
            return 3

    failing = Failing()
    with pytest.raises(ValueError, match="once"):
        _ = failing.value
    assert failing.value == 3


def test_one_lock_a_key() -> None:
    locks = Locks()
    first, again = locks.of("a"), locks.of("a")
    assert first is again
    assert locks.of("b") is not first
    with first, again:
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_lock_held_by_a_thread_of_the_parent_is_free_in_the_child() -> None:
    one, several = ForkSafeLock(), Locks()
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with one, several.of("key"):
            held.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        taken = threading.Thread(target=lambda: [one.__enter__(), several.of("key").__enter__()], daemon=True)
        taken.start()
        taken.join(20)
        os._exit(int(taken.is_alive()))
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_is_to_begin_anew_does_so_in_the_child_alone_and_while_it_lives() -> None:
    class Owner:
        process = os.getpid()

        def begin(self) -> None:
            self.process = os.getpid()

    kept, dropped = Owner(), Owner()
    before = len(locks._restarts)
    after_fork(kept.begin)
    after_fork(dropped.begin)
    del dropped
    gc.collect()
    assert len(locks._restarts) <= before + 1
    child = os.fork()
    if child == 0:
        os._exit(int(kept.process != os.getpid()))
    assert os.waitpid(child, 0)[1] == 0
    assert kept.process == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_a_thread_of_the_parent_is_making_is_made_anew_in_the_child() -> None:
    cache: OncePerKey[str] = OncePerKey(len, 8, 1000)
    begun, go = threading.Event(), threading.Event()
    assert cache.get("done", lambda: "kept") == "kept"

    def slow() -> str:
        begun.set()
        go.wait(30)
        return "parent"

    thread = threading.Thread(target=lambda: cache.get("slow", slow))
    thread.start()
    assert begun.wait(30)
    child = os.fork()
    if child == 0:
        found: list[str] = []
        asking = threading.Thread(
            target=lambda: found.extend(cache.get(key, lambda: "child") for key in ("slow", "done")), daemon=True
        )
        asking.start()
        asking.join(20)
        os._exit(int(found != ["child", "kept"]))
    assert os.waitpid(child, 0)[1] == 0
    go.set()
    thread.join()
    assert cache.get("slow", lambda: "again") == "parent"
