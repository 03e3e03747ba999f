"""Many prompts at once: the calls share the engine's forward passes, so a batch costs little more than its longest.

python examples/langchain_batch.py --model reference --pair reference < questions.txt
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from acd_integrations.langchain import ChatACD

QUESTIONS = ("How do I fold a shirt?", "How do I plant tulips?", "How do I whisk eggs?", "How do I tie a bow?")


def main(model: str = "reference", pair: str = "reference", questions: Sequence[str] = QUESTIONS) -> list[str]:
    llm = ChatACD(model=model, pair=pair, max_tokens=60)
    llm.invoke(questions[0])  # loads the model
    start = time.perf_counter()
    messages = llm.batch(list(questions), {"max_concurrency": 32}, return_exceptions=True)
    seconds = time.perf_counter() - start
    for question, message in zip(questions, messages, strict=True):
        print(f"{question}\n  {message if isinstance(message, Exception) else message.content}")
    print(f"{len(messages)} replies in {seconds:.1f} s")
    return [str(message) if isinstance(message, Exception) else str(message.content) for message in messages]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="reference")
    parser.add_argument("--pair", default="reference")
    chosen = parser.parse_args()
    lines = [] if sys.stdin.isatty() else [line.strip() for line in sys.stdin if line.strip()]
    main(chosen.model, chosen.pair, lines or QUESTIONS)
