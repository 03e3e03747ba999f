"""The process that compiles a grammar for a first time, so that one that runs away or aborts takes nobody along.

Started by `acd_core.grammar.trials`. Requests and answers are lines of JSON, the first request is the tokenizer.
Imports nothing heavy: it is up in a tenth of a second.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

CPU_SECONDS = 3
"""Processor time that one grammar may take."""
MEMORY = 256 * 1024 * 1024
"""Bytes that one grammar may take."""
SLOWEST_MASK = 0.4
"""Seconds of processor time that a mask may take: the engine's thread computes it between two tokens of everybody."""
_NICENESS = 7
"""Tokens of others come before trials: a sixth of a processor that is wanted, so that CPU_SECONDS still pass within
the time by the clock that `acd_core.grammar.trials` gives."""
_MASKS = 24
_IDLE_SECONDS = 600


def serve() -> None:
    """Answer requests until nobody sends any more."""
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _step_back()
    tokenizer: Any = None
    while True:
        _sleep_at_most(_IDLE_SECONDS)
        line = source.readline()
        _sleep_at_most(0)
        if not line:
            return
        request = json.loads(line)
        if "tokenizer" in request:
            from llguidance import LLTokenizer

            tokenizer = LLTokenizer(request["tokenizer"], n_vocab=request["n_vocab"], eos_token=request["eos_ids"])
            answer: dict[str, Any] = {}
        else:
            _limit()
            before = _peak()
            answer = _tried(tokenizer, request["grammar"]) if "grammar" in request else _rule(**request)
            answer["bytes"] = max(_peak() - before, 0)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _rule(schema: str, what: str) -> dict[str, Any]:
    from acd_core.errors import UsageError
    from acd_core.grammar.dialect import rule_of

    try:
        return {"rule": rule_of(schema, what)}
    except UsageError as error:
        return {"message": error.message, "hint": error.hint}


def _tried(tokenizer: Any, grammar: str) -> dict[str, Any]:
    """Compile, and write a little: some masks cost more than the whole compilation."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if matcher.is_error():
        return {"refused": matcher.get_error()}
    chosen = random.Random(0)
    for _ in range(_MASKS):
        begun = time.process_time()
        bits = matcher.compute_bitmask()
        if matcher.is_error() or time.process_time() - begun > SLOWEST_MASK:
            return {"mask": matcher.get_error().splitlines()[0][:200] if matcher.is_error() else ""}
        allowed = [8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]
        if not allowed or matcher.is_stopped():
            break
        if not matcher.consume_token(chosen.choice(allowed)):
            return {"mask": matcher.get_error().splitlines()[0][:200]}
    return {}


def _step_back() -> None:
    """Have the system run everybody else first, where it knows of such a thing."""
    nice: Callable[[int], int] | None = getattr(os, "nice", None)
    if nice is not None:
        try:
            nice(_NICENESS)
        except OSError:  # a sandbox that forbids it
            return


def _limit() -> None:
    """Set the system's limits for the next grammar, where it has any (not on Windows; there the clock does it)."""
    try:
        import resource
    except ImportError:
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    _set_limit(resource.RLIMIT_CPU, math.ceil(spent.ru_utime + spent.ru_stime) + CPU_SECONDS, resource)
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return
    _set_limit(resource.RLIMIT_AS, taken + MEMORY, resource)


def _set_limit(kind: int, value: int, resource: Any) -> None:
    _, most = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (value if most < 0 else min(value, most), most))
    except (ValueError, OSError):  # a system that has the name and not the thing
        return


def _peak() -> int:
    """Return the bytes that this process had at most at once."""
    try:
        import resource
    except ImportError:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _sleep_at_most(seconds: int) -> None:
    """Let the system end this process when nothing has come for so long. 0: not any more."""
    import signal

    alarm: Callable[[int], int] | None = getattr(signal, "alarm", None)
    if alarm is not None:
        alarm(seconds)
