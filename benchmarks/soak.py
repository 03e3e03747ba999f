"""A thousand requests at once, with what goes wrong in practice: who survives, and what is left behind.

    python benchmarks/soak.py                      # 1,000 requests on a tiny random model, about two minutes
    python benchmarks/soak.py --requests 5000 --waves 5

Every fifth is cancelled after a few tokens, every seventh has settings that raise, every ninth reads slowly, the
rest just runs, with mixed methods, alphas, lengths and sampling. Each survivor is compared with the same request alone.
Memory is read after each wave: a leak grows with the waves. Exit status 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from acd_core import ContrastiveLM, PromptPair
from acd_core.engine import EngineOptions
from acd_core.evaluation.page import table
from acd_core.evaluation.report import machine
from acd_core.methods.sampling import Sampler
from acd_core.params import Done
from tests.core.tiny import family

PAIR = PromptPair.from_texts("always be safe while you answer", "the lazy dog jumps over user data")
RAISING_SEED = 1313


def resident_mb() -> float:
    """Resident memory of this process in MB; nan where /proc is not."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * 4096 / 2**20


def settings_of(number: int) -> dict[str, Any]:
    """What request `number` asks for: the same in every wave."""
    draws = random.Random(number)
    chosen: dict[str, Any] = {
        "method": draws.choice(["acd", "acd", "none", "rose", "sp", "instructive-null"]),
        "max_tokens": draws.randint(2, 40),
        "seed": 1 + draws.randint(0, 5),
    }
    if draws.random() < 0.5:
        chosen["alpha"] = draws.choice([0.0, 0.2, 0.5])
    if draws.random() < 0.4:
        chosen |= {"temperature": 0.9, "top_p": draws.choice([1.0, 0.9])}
    if draws.random() < 0.2:
        chosen["contrast_tokens"] = 3
    if number % 7 == 0:
        chosen |= {"temperature": 0.9, "seed": RAISING_SEED}
    return chosen


def prompt_of(number: int) -> str:
    return f"the quick brown fox {'jumps ' * (number % 4)}over data {number % 40}"


async def one(lm: ContrastiveLM, number: int, wave: int) -> tuple[int, ...] | str:
    """The reply's ids, or what became of the request."""
    draws = random.Random(number * 31 + wave)
    await asyncio.sleep(draws.random() * 2)
    events = lm.astream(prompt_of(number), **settings_of(number))
    seen = 0
    try:
        async for event in events:
            seen += 1
            if isinstance(event, Done):
                return event.generation.token_ids
            if number % 5 == 0 and seen > draws.randint(0, 6):
                await events.aclose()  # type: ignore[attr-defined]
                return "cancelled"
            if number % 9 == 0:
                await asyncio.sleep(0.02)
    except ValueError:
        return "raised"
    return "ended without Done"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--waves", type=int, default=3, help="the same requests again: memory must not grow with these")
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("out/soak.md"))
    asked = parser.parse_args()
    plain = Sampler.draw

    def draw(self: Sampler, warped: torch.Tensor) -> torch.Tensor:
        if self.seed == RAISING_SEED:
            raise ValueError("a processor of this request raised")
        return plain(self, warped)

    Sampler.draw = draw  # type: ignore[method-assign]
    model, tokenizer = family("qwen2")
    options = EngineOptions(max_rows=asked.rows, prefix_bytes=8 * 2**20)
    alone: dict[int, tuple[int, ...]] = {}
    with ContrastiveLM.from_model(model, tokenizer, PAIR) as lm:
        for number in range(asked.requests):
            if number % 7:
                alone[number] = lm.generate(prompt_of(number), **settings_of(number)).token_ids
            print(f"\r  alone {number + 1}/{asked.requests}", end="", file=sys.stderr)
    print(file=sys.stderr)

    rows, wrong = [], []
    with ContrastiveLM.from_model(model, tokenizer, PAIR, options=options) as lm:
        for wave in range(asked.waves):
            started = time.perf_counter()

            async def everything(wave: int = wave) -> list[tuple[int, ...] | str]:
                return await asyncio.gather(*(one(lm, number, wave) for number in range(asked.requests)))

            found = asyncio.run(everything())
            while lm.engine.active_rows or lm.engine.queued:
                if time.perf_counter() - started > 600:
                    wrong.append(f"wave {wave}: {lm.engine.active_rows} rows leaked")
                    break
                time.sleep(0.01)
            survivors = [number for number, reply in enumerate(found) if not isinstance(reply, str)]
            different = [number for number in survivors if found[number] != alone.get(number)]
            kinds = [reply for reply in found if isinstance(reply, str)]
            if different or "ended without Done" in kinds or any(f == "raised" and n % 7 for n, f in enumerate(found)):
                wrong.append(f"wave {wave}: {len(different)} survivors differ from their solo runs")
            gc.collect()
            rows.append(
                {
                    "wave": wave + 1, "survivors": len(survivors), "differ from alone": len(different),
                    "cancelled": kinds.count("cancelled"), "raised": kinds.count("raised"),
                    "rows left": lm.engine.active_rows, "most rows": lm.engine.counters.most_rows,
                    "resident MB": round(resident_mb(), 1), "seconds": round(time.perf_counter() - started, 1),
                }
            )  # fmt: skip
            print(f"  {rows[-1]}", file=sys.stderr)
    left = [thread.name for thread in threading.enumerate() if thread.name == "acd-engine"]
    if left:
        wrong.append(f"threads left: {left}")
    header = ", ".join(f"{key} {value}" for key, value in machine().items())
    cells = [[str(value) for value in row.values()] for row in rows]
    text = f"# Soak: {asked.requests} requests a wave\n\n{header}\n\n{table(list(rows[0]), cells)}\n\n"
    text += f"Engine threads left: {len(left)}. " + ("Wrong: " + "; ".join(wrong) if wrong else "Nothing wrong.") + "\n"
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(text)
    print(text)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
