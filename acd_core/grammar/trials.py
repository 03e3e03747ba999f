"""Grammars that might be costly, compiled in a process of their own before they are compiled here.

llguidance's limits do not hold everywhere: `multipleOf` alone can take minutes and gigabytes, and a lack of memory ends
the whole process. So whatever is not plainly small runs in a child with limits on processor time and memory first; a
schema that exceeds them fails its own request, and the child is replaced.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acd_core.errors import EngineError, QueueFullError, UsageError
from acd_core.grammar.trial_process import CPU_SECONDS, MEMORY
from acd_core.locks import ForkSafeLock, after_fork

WALL_SECONDS = 20.0
"""How long a trial may take by the clock, on a machine that is busy or knows no limits on processor time."""
MOST_PROCESSES = 3
MOST_WAITING = 12
"""Requests that wait for a process; further ones are told to come again."""
_LIMITS_TIME = os.name == "posix"  # of the processor: elsewhere the clock is the only limit
_OUTSIDE_SIGNALS = frozenset((-1, -2, -9, -14, -15))  # hang-up, interrupt, kill, alarm, terminate
_ENDING_SECONDS = 1.0
_INTERPRETER = re.compile(r"python|pypy", re.IGNORECASE)


class Trials:
    """Processes that try grammars for one tokenizer. Started when first needed. Thread-safe.

    tokenizer: gives the JSON of tokenizers' Rust implementation, which takes up to 30 MB and is mostly never needed.
    """

    def __init__(self, tokenizer: Callable[[], str], n_vocab: int, eos_ids: list[int] | None) -> None:
        self._tokenizer, self._n_vocab, self._eos_ids = tokenizer, n_vocab, eos_ids
        self._lock = ForkSafeLock()
        self._begin()
        after_fork(self._begin)

    def _begin(self) -> None:
        """Begin with no process; in a forked child those there are, and the places, are the parent's."""
        self._free = threading.BoundedSemaphore(MOST_PROCESSES)
        self._places = threading.BoundedSemaphore(MOST_PROCESSES + MOST_WAITING)
        self._idle: list[_Process] = []
        weakref.finalize(self, _end, self._idle)

    def rule(self, schema: str, what: str) -> str:
        """Return the rule of a schema (`acd_core.grammar.dialect`). Raises UsageError as that does, and for one that
        costs too much."""
        answer = self._ask({"schema": schema, "what": what}, what)
        if "message" in answer:
            raise UsageError(answer["message"], hint=answer["hint"])
        return str(answer["rule"])

    def compile(self, grammar: str, what: str) -> tuple[str, int]:
        """Compile a grammar. Returns (llguidance's complaint, or ""; bytes that it took).

        Raises UsageError for one that costs too much.
        """
        answer = self._ask({"grammar": grammar}, what)
        if "mask" in answer:
            raise _too_costly(what, answer["mask"] or "one token under it takes too long")
        return str(answer.get("refused", "")), int(answer["bytes"])

    def _ask(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        if not self._places.acquire(blocking=False):
            raise QueueFullError(
                f"{MOST_PROCESSES + MOST_WAITING} schemas are being tried at the moment.", hint="Try again later."
            )
        try:
            with self._free:
                return self._tried(request, what)
        finally:
            self._places.release()

    def _tried(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        process = self._process(what)
        answer = process.ask(request)
        if answer is None and process.interrupted:  # it slept too long, or somebody ended it: no fault of the schema
            process.end()
            process = self._started(what)
            answer = process.ask(request)
        if answer is not None:
            with self._lock:
                self._idle.append(process)
            return answer
        process.end()
        if process.interrupted or (process.late and _LIMITS_TIME):
            # Not the schema's own limit, which is the processor's time: the next try may go well.
            raise EngineError(
                f"The {what} could not be tried: its process got nowhere in {WALL_SECONDS:g} seconds, or was ended.",
                hint="Try again when this machine is less busy.",
            )
        raise _too_costly(what, f"it takes more than {CPU_SECONDS} seconds or {MEMORY // 2**20} MiB")

    def _process(self, what: str) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.alive:
                    return process
                process.end()
        return self._started(what)

    def _started(self, what: str) -> _Process:
        return _started({"tokenizer": self._tokenizer(), "n_vocab": self._n_vocab, "eos_ids": self._eos_ids}, what)

    def close(self) -> None:
        """End the processes that wait for work."""
        with self._lock:
            idle = list(self._idle)
            self._idle.clear()
        _end(idle)


def _end(idle: list[_Process]) -> None:
    while idle:
        idle.pop().end()


class _Process:
    """One child. One request at a time."""

    def __init__(self) -> None:
        # The same modules as here, whatever this process did to find them; nothing else is inherited. Nothing but sys,
        # which is built in, may be imported before: another module of that name may lie in this directory.
        code = "import sys; sys.path[:] = sys.argv[1:]; from acd_core.grammar.trial_process import serve; serve()"
        self._child = subprocess.Popen(
            [sys.executable, "-c", code, *(each for each in sys.path if isinstance(each, str))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for this process alone
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._owner = os.getpid()
        self.late = False
        """Whether the clock ended it."""

    @property
    def alive(self) -> bool:
        return self._started_here and self._child.poll() is None

    @property
    def _started_here(self) -> bool:
        """Whether this process started the child. In one that was forked from it the pipes are not its own."""
        return self._owner == os.getpid()

    @property
    def interrupted(self) -> bool:
        """Whether a signal from outside ended the child: its alarm, because nothing came for long; a service that ends,
        a system that is short of memory."""
        return not self.late and self._child.poll() in _OUTSIDE_SIGNALS

    def _end_late(self) -> None:
        self.late = True
        self._child.kill()

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Send a request and return the answer; None from a child that ended, or had to be ended."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        clock = threading.Timer(WALL_SECONDS, self._end_late)
        clock.daemon = True
        clock.start()
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except OSError:
            line = b""
        finally:
            clock.cancel()
        if not line.endswith(b"\n"):
            self._reap()
            return None
        found: dict[str, Any] = json.loads(line)
        return found

    def _reap(self) -> None:
        try:
            self._child.wait(_ENDING_SECONDS)  # what it ended with tells why
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def end(self) -> None:
        """End the child, and let go of its pipes."""
        if self._started_here:
            self._child.kill()
            self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was still to be written has no reader
                    continue


def _started(head: dict[str, Any], what: str) -> _Process:
    """Start a child and wait until it is ready.

    Never this program once more: a frozen one, or one that embeds Python, is its own `sys.executable`, and would start
    again.
    """
    interpreter = not getattr(sys, "frozen", False) and _INTERPRETER.search(Path(sys.executable or "").name)
    why = "" if interpreter else "this program is no Python interpreter that could be started again"
    if not why:
        try:
            process = _Process()
        except (OSError, ValueError) as error:
            why = str(error)
        else:
            if process.ask(head) is not None:
                return process
            process.end()
            why = "it ended before it was ready"
    raise EngineError(
        f"The {what} is one that is compiled in a process of its own first, and none can be started here: {why[:200]}.",
        hint="Let this service start processes, or keep schemas plain: below 32 kB, at most 32 branches in oneOf, "
        "patterns of at most 1000 signs with their counts written out, multipleOf up to 20000.",
    )


def _too_costly(what: str, why: str) -> UsageError:
    return UsageError(
        f"The {what} is too costly to enforce: {why}.",
        hint="Most often a large multipleOf, or patterns that must hold together: check those afterwards instead.",
    )
