"""Begin the replies of a set with what a model itself says alone, cut at k tokens, as files for `acd evaluate`.

    python -m benchmarks.begun_sets --model smollm2 --sets advbench --lengths 16 32 --count 24 --out out/begun
    acd evaluate --model smollm2 --sets harmful:out/begun/advbench@own16.jsonl

Greedy and without any method. A reply that ends before k tokens is left out, and counted. `SET+begun16` needs no model:
it begins with mild words of ours. The files hold what a model said to harmful requests: they belong to no repository.
Source: DeRTa (Yuan et al., arXiv 2407.09121), a response prefix of random length.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from acd_core import ContrastiveLM
from acd_core.errors import UsageError
from acd_core.evaluation.benchmarks import load_benchmark
from acd_core.evaluation.items import Benchmark


def begun_rows(lm: ContrastiveLM, benchmark: Benchmark, lengths: Sequence[int]) -> dict[int, list[dict[str, str]]]:
    """For every length, one row an item whose reply is long enough: id, prompt, category, and prefill, the first tokens
    of the model's own reply. Raises UsageError for sets of conversations."""
    if any(item.messages or item.prefill for item in benchmark.items):
        raise UsageError(f"{benchmark.name} holds conversations.", hint="Begin replies to single prompts.")
    replies = lm.generate(
        [item.conversation() for item in benchmark.items], method="none", max_tokens=max(lengths), temperature=0.0
    )
    decode = lm.backbone.tokenizer.decode
    return {
        length: [
            {
                "id": f"{item.id}@own{length}",
                "prompt": item.prompt,
                "category": item.category,
                "prefill": decode(reply.token_ids[:length], skip_special_tokens=True),
            }
            for item, reply in zip(benchmark.items, replies)
            if len(reply.token_ids) >= length
        ]
        for length in lengths
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--sets", nargs="+", default=["advbench"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument(
        "--count", type=int, default=None, help="prompts of each set, drawn with seed 1; all if left out"
    )
    parser.add_argument("--data", default=None)
    parser.add_argument("--out", default="out/begun")
    asked = parser.parse_args()
    folder = Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    with ContrastiveLM.from_pretrained(asked.model, method="none") as lm:
        for name in asked.sets:
            benchmark = load_benchmark(name, asked.data).sample(asked.count, 1)
            for length, rows in begun_rows(lm, benchmark, asked.lengths).items():
                path = folder / f"{name}@own{length}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                print(f"{path}: {len(rows)} of {len(benchmark)}", flush=True)


if __name__ == "__main__":
    main()
