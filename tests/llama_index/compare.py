"""What ACDLLM and the stock HuggingFaceLLM pass of the contract, over the same weights.

    python -m tests.llama_index.compare            # bundled model; writes benchmarks/results/llama_index_contract.md
    python -m tests.llama_index.compare --model FOLDER --pair PAIR --out table.md [check ...]

The stock class comes with llama-index-llms-huggingface, which is no dependency of ours: where it is missing, pip puts
that one package, without its dependencies, into a folder that only this run sees.

Each check runs in a process of its own: the stock class leaves threads behind that go on computing. What a check asks
of the words (a tool called, no refusal) depends on the pair: ACDLLM is shown with the bundled one and a safe prompt.
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from acd_core.artifacts.pair import PromptPair
from acd_core.bundled import REFERENCE_MODEL_DIR
from tests.llama_index.contract import CHECKS
from tests.llama_index.subjects import acd_subject, stock_subject

STOCK = "llama-index-llms-huggingface==0.8.0"
OUT = Path(__file__).parents[2] / "benchmarks" / "results" / "llama_index_contract.md"
CLASSES = {"ACDLLM, acd": "acd", "ACDLLM, safe-prompt": "safe-prompt", "HuggingFaceLLM 0.8.0": "stock"}
SECONDS = 180.0


def outcome(check: str, subject: str, folder: Path, pair: str) -> str:
    """ "passes", or why not, in a line."""
    context = multiprocessing.get_context("fork")
    said: Any = context.Queue()
    process = context.Process(target=_work, args=(check, subject, folder, pair, said), daemon=True)
    process.start()
    try:
        return str(said.get(timeout=SECONDS))
    except queue.Empty:
        return f"not back after {SECONDS:.0f} s"
    finally:
        process.kill()


def _work(check: str, subject: str, folder: Path, pair: str, said: Any) -> None:
    try:
        built = stock_subject(folder) if subject == "stock" else acd_subject(folder, PromptPair.load(pair), subject)
        CHECKS[check](built)
        said.put("passes")
    except BaseException as error:
        text = " ".join(str(error).split()) or type(error).__name__
        said.put(text.replace(str(folder), folder.name)[:110])


def fetch_stock() -> None:
    """Make the stock class importable in this process."""
    if find_spec("llama_index.llms") is not None and find_spec("llama_index.llms.huggingface") is not None:
        return
    folder = tempfile.mkdtemp(prefix="llama-index-stock-")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, STOCK]
    subprocess.run(pip, check=True)
    sys.path.append(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="check", help=", ".join(CHECKS))
    parser.add_argument("--model", type=Path, default=REFERENCE_MODEL_DIR)
    parser.add_argument("--pair", default="reference")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    checks = asked.checks or list(CHECKS)
    fetch_stock()
    found: dict[str, list[str]] = {name: [] for name in CLASSES}
    for check in checks:
        for name, subject in CLASSES.items():
            found[name].append(outcome(check, subject, asked.model, asked.pair))
            print(f"{check:27} {name:21} {found[name][-1]}", flush=True)
    passed = {name: results.count("passes") for name, results in found.items()}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(_table(checks, found, passed), encoding="utf-8")
    print(", ".join(f"{name} {count} of {len(checks)}" for name, count in passed.items()))
    return 0 if passed["ACDLLM, safe-prompt"] == len(checks) else 1


def _table(checks: list[str], found: dict[str, list[str]], passed: dict[str, int]) -> str:
    lines = [
        "# The contract of LlamaIndex LLMs, over the same weights",
        "",
        "`python -m tests.llama_index.compare`; what each check asks stands in tests/llama_index/contract.py.",
        "",
        "| check | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
    ]
    for at, check in enumerate(checks):
        lines.append(f"| {check} | " + " | ".join(results[at].replace("|", "/") for results in found.values()) + " |")
    lines.append("| **passed** | " + " | ".join(f"**{count} of {len(checks)}**" for count in passed.values()) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
