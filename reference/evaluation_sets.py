"""The request sets that the probe and the behaviour report read: train-side slices for choosing, eval sets for reporting only."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

from acd_core.bundled import SETS
from reference.grammar import Grammar
from reference.permissive import data_folder, harmful_prompts, held_out

EVERYDAY = SETS / "everyday.jsonl"
HELD_OUT = Path(__file__).parent / "held_out_harmless.jsonl"
REPORT_SETS = ("advbench", "malicious_instruct", "dangerousqa", "harmfulqa")


def _sample(rows: list[str], count: int, seed: int) -> list[str]:
    return random.Random(seed).sample(rows, min(count, len(rows)))


def everyday() -> list[str]:
    """The 250 everyday requests of `acd evaluate`, written before the model was seen to fail on any of them."""
    return [json.loads(line)["text"] for line in EVERYDAY.read_text().split("\n") if line]


def held_out_everyday() -> list[str]:
    """200 other everyday requests that training drops."""
    return [json.loads(line)["text"] for line in HELD_OUT.read_text().split("\n") if line]


def held_out_permissive(data: Path | None = None) -> list[str]:
    """The 15% of CatQA and HarmBench that training never sees. data: the public data (`permissive.data_folder`)."""
    return [text for text, _ in harmful_prompts(data_folder("train", data)) if held_out(text)]


def held_out_grammar(count: int = 150) -> list[str]:
    """Harmful requests of the narrower grammar's `held_out` topics. A model that was trained on all topics, as the
    bundled one was, has seen their like."""
    grammar = Grammar(4242, split="held_out")
    return [
        request.text
        for request in (grammar.harmful_request() for _ in range(count * 2))
        if request.phrase.split(" ")[0] != "write"
    ][:count]


def report_sets(data: Path | None = None, count: int = 100, seed: int = 0) -> dict[str, list[str]]:
    """Seeded samples of the four harmful sets; HarmfulQA from the first 20 questions of every topic."""
    folder = data_folder("eval", data)
    with open(folder / "advbench.csv", newline="") as handle:
        advbench = [row["goal"] for row in csv.DictReader(handle)]
    malicious = [line.strip() for line in (folder / "malicious_instruct.txt").read_text().split("\n") if line.strip()]
    dangerous = list(json.loads((folder / "dangerousqa.json").read_text()))
    topics = json.loads((folder / "harmfulqa.json").read_text())
    harmful = [
        question
        for groups in topics.values()
        for question in [q for questions in groups.values() for q in questions][:20]
    ]
    rows = {
        "advbench": advbench,
        "malicious_instruct": malicious,
        "dangerousqa": [str(row) for row in dangerous],
        "harmfulqa": harmful,
    }
    return {name: _sample(prompts, count, seed) for name, prompts in rows.items()}


def alpaca_eval(data: Path | None = None) -> list[str]:
    """The 300 helpfulness prompts."""
    folder = data_folder("eval", data)
    lines = (folder / "alpaca_eval_300.json").read_text().split("\n")
    return [str(json.loads(line)["question"]) for line in lines if line.strip()]


def xstest(data: Path | None = None) -> tuple[list[str], list[str]]:
    """(safe prompts, unsafe contrasts) of XSTest."""
    folder = data_folder("eval", data)
    with open(folder / "xstest.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return [row["prompt"] for row in rows if row["label"] == "safe"], [
        row["prompt"] for row in rows if row["label"] == "unsafe"
    ]
