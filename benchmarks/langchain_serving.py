"""The FastAPI example under many clients, and what ChatACD adds to the engine: loop latency, throughput, overhead.

    python benchmarks/langchain_serving.py --clients 64 --out benchmarks/results/langchain_serving.md

Three parts, for one quiet machine:
1. Event-loop latency: a task in the server's own loop sleeps 5 ms again and again; how much later than asked it wakes,
   idle and while all clients stream. The clients are a process of their own.
2. Throughput: the same requests over HTTP all at once and one by one; every reply is compared with its solo reply.
3. Overhead: `ChatACD.invoke` and `.stream` beside `ContrastiveLM.generate` and `.stream`, interleaved, medians.
Writes Markdown and, beside it, JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from langchain_fastapi import ask_all, create_app, serving

from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.params import TextDelta
from acd_integrations.langchain import ChatACD

TICK_S = 0.005
THINGS = ("a shirt", "a bow", "eggs", "tulips", "a kite", "bread", "a letter", "soup")
VERBS = ("fold", "paint", "clean", "store", "sell", "wrap", "carry", "draw")


def requests(count: int, max_tokens: int) -> list[dict[str, Any]]:
    """Harmless questions, each different (up to 64, then with a number)."""
    asked = [f"How do I {verb} {thing}?" for verb in VERBS for thing in THINGS]
    return [
        {"question": asked[n % 64] + (f" ({n // 64})" if n >= 64 else ""), "max_tokens": max_tokens}
        for n in range(count)
    ]


class LoopClock:
    """How late the server's loop wakes: a list of seconds, filled while `open`."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.open = threading.Event()

    async def run(self) -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(TICK_S)
            if self.open.is_set():
                self.late.append(time.perf_counter() - start - TICK_S)

    def of(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """What `work` gives, and the lateness in ms while it ran."""
        self.late.clear()
        self.open.set()
        result = work()
        self.open.clear()
        late = sorted(self.late)
        at = lambda share: 1000 * late[min(int(share * len(late)), len(late) - 1)]  # noqa: E731
        return result, {"p50": at(0.5), "p99": at(0.99), "max": 1000 * late[-1], "ticks": len(late)}


def with_clock(app: Any, clock: LoopClock) -> Any:
    """`app` with the clock running in its loop from the first request on."""
    started: list[asyncio.Task[None]] = []

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        if not started:
            started.append(asyncio.create_task(clock.run()))
        await app(scope, receive, send)

    return wrapped


def from_clients(address: str, asked: list[dict[str, Any]], *, at_once: bool) -> dict[str, Any]:
    """{"replies", "seconds"} of `asked`, from a process of its own."""
    command = [sys.executable, __file__, "--as-clients", address] + (["--at-once"] if at_once else [])
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def be_clients(address: str, *, at_once: bool) -> None:
    """The other process: asks what stands on stdin, prints replies and seconds."""
    asked = json.load(sys.stdin)

    async def ask() -> dict[str, Any]:
        start = time.perf_counter()
        if at_once:
            replies = await ask_all(address, asked)
        else:
            replies = [(await ask_all(address, [body]))[0] for body in asked]
        return {"replies": replies, "seconds": time.perf_counter() - start}

    print(json.dumps(asyncio.run(ask())))


def serve_and_measure(llm: ChatACD, clients: int, max_tokens: int) -> dict[str, Any]:
    """Parts 1 and 2."""
    clock, asked = LoopClock(), requests(clients, max_tokens)
    with serving(with_clock(create_app(llm), clock)) as address:
        from_clients(address, asked[:4], at_once=True)  # warm
        _, idle = clock.of(lambda: time.sleep(3.0))
        alone, single = clock.of(lambda: from_clients(address, asked, at_once=False))
        before = llm.lm.engine.counters.decode_forwards, llm.lm.engine.counters.decoded_rows
        together, loaded = clock.of(lambda: from_clients(address, asked, at_once=True))
        after = llm.lm.engine.counters.decode_forwards, llm.lm.engine.counters.decoded_rows
    tokens = sum(llm.lm.count_tokens(reply) for reply in together["replies"])
    same = sum(one == other for one, other in zip(alone["replies"], together["replies"], strict=True))
    return {
        "clients": clients,
        "same_as_alone": same,
        "tokens": tokens,
        "latency_ms": {"idle": idle, "one client at a time": single, f"{clients} at once": loaded},
        "seconds": {"one by one": alone["seconds"], "at once": together["seconds"]},
        "rows_per_forward": (after[1] - before[1]) / max(after[0] - before[0], 1),
    }


def overhead(llm: ChatACD, rounds: int, max_tokens: int) -> dict[str, dict[str, float]]:
    """Part 3: medians in seconds, and the median of the ratios of neighbouring runs."""
    lm, question = llm.lm, "How do I fold a shirt?"

    def first(pieces: Any, is_text: Callable[[Any], bool]) -> float:
        start = time.perf_counter()
        for piece in pieces:
            if is_text(piece):
                break
        seconds = time.perf_counter() - start
        pieces.close()
        return seconds

    def whole(ask: Callable[[], Any]) -> float:
        start = time.perf_counter()
        ask()
        return time.perf_counter() - start

    pairs: dict[str, tuple[Callable[[], float], Callable[[], float]]] = {
        "whole reply (invoke beside generate)": (
            lambda: whole(lambda: lm.generate(question, max_tokens=max_tokens)),
            lambda: whole(lambda: llm.invoke(question, max_tokens=max_tokens)),
        ),
        "whole reply (stream beside stream)": (
            lambda: whole(lambda: list(lm.stream(question, max_tokens=max_tokens))),
            lambda: whole(lambda: list(llm.stream(question, max_tokens=max_tokens))),
        ),
        "first token (stream beside stream)": (
            lambda: first(lm.stream(question, max_tokens=max_tokens), lambda event: isinstance(event, TextDelta)),
            lambda: first(llm.stream(question, max_tokens=max_tokens), lambda piece: bool(piece.text)),
        ),
    }
    found = {}
    for name, (engine, adapter) in pairs.items():
        engine(), adapter()
        times: list[tuple[float, float]] = []
        for number in range(rounds):
            if number % 2:
                late, early = adapter(), engine()
            else:
                early, late = engine(), adapter()
            times.append((early, late))
            while lm.engine.active_rows:  # a closed stream frees its rows at the next step
                time.sleep(0.001)
        found[name] = {
            "engine_s": statistics.median(one for one, _ in times),
            "adapter_s": statistics.median(other for _, other in times),
            "ratio": statistics.median(other / one for one, other in times),
        }
    return found


def report(served: dict[str, Any], added: dict[str, dict[str, float]], facts: dict[str, str]) -> str:
    late = [
        [name, *(f"{each[key]:.2f}" for key in ("p50", "p99", "max")), f"{each['ticks']:.0f}"]
        for name, each in served["latency_ms"].items()
    ]
    speed = [
        [name, f"{seconds:.2f}", f"{served['tokens'] / seconds:.0f}"] for name, seconds in served["seconds"].items()
    ]
    gain = served["seconds"]["one by one"] / served["seconds"]["at once"]
    extra = []
    for name, each in added.items():
        milliseconds = (f"{1000 * each[side]:.1f}" for side in ("engine_s", "adapter_s"))
        extra.append([name, *milliseconds, f"{100 * (each['ratio'] - 1):+.1f}%"])
    parts = [
        "# ChatACD behind FastAPI",
        "Written by `benchmarks/langchain_serving.py`; times are this machine's, ratios are the point.",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
        f"{served['same_as_alone']} of {served['clients']} replies equal those asked one by one.",
        "## Event-loop latency of the server, in ms",
        table(["while", "p50", "p99", "max", "ticks"], late),
        f"## Throughput: {gain:.1f} times one by one, {served['rows_per_forward']:.1f} rows a forward",
        table(["requests", "seconds", "tokens/s"], speed),
        "## What ChatACD adds to the engine (median of ratios of neighbouring runs)",
        table(["", "engine, ms", "ChatACD, ms", "overhead"], extra),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--pair", default="reference")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=40, help="runs of each side in the overhead part")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/langchain_serving.md"))
    parser.add_argument("--as-clients", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--at-once", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.as_clients:
        be_clients(chosen.as_clients, at_once=chosen.at_once)
        return 0
    llm = ChatACD(model=chosen.model, pair=chosen.pair)
    added = overhead(llm, chosen.rounds, chosen.max_tokens)
    served = serve_and_measure(llm, chosen.clients, chosen.max_tokens)
    facts = {**machine(), "model": chosen.model, "new tokens at most": str(chosen.max_tokens)}
    text = report(served, added, facts)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(text, encoding="utf-8")
    chosen.out.with_suffix(".json").write_text(json.dumps({**served, "overhead": added, "machine": facts}, indent=1))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
