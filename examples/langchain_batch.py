"""A batch job: a file of questions in, JSON lines out, each written as soon as it is there.

    python examples/langchain_batch.py questions.txt --out replies.jsonl

All questions are in flight at once and share the engine's forward passes, so the job takes little longer than its
longest replies. Started again with the same output file, it asks only what is not in there yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage

from acd_integrations.langchain import ChatACD

QUESTIONS = ("How do I fold a shirt?", "How do I plant tulips?", "How do I whisk eggs?", "How do I tie a bow?")


def run(llm: ChatACD, questions: Sequence[str], out: Path) -> int:
    """Ask what `out` does not answer yet; how many were asked. A question that fails gets a line with its error."""
    known = {json.loads(line)["question"] for line in out.read_text("utf-8").splitlines()} if out.exists() else set()
    open_ones = [question for question in dict.fromkeys(questions) if question not in known]
    with out.open("a", encoding="utf-8") as file:
        for place, reply in llm.batch_as_completed(open_ones, return_exceptions=True):
            line: dict[str, object] = {"question": open_ones[place]}
            if isinstance(reply, AIMessage):
                usage = reply.usage_metadata or {}
                line |= {"reply": reply.text, "finish_reason": reply.response_metadata["finish_reason"]}
                line |= {"tokens": usage.get("output_tokens")}
            else:
                line |= {"error": str(reply)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    return len(open_ones)


def main(
    model: str = "smollm2",
    pair: str = "smollm2",
    questions: Sequence[str] = QUESTIONS,
    out: Path = Path("replies.jsonl"),
) -> list[dict[str, object]]:
    llm = ChatACD(model=model, pair=pair, max_tokens=60)
    start = time.perf_counter()
    count = run(llm, questions, out)
    print(f"{count} replies in {time.perf_counter() - start:.1f} s, loading included: {out}", file=sys.stderr)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, nargs="?", help="a text file, one question a line (default: four)")
    parser.add_argument("--out", type=Path, default=Path("replies.jsonl"))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--pair", default="smollm2")
    chosen = parser.parse_args()
    lines = chosen.questions.read_text(encoding="utf-8").splitlines() if chosen.questions else QUESTIONS
    main(chosen.model, chosen.pair, [line.strip() for line in lines if line.strip()], chosen.out)
