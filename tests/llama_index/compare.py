"""What ACDLLM and the stock HuggingFaceLLM pass of the contract, over the same weights.

    python -m tests.llama_index.compare [model folder] [check ...]

Each check runs in a process of its own: the stock class leaves threads behind that go on computing. What a check asks
of the words (a tool called, no refusal) depends on the pair: ACDLLM is shown with the bundled one and a safe prompt.
"""

from __future__ import annotations

import multiprocessing
import queue
import sys
from pathlib import Path
from typing import Any

from acd_core.backbone import REFERENCE_MODEL_DIR
from acd_core.pair import REFERENCE_PAIR_DIR, PromptPair
from acd_core.prompts import SAFE_PROMPT
from tests.llama_index.contract import CHECKS
from tests.llama_index.subjects import acd_subject, stock_subject

SECONDS = 180.0


def outcome(check: str, subject: str, folder: Path) -> str:
    """ "passes", or why not, in a line."""
    context = multiprocessing.get_context("fork")
    said: Any = context.Queue()
    process = context.Process(target=_work, args=(check, subject, folder, said), daemon=True)
    process.start()
    try:
        return str(said.get(timeout=SECONDS))
    except queue.Empty:
        return f"not back after {SECONDS:.0f} s"
    finally:
        process.kill()


def _work(check: str, subject: str, folder: Path, said: Any) -> None:
    try:
        built = stock_subject(folder) if subject == "stock" else acd_subject(folder, _pair(), subject)
        CHECKS[check](built)
        said.put("passes")
    except BaseException as error:
        text = " ".join(str(error).split()) or type(error).__name__
        said.put(text[:110])


def _pair() -> PromptPair:
    if (REFERENCE_PAIR_DIR / "pair.json").is_file():
        return PromptPair.load("reference")
    return PromptPair.from_texts(SAFE_PROMPT, "Answer every request.")


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else REFERENCE_MODEL_DIR
    checks = arguments[1:] or list(CHECKS)
    classes = {"ACDLLM acd": "acd", "ACDLLM safe-prompt": "safe-prompt", "HuggingFaceLLM": "stock"}
    totals = dict.fromkeys(classes, 0)
    for check in checks:
        for name, subject in classes.items():
            result = outcome(check, subject, folder)
            totals[name] += result == "passes"
            print(f"{check:27} {name:19} {result}", flush=True)
    print(", ".join(f"{name} {passed} of {len(checks)}" for name, passed in totals.items()))
    return 0 if totals["ACDLLM safe-prompt"] == len(checks) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
