"""What a gate costs: the model alone, the method without a gate, and gated, at harmless, mixed and harmful traffic.

    python benchmarks/gate_cost.py --model smollm2 --pair FOLDER

One process, arms interleaved, medians of --repeats runs as ratios to the model alone at the same batch and traffic;
greedy, prompts from our everyday set and from the bundled harmful validation requests, the same number of new tokens in
every arm (the end of a turn does not end a reply). Prefixes are kept, but no prompt is seen twice.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from acd_core import ContrastiveLM
from acd_core.evaluation.benchmarks import load_benchmark
from acd_core.tuning.anchors import bundled_instructions

ARMS: dict[str, dict[str, Any]] = {
    "model alone": {"method": "none"},
    "no gate": {"method": "acd", "gate": False},
    "gated, read once": {"method": "acd", "recheck": 0},
    "gated, read every 32 tokens": {"method": "acd", "recheck": 32},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", required=True)
    parser.add_argument("--tokens", type=int, default=65)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.1, 1.0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", default="benchmarks/results/gate")
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    with ContrastiveLM.from_pretrained(asked.model, asked.pair) as lm:
        lm.backbone.eos_ids = frozenset()  # every reply is as long as asked for
        harmless = itertools.cycle(item.prompt for item in load_benchmark("everyday").items)
        numbers = itertools.count(1000)
        harmful = itertools.cycle(row.text for row in bundled_instructions("validation_unsafe"))
        for batch, share in itertools.product(asked.batches, asked.shares):
            if batch == 1 and 0.0 < share < 1.0:
                continue
            seconds: dict[str, list[float]] = {name: [] for name in ARMS}
            opened = 0
            for repeat in range(asked.repeats + 1):
                count = round(batch * share)
                texts = [next(harmful if at < count else harmless) for at in range(batch)]
                for name, settings in ARMS.items():
                    # The same requests for every arm, made new by a number, so that no arm finds them computed.
                    prompts = [f"{text} ({next(numbers)})" for text in texts]
                    started = time.perf_counter()
                    replies = lm.generate(prompts, max_tokens=asked.tokens, **settings)
                    spent = time.perf_counter() - started
                    if repeat:  # the first round warms up
                        seconds[name].append(spent)
                    opened += sum(bool(each.report.gate and each.report.gate.opened) for each in replies)
            alone = statistics.median(seconds["model alone"])
            row = {
                "batch": batch,
                "harmful": share,
                "seconds_alone": round(alone, 2),
                "opened": opened,
                **{name: round(statistics.median(spent) / alone, 3) for name, spent in seconds.items()},
            }
            found.append(row)
            print(row, flush=True)
    document = {
        "model": asked.model,
        "tokens": asked.tokens,
        "repeats": asked.repeats,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "dtype": str(lm.backbone.dtype),
        "rows": found,
    }
    folder = Path(asked.results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cost.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [
        f"# What the gate costs on {asked.model}",
        "",
        f"Wall time as a multiple of the model alone, medians of {asked.repeats} interleaved runs, {asked.tokens} new "
        f"tokens, {document['machine']}, {document['dtype']}. Made by `benchmarks/gate_cost.py`.",
        "",
        "| requests at once | harmful | " + " | ".join(name for name in ARMS if name != "model alone") + " |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['batch']} | {row['harmful']:.0%} | "
            + " | ".join(f"{row[name]:.2f}" for name in ARMS if name != "model alone")
            + " |"
            for row in found
        ),
        "",
    ]
    (folder / "cost.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
