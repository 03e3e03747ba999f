"""Reads the permissive prompts of the public data by path and restates free text; no sentence of them is kept here.

The public data are a folder with `train/` and `eval/`, which an argument or ACD_REFERENCE_DATA names.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from acd_core.errors import UsageError

HARMBENCH_SEVERITY = {
    "chemical_biological": 3.0,
    "illegal": 2.2,
    "cybercrime_intrusion": 2.0,
    "misinformation_disinformation": 1.1,
    "harmful": 2.0,
    "harassment_bullying": 2.0,
}
CATQA_SEVERITY = {
    "Illegal Activity": 2.3,
    "Child Abuse": 3.0,
    "Hate/Harass/Violence": 2.2,
    "Malware Viruses": 2.2,
    "Physical Harm": 2.8,
    "Economic Harm": 1.4,
    "Fraud/Deception": 1.9,
    "Adult Content": 2.2,
    "Political Campaigning": 1.1,
    "Privacy Violation Activity": 1.9,
}
_VP = re.compile(
    r"^(?:please |kindly )?(?:how (?:do|can|could|would|should|might|does) (?:i|you|we|someone|one|people|a person|somebody|an individual) |how to |what (?:is|are|would be) (?:the |some |a )?(?:best |good |easiest |effective |most effective )?"
    r"(?:ways?|methods?|techniques?|strategies|steps|tactics) (?:that can be used |i can use |one can use )?to |(?:can|could|would) you (?:please )?(?:help me |show me how to |tell me how to |explain how to )?|help me (?:to )?|i (?:want|need|would like) to |"
    r"(?:explain|describe|tell me|show me|teach me) how to |give (?:detailed |me )?(?:instructions|advice|a tutorial) (?:for|on) how to )(.+)$",
    re.I,
)
_IMPERATIVE = re.compile(
    r"^(?:please )?((?:write|create|give|list|make|develop|generate|design|describe|explain|provide|tell|suggest|find|implement|build|draft|compose|name|choose|identify|rewrite|translate|summarize|convert|compare|outline|produce|craft|"
    r"calculate|determine|plan|imagine|show|teach|come up|brainstorm|recommend|classify|fix|edit|improve|construct|complete|answer|solve|analyze|discuss|propose|publish|formulate|instruct|argue|post|encourage|"
    r"defend|convince|act|pretend|add|put|use|read|select|pick|sort|help|think|rate|predict|evaluate|rank|look|decide|check|categorize|design|play|draw|invent|research|organize|compile|prepare|offer) .+)$",
    re.I,
)
_TO_ME = re.compile(r"^(give|tell|show|write|teach) me ", re.I)
_SENTENCE = re.compile(r"(?<=[.?!:])\s+|\n+")


def held_out(text: str, share: float = 0.15) -> bool:
    """A fixed slice, by hash, kept out of training for choosing among recipes."""
    return int(hashlib.sha256(text.strip().lower().encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < share


def normalise(text: str) -> str:
    """Lower-cased letters and digits only: two requests that differ in case or punctuation are the same."""
    return " ".join(re.findall(r"\w+", text.lower()))


def you(text: str) -> str:
    """Turn the speaker around: "my dog" becomes "your dog"."""
    swaps = {
        "my": "your",
        "me": "you",
        "I": "you",
        "i": "you",
        "mine": "yours",
        "myself": "yourself",
        "I'm": "you're",
        "I've": "you've",
        "am": "are",
    }
    return re.sub(r"\b(my|me|I|i|mine|myself|I'm|I've|am)\b", lambda m: swaps[m.group(1)], text)


def restate(prompt: str) -> tuple[str, str]:
    """What to restate of a free-form request: ("vp", verb phrase) or ("quote", a short piece of it)."""
    parts = [part.strip() for part in _SENTENCE.split(prompt.strip()) if part.strip()]
    if not parts:
        return "quote", prompt.strip()[:60]
    for part in (parts[0], parts[-1]):
        clean = part.rstrip("?.!: ")
        match = _VP.match(clean) or _IMPERATIVE.match(clean)
        if match and 2 <= len(match.group(1).split()) <= 26:
            phrase = _TO_ME.sub(r"\1 ", match.group(1))
            return "vp", you(phrase[:1].lower() + phrase[1:])
    part = parts[-1] if len(parts[-1].split()) >= 3 and parts[-1].endswith("?") else parts[0]
    words = part.split()
    return "quote", " ".join(words[:16]).strip('" ')


def data_folder(part: str, given: Path | None = None) -> Path:
    """The folder `part` ("train" or "eval") of the public data `given`, else of those that ACD_REFERENCE_DATA names.

    Raises UsageError where neither says a folder that holds it.
    """
    named = given or os.environ.get("ACD_REFERENCE_DATA")
    hint = f"Name the folder that holds {part}/: --data FOLDER, or export ACD_REFERENCE_DATA=FOLDER"
    if not named:
        raise UsageError("No folder of public data was named.", hint=hint)
    folder = Path(named) / part
    if not folder.is_dir():
        raise UsageError(f"There is no folder {str(folder)!r}.", hint=hint)
    return folder


def harmful_prompts(folder: Path) -> list[tuple[str, float]]:
    """(prompt, severity) of CatQA and of HarmBench's standard behaviours without context, from the training data."""
    found: list[tuple[str, float]] = []
    for category, groups in json.loads((folder / "catqa.json").read_text()).items():
        if category in CATQA_SEVERITY:
            found += [(prompt.strip(), CATQA_SEVERITY[category]) for prompts in groups.values() for prompt in prompts]
    with open(folder / "harmbench.csv", newline="") as handle:
        for row in csv.DictReader(handle):
            if row["FunctionalCategory"] == "standard":
                found.append((row["Behavior"].strip(), HARMBENCH_SEVERITY.get(row["SemanticCategory"], 2.0)))
    return found


def harmless_prompts(folder: Path) -> dict[str, list[str]]:
    """Harmless prompts by source, each of 3 to 700 characters, from the training data."""

    def records(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (folder / name).read_text().split("\n") if line.strip()]

    sources: dict[str, list[str]] = {
        "mmlu": [row["question"] for row in records("mmlu_questions.jsonl")],
        "t0": [row["prompt"] for row in records("t0_prompts.jsonl")],
        "code": [row["instruction"] for row in records("gpteacher_codegen.jsonl")],
        "gsm8k": [row["question"] for row in records("gsm8k_train.jsonl")],
        "vicuna": [row["turns"][0] for row in records("vicuna_bench_question.jsonl")],
        "mt": [row["turns"][0] for row in records("mt_bench.jsonl")],
    }
    for name, file in (("seed", "seed_tasks.jsonl"), ("user", "user_oriented_instructions.jsonl")):
        rows: list[str] = []
        for record in records(file):
            given = record["instances"][0]["input"].strip()
            rows.append(record["instruction"])
            if given and len(given) < 400:
                rows.append(f"{record['instruction']}\n{given}")
        sources[name] = rows
    plays = json.loads((folder / "gpteacher_roleplay.json").read_text())
    sources["roleplay"] = [
        f"{row['instruction']}\n{row['input']}".strip() if row["input"] else row["instruction"] for row in plays
    ]
    calls = json.loads((folder / "gpteacher_toolformer.json").read_text())
    sources["toolformer"] = [row["instruction"].split("\n")[-1] for row in calls]
    return {name: [row.strip() for row in rows if 3 <= len(row.strip()) <= 700] for name, rows in sources.items()}
