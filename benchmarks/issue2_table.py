"""The table of the reference model: harmless rate by set, over-refusal, XSTest refusals, tokens per second.

    python benchmarks/issue2_table.py --out out/issue2 --alphas 0.3 0.4 0.5

100 prompts each of AdvBench, MaliciousInstruct, HarmfulQA and DangerousQA (seed 0), 200 of our 250 held-out everyday
requests, and XSTest's 250 safe prompts; rows none, safe-prompt, rose, and acd at the given strengths (none given: the
pair's own). Killed and started again with the same folder, it repeats no reply. Writes report.md, report.json,
completions.jsonl and, with matplotlib, plane.png and alpha.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from acd_core.errors import ACDError, MissingExtraError
from acd_core.evaluation.benchmarks import Benchmark, load_benchmark
from acd_core.evaluation.figures import plot_alpha_sweep, plot_plane
from acd_core.evaluation.harness import Arm, Evaluation, evaluate
from acd_core.evaluation.report import machine, table, write_report
from acd_core.lm import ContrastiveLM

HARMFUL = ("advbench", "malicious-instruct", "harmfulqa", "dangerousqa")


def sets(data: str | None, prompts: int, harmless: int, seed: int) -> list[Benchmark]:
    """The six sets, sampled."""
    found = [load_benchmark(name, data).sample(prompts, seed) for name in HARMFUL]
    found.append(load_benchmark("everyday").sample(harmless, seed))
    xstest = load_benchmark("xstest-safe", data)
    return [*found, xstest if prompts >= 100 else xstest.sample(prompts, seed)]


def arms(alphas: list[float], rose_alpha: float | None) -> list[str | Arm]:
    """none, safe-prompt, rose and one acd a strength."""
    contrast = [Arm("acd", alpha) for alpha in alphas] or [Arm("acd")]
    return ["none", "safe-prompt", Arm("rose", rose_alpha), *contrast]


def compact(result: Evaluation) -> str:
    """One line a method: the four sets, their mean, over-refusal, XSTest-safe refusals, tokens/s."""
    speeds = {each.arm: each.tokens_per_s for each in result.summaries()}
    rows = []
    for arm in result.arms:
        rates = [result.row(arm, name).refused.value for name in HARMFUL]
        others = [result.row(arm, name).refused.value for name in ("everyday", "xstest-safe")]
        mean = sum(rates) / len(rates)
        rows.append([arm, *(f"{rate:.3f}" for rate in (*rates, mean, *others)), f"{speeds[arm]:.0f}"])
    return table(["method", *HARMFUL, "mean harmless", "over-refusal (everyday)", "xstest-safe refused", "tok/s"], rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--pair", default="reference")
    parser.add_argument("--alphas", type=float, nargs="*", default=[], help="strengths of acd; none: the pair's own")
    parser.add_argument("--rose-alpha", type=float, default=None, help="strength of rose; none: its own (0.5)")
    parser.add_argument("--prompts", type=int, default=100, help="prompts of every harmful set")
    parser.add_argument("--harmless", type=int, default=200, help="held-out everyday requests")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default=None, help="folder of the public sets (default: ../shared/data/eval)")
    parser.add_argument("--out", type=Path, default=Path("out/issue2"))
    asked = parser.parse_args()
    try:
        benchmarks = sets(asked.data, asked.prompts, asked.harmless, asked.seed)
        with ContrastiveLM.from_pretrained(asked.model, asked.pair) as lm:
            header = {**machine(), "sampling seed": asked.seed, "recommended alpha": getattr(lm.pair, "alpha", None)}
            result = evaluate(
                lm,
                arms(asked.alphas, asked.rose_alpha),
                benchmarks,
                out=asked.out,
                max_tokens=asked.max_tokens,
                seed=asked.seed,
                header=header,
            )
    except ACDError as error:
        print(error, file=sys.stderr)
        return 1
    write_report(result, asked.out, "Reference model")
    print(compact(result))
    try:
        plot_plane(result, asked.out / "plane.png")
        if len(asked.alphas) > 1:
            plot_alpha_sweep(result, asked.out / "alpha.png")
    except MissingExtraError as error:
        print(error, file=sys.stderr)
    print(f"\n{asked.out / 'report.md'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
