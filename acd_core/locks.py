"""Locks that are free in a forked child, what else is to begin anew there, and a property that needs no lock."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
_every_lock: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
_restarts: list[weakref.WeakMethod[Callable[[], None]]] = []


class ForkSafeLock:
    """A lock that its holder may take again. In a forked child it is free, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _every_lock.add(self)

    def __enter__(self) -> ForkSafeLock:
        self._lock.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()


class Locks:
    """One lock a key, for as long as somebody holds it or waits: a slow load keeps nobody from loading another."""

    def __init__(self) -> None:
        self._guard = ForkSafeLock()
        self._known: weakref.WeakValueDictionary[Hashable, ForkSafeLock] = weakref.WeakValueDictionary()

    def of(self, key: Hashable) -> ForkSafeLock:
        """The lock of `key`. Hold on to it only as long as it is needed."""
        with self._guard:
            return self._known.setdefault(key, ForkSafeLock())


class lazy(Generic[T]):  # a decorator, as property is
    """A property that is computed when it is first asked for and kept with its object.

    Not functools.cached_property, which until Python 3.12 holds one lock for all objects of a class while it computes:
    an endless template of one model would stop every other. Here two threads may compute the same; all get the value
    of the first to be done.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> T: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> lazy[T] | T:
        if instance is None:
            return self
        made = self._make(instance)
        found: T = instance.__dict__.setdefault(self._name, made)
        return found


def after_fork(restart: Callable[[], None]) -> None:
    """Call `restart`, a method, in every forked child while its object lives. Every ForkSafeLock is free by then.

    A child has one thread: what the parent's other threads were doing is never finished in it.
    """
    _restarts.append(weakref.WeakMethod(restart, _restarts.remove))


def _begin_anew() -> None:
    for lock in list(_every_lock):
        lock._lock = threading.RLock()
    for each in list(_restarts):
        restart = each()
        if restart is not None:
            restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
