"""Innocent requests with hostile ones mixed in: are they answered as if alone, in time, and is nothing left behind?

    python benchmarks/hostile_load.py                      # 500 innocents, 150 hostile ones: about five minutes
    python benchmarks/hostile_load.py --apart              # one kind at a time: which one slows the others down

A tiny random model stands behind ContrastiveLM, ChatACD and ACDLLM. 48 threads and two event loops (24 requests in each
at once) send the innocents, first one by one, then together, in turn without and with the hostile ones. Those come on
threads of their own, or in the same two loops, evenly spread over the time that the innocents take without them.
Every one must end in an ACDError or a reply, in bounded time. Writes a table and JSON; exit status 1 where anything is
wrong. Latencies compare rounds beside each other; nothing here asserts a time but that they end.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import ctypes
import gc
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from acd_core.engine import EngineOptions
from acd_core.engine.scheduler import IDLE_SECONDS
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from benchmarks.hostile_requests import (
    KINDS,
    PREFIX_BYTES,
    Ask,
    Fronts,
    asend,
    fronts,
    hostiles,
    innocent,
    outcome,
    send,
)

THREADS, IN_A_LOOP = 48, 24
SHARES = {"p50": 0.5, "p95": 0.95}
BOUND_S = 120.0
"""A request that takes longer hangs."""
MOST_GROWTH_MB = 64.0
"""Resident memory that may be left, beyond that after a warm-up with hostile requests: about what allocators keep."""
OUT = Path(__file__).parent / "results" / "hostile_load.md"


def resident_mb() -> float:
    """Resident memory of this process in MB; nan where /proc is not."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return float("nan")


def children() -> int:
    """Processes that this one started and that still run."""
    try:
        return sum(len((task / "children").read_text().split()) for task in Path(f"/proc/{os.getpid()}/task").iterdir())
    except OSError:
        return 0


def one_arena() -> None:
    """Have all threads allocate from one heap, where the C library has several: each keeps what it had at most, and
    their sizes would tell of the number of threads and not of what is held."""
    try:
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX
    except (OSError, AttributeError):
        return


def trim() -> None:
    """Let engines come to rest, collect what is garbage, and have the C library give back what it keeps free, where it
    can."""
    until = time.monotonic() + 4 * IDLE_SECONDS
    while any(each.name == "acd-engine" for each in threading.enumerate()) and time.monotonic() < until:
        time.sleep(0.1)
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


@dataclass
class Round:
    """What one round gave. replies: of the innocents, by number. seconds: their latencies. outcomes: of the hostile
    ones, by kind. slowest: seconds, by kind. hung: what had not ended after BOUND_S."""

    replies: dict[int, Any] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    slowest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    hung: list[str] = field(default_factory=list)
    wall: float = 0.0
    rows_left: int = 0

    def at(self, share: float) -> float:
        """The latency below which this share of the innocents stays, in ms."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@contextmanager
def two_loops() -> Iterator[list[asyncio.AbstractEventLoop]]:
    """Two event loops, each in a thread of its own."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    threads = [threading.Thread(target=loop.run_forever, name="hostile-load-loop", daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield loops
    finally:
        for loop, thread in zip(loops, threads):
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            if not thread.is_alive():
                loop.close()


def alone(made: Fronts, count: int) -> dict[int, Any]:
    """The reply to each innocent request when nothing else runs."""
    found: dict[int, Any] = {}
    for number in range(count):
        ask = innocent(number)
        found[number] = asyncio.run(asend(made, ask)) if ask.awaited else send(made, ask)
        if sys.stderr.isatty():
            print(f"\r  alone {number + 1}/{count}", end="", file=sys.stderr)
    return found


def together(made: Fronts, count: int, against: Sequence[Ask] = (), spread: float = 0.0) -> Round:
    """All innocents at once, with `against` mixed in over `spread` seconds."""
    found, lock = Round(), threading.Lock()
    jobs: queue.SimpleQueue[int] = queue.SimpleQueue()
    waiting: list[list[int]] = [[], []]
    for number in range(count):
        if innocent(number).awaited:
            waiting[number // 2 % 2].append(number)
        else:
            jobs.put(number)

    def note(number: int, reply: Any, began: float) -> None:
        with lock:
            found.replies[number] = reply
            found.seconds.append(time.perf_counter() - began)

    def work() -> None:
        while True:
            try:
                number = jobs.get_nowait()
            except queue.Empty:
                return
            began = time.perf_counter()
            try:
                reply = send(made, innocent(number))
            except Exception as error:
                reply = error
            note(number, reply, began)

    async def one(number: int, room: asyncio.Semaphore) -> None:
        async with room:
            began = time.perf_counter()
            try:
                reply = await asend(made, innocent(number))
            except Exception as error:
                reply = error
            note(number, reply, began)

    async def some(numbers: Sequence[int]) -> None:
        room = asyncio.Semaphore(IN_A_LOOP)
        await asyncio.gather(*(one(number, room) for number in numbers))

    def harm(ask: Ask, due: float, loop: asyncio.AbstractEventLoop) -> None:
        time.sleep(max(due - time.perf_counter(), 0.0))
        for call in range(ask.calls):
            own = {"namespace": f"{id(ask)} {call}"} if ask.calls > 1 else {}
            asked = replace(ask, settings={**ask.settings, **own})
            began = time.perf_counter()
            if ask.awaited:
                running = asyncio.run_coroutine_threadsafe(asend(made, asked), loop)
                ended = outcome(partial(running.result, BOUND_S))
            else:
                ended = outcome(partial(send, made, asked))
            with lock:
                found.outcomes[ask.kind][ended] += 1
                found.slowest[ask.kind] = max(found.slowest[ask.kind], time.perf_counter() - began)

    with two_loops() as loops:
        start = time.perf_counter()
        threads = [threading.Thread(target=work, name="an innocent", daemon=True) for _ in range(THREADS)]
        for place, ask in enumerate(against):
            due = start + spread * place / max(len(against), 1)
            made_of = (ask, due, loops[place // 2 % 2])
            threads.append(threading.Thread(target=harm, args=made_of, name=ask.kind, daemon=True))
        for thread in threads:
            thread.start()
        running = [asyncio.run_coroutine_threadsafe(some(each), loop) for each, loop in zip(waiting, loops)]
        until = start + spread + BOUND_S
        for each in running:
            try:
                each.result(max(until - time.perf_counter(), 0.0))
            except concurrent.futures.TimeoutError:
                found.hung.append("innocents in an event loop")
        for thread in threads:
            thread.join(max(until - time.perf_counter(), 0.0))
            if thread.is_alive():
                found.hung.append(thread.name)
        found.wall = time.perf_counter() - start
    engine = made["gated"].lm.engine
    settled = time.monotonic() + 10.0
    while (engine.active_rows or engine.queued) and time.monotonic() < settled:
        time.sleep(0.01)
    found.rows_left = engine.active_rows + engine.queued
    return found


def different(found: Round, expected: dict[int, Any]) -> list[int]:
    """Innocents whose reply is not the one they get alone."""
    return [
        number for number, reply in expected.items() if number not in found.replies or found.replies[number] != reply
    ]


def wrong_with(found: Round, expected: dict[int, Any], name: str) -> list[str]:
    """What must not be, of one round."""
    wrong = []
    if others := different(found, expected):
        shown = repr(found.replies.get(others[0], "no reply"))[:120]
        wrong.append(f"{name}: {len(others)} innocents differ from their solo runs (first: {others[0]}, {shown})")
    wrong += [f"{name}: hangs: {each}" for each in found.hung]
    for kind, counts in found.outcomes.items():
        wrong += [f"{name}: {kind}: {ended} x {count}" for ended, count in counts.items() if ended.startswith("RAW")]
    if found.rows_left:
        wrong.append(f"{name}: {found.rows_left} rows or requests left")
    return wrong


def measure(count: int, hostile: int, rounds: int, kinds: tuple[str, ...] = KINDS) -> tuple[dict[str, Any], list[str]]:
    """Everything that the report says, and what is wrong."""
    one_arena()
    before, wrong = {thread.ident for thread in threading.enumerate()}, []
    memory: dict[str, float] = {}
    plain: list[Round] = []
    mixed: list[Round] = []
    with fronts(EngineOptions(prefix_bytes=PREFIX_BYTES)) as made:
        expected = alone(made, count)
        together(made, count, hostiles(hostile, kinds), 5.0)  # warm-up: what is made once is made
        spread = together(made, count).wall
        trim()
        memory["at the start"] = resident_mb()
        for number in range(rounds):
            plain.append(together(made, count))
            wrong += wrong_with(plain[-1], expected, f"round {number + 1} without")
            mixed.append(together(made, count, hostiles(hostile, kinds), min(spread, plain[-1].wall)))
            wrong += wrong_with(mixed[-1], expected, f"round {number + 1} with")
            memory[f"after round {number + 1}"] = resident_mb()
            trim()
            memory[f"after round {number + 1}, collected"] = resident_mb()
            print(f"  round {number + 1}: p95 {plain[-1].at(0.95):.0f} / {mixed[-1].at(0.95):.0f} ms", file=sys.stderr)
        engine = made["gated"].lm.engine
        counters = dict(vars(engine.counters))
        prefix_bytes = engine.prefixes.used_bytes
    closed, rows = engine.closed, engine.active_rows
    del made, engine  # with the tokenizer go the processes that try its grammars
    trim()
    memory["closed, collected"] = resident_mb()
    until = time.monotonic() + 10.0
    left = Counter({"?": 1})
    while left and time.monotonic() < until:  # threads are told to end, and do so by themselves
        left = Counter(each.name.split("_")[0] for each in threading.enumerate() if each.ident not in before)
        time.sleep(0.05)
    ratios = {share: [b.at(at) / a.at(at) for a, b in zip(plain, mixed)] for share, at in SHARES.items()}
    ratio = {share: statistics.median(each) for share, each in ratios.items()}
    first, last = memory["at the start"], memory[f"after round {rounds}, collected"]
    if last - first > MOST_GROWTH_MB:
        wrong.append(f"resident memory grew from {first:.0f} to {last:.0f} MB")
    if ratio["p95"] > 2.0:
        wrong.append(f"p95 of the innocents' latency grew {ratio['p95']:.2f} times")
    if left:
        wrong.append(f"threads left: {dict(left)}")
    if not closed or rows:
        wrong.append("the engine is not closed, or holds rows")
    if running := children():
        wrong.append(f"{running} processes left")
    if prefix_bytes > PREFIX_BYTES:
        wrong.append(f"{prefix_bytes} bytes of prefixes are kept, {PREFIX_BYTES} is the most")
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for each in mixed:
        for kind, counts in each.outcomes.items():
            outcomes[kind] += counts
    return {
        "innocents": count,
        "hostile": hostile,
        "rounds": rounds,
        "innocent replies": sum(len(each.replies) for each in (*plain, *mixed)),
        "equal to solo": sum(count - len(different(each, expected)) for each in (*plain, *mixed)),
        "latency_ms": {
            name: {share: statistics.median(each.at(at) for each in some) for share, at in SHARES.items()}
            for name, some in (("without", plain), ("with", mixed))
        },
        "ratio": ratio,
        "ratios": ratios,
        "wall_s": {"without": [each.wall for each in plain], "with": [each.wall for each in mixed]},
        "outcomes": {kind: dict(counts.most_common()) for kind, counts in sorted(outcomes.items())},
        "slowest_s": {kind: max(each.slowest.get(kind, 0.0) for each in mixed) for kind in sorted(outcomes)},
        "memory_mb": memory,
        "threads_left": dict(left),
        "processes_left": children(),
        "rows_left": max(each.rows_left for each in (*plain, *mixed)),
        "engine_closed": closed,
        "counters": counters,
    }, wrong


def page(found: dict[str, Any], wrong: list[str]) -> str:
    """The report as Markdown."""
    latency, ratio = found["latency_ms"], found["ratio"]
    facts = [
        ["innocent requests, all rounds", f"{found['innocent replies']}"],
        ["equal to their solo runs", f"{found['equal to solo']}"],
        ["hostile requests, a round", f"{found['hostile']}"],
        *(
            [f"{share} latency without, with", f"{latency['without'][share]:.0f} ms, {latency['with'][share]:.0f} ms"]
            for share in SHARES
        ),
        *(
            [f"ratio of {share}", f"{ratio[share]:.2f} ({', '.join(f'{each:.2f}' for each in found['ratios'][share])})"]
            for share in SHARES
        ),
        *([f"resident memory {when}", f"{size:.0f} MB"] for when, size in found["memory_mb"].items()),
        ["rows left, processes left", f"{found['rows_left']}, {found['processes_left']}"],
        ["threads left", ", ".join(f"{name} x {n}" for name, n in found["threads_left"].items()) or "none"],
        ["engine.closed", str(found["engine_closed"])],
    ]  # fmt: skip
    kinds = [
        [kind, str(sum(counts.values())), ", ".join(f"{ended} x {n}" for ended, n in counts.items()),
         f"{found['slowest_s'][kind]:.1f}"]
        for kind, counts in found["outcomes"].items()
    ]  # fmt: skip
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    return "\n\n".join(
        (
            f"# {found['innocents']} innocent requests, {found['hostile']} hostile ones mixed in",
            where,
            "Medians over rounds, one without the hostile requests and one with them in turn; ratios of neighbours. "
            "Memory is read when the engine has come to rest, with one heap for all threads (M_ARENA_MAX).",
            table(["", ""], facts),
            table(["hostile kind", "sent", "ended in", "slowest, s"], kinds),
            "Wrong: " + "; ".join(wrong) + "." if wrong else "Nothing wrong.",
        )
    ) + "\n"  # fmt: skip


def apart(count: int, hostile: int, kinds: Sequence[str]) -> None:
    """Which kind slows innocents down: a table of ratios, one kind at a time."""
    rows = []
    with fronts(EngineOptions(prefix_bytes=PREFIX_BYTES)) as made:
        spread = together(made, count).wall
        for kind in kinds:
            before = together(made, count)
            found = together(made, count, hostiles(hostile, (kind,)), spread)
            after = together(made, count)
            ratios = [found.at(at) * 2 / (before.at(at) + after.at(at)) for at in (0.5, 0.95)]
            ended = ", ".join(f"{each} x {n}" for each, n in found.outcomes[kind].items())
            rows.append([kind, *(f"{each:.2f}" for each in ratios), f"{found.slowest[kind]:.1f}", ended])
            print("  ", rows[-1], file=sys.stderr)
    print(table(["kind", "p50 ratio", "p95 ratio", "slowest, s", "ended in"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--innocents", type=int, default=500)
    parser.add_argument("--hostile", type=int, default=150, help="a round, of all kinds together")
    parser.add_argument("--rounds", type=int, default=3, help="each once without and once with the hostile ones")
    parser.add_argument("--kinds", default="", help=f"some of: {', '.join(KINDS)}; commas between")
    parser.add_argument("--apart", action="store_true", help="one kind at a time, printed; nothing is written")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    kinds = tuple(each.strip() for each in asked.kinds.split(",") if each.strip()) or KINDS
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}")
    if asked.apart:
        apart(asked.innocents, asked.hostile, kinds)
        return
    found, wrong = measure(asked.innocents, asked.hostile, asked.rounds, kinds)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    text = page(found, wrong)
    asked.out.write_text(text, encoding="utf-8")
    whole = {"machine": machine(), **found, "wrong": wrong}
    asked.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(text)
    sys.stdout.flush()
    if any("hangs" in each for each in wrong):
        os._exit(1)  # what hangs would hold up the interpreter's end
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
