"""Reads the permissive prompts of shared/data/train by path and restates free text; no sentence of them is kept in the project."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path

DATA = Path("/work/shared/data/train")
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


def harmful_prompts() -> list[tuple[str, float]]:
    """(prompt, severity) of CatQA and HarmBench's standard behaviours without context; empty when the data is absent."""
    found: list[tuple[str, float]] = []
    if (DATA / "catqa.json").exists():
        for category, groups in json.loads((DATA / "catqa.json").read_text()).items():
            if category in CATQA_SEVERITY:
                found += [
                    (prompt.strip(), CATQA_SEVERITY[category]) for prompts in groups.values() for prompt in prompts
                ]
    if (DATA / "harmbench.csv").exists():
        with open(DATA / "harmbench.csv", newline="") as handle:
            for row in csv.DictReader(handle):
                if row["FunctionalCategory"] == "standard":
                    found.append((row["Behavior"].strip(), HARMBENCH_SEVERITY.get(row["SemanticCategory"], 2.0)))
    return found


def _lines(name: str, key: str) -> list[str]:
    path = DATA / name
    return (
        [str(json.loads(line)[key]) for line in path.read_text().split("\n") if line.strip()] if path.exists() else []
    )


def harmless_prompts() -> dict[str, list[str]]:
    """Harmless prompts by source, each at most 700 characters."""
    sources: dict[str, list[str]] = {
        "mmlu": _lines("mmlu_questions.jsonl", "question"),
        "t0": _lines("t0_prompts.jsonl", "prompt"),
        "code": _lines("gpteacher_codegen.jsonl", "instruction"),
        "gsm8k": _lines("gsm8k_train.jsonl", "question"),
        "vicuna": _lines("vicuna_bench_question.jsonl", "turns")
        and [
            json.loads(line)["turns"][0]
            for line in (DATA / "vicuna_bench_question.jsonl").read_text().split("\n")
            if line
        ],
        "mt": [json.loads(line)["turns"][0] for line in (DATA / "mt_bench.jsonl").read_text().split("\n") if line]
        if (DATA / "mt_bench.jsonl").exists()
        else [],
    }
    for name, file in (("seed", "seed_tasks.jsonl"), ("user", "user_oriented_instructions.jsonl")):
        rows: list[str] = []
        if (DATA / file).exists():
            for line in (DATA / file).read_text().strip().split("\n"):
                record = json.loads(line)
                given = record["instances"][0]["input"].strip()
                rows += (
                    [record["instruction"], f"{record['instruction']}\n{given}"]
                    if given and len(given) < 400
                    else [record["instruction"]]
                )
        sources[name] = rows
    for name, file in (("roleplay", "gpteacher_roleplay.json"), ("toolformer", "gpteacher_toolformer.json")):
        rows = []
        if (DATA / file).exists():
            for record in json.loads((DATA / file).read_text()):
                text = record["instruction"] if name == "roleplay" else record["instruction"].split("\n")[-1]
                rows.append(f"{text}\n{record['input']}".strip() if record["input"] and name == "roleplay" else text)
        sources[name] = rows
    return {
        name: [row.strip() for row in rows if 3 <= len(row.strip()) <= 700] for name, rows in sources.items() if rows
    }
