"""Loads sets of prompts: public ones from their published files or the hub, bundled ones of ours, a user's own file.

Nothing is fetched unless a name asks for it. A set is found in the data directory: the argument, else the environment
variable ACD_DATA. Harmful prompts never appear in logs or error messages; items are named by id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from acd_core import bundled
from acd_core.errors import UsageError
from acd_core.evaluation.attacks import ATTACKS, attack, is_attack, plain_text
from acd_core.evaluation.items import Benchmark, Item, Kind, items_of, read_items
from acd_core.evaluation.set_files import fetch_set, find_file, need_columns, read_rows

Rows = Sequence[Any]


@dataclass(frozen=True)
class Published:
    """A public set: its kind, published files (any of them will do), columns, licence, source, and place on the hub.

    prompt, category, target: columns. where: keeps rows. make: rows to items, where columns do not say it all.
    hub: a data set id and a part of the file's path there; None where no faithful copy is known to us. The hub's copies
    name their columns themselves.
    """

    kind: Kind
    files: tuple[str, ...]
    licence: str
    source: str
    prompt: str | None = None
    category: str | None = None
    target: str | None = None
    where: tuple[str, str] | None = None
    make: Callable[[Rows], list[Item]] | None = None
    hub: tuple[str, str | None] | None = None

    def load(self, name: str, data: str | Path | None = None, *, hub: bool = False) -> Benchmark:
        """Raises UsageError naming the file or column, or why the hub did not give it."""
        hint = f"; or from the hub: {name}@hub" if self.hub else ""
        if hub and self.hub is None:
            raise UsageError(
                f"{name} has no known place on the hub.", hint=f"Put {self.files[0]} into the data folder."
            )
        path = fetch_set(*self.hub) if hub and self.hub else find_file(self.files, data, hint)
        rows = read_rows(path)
        if self.where is not None:
            need_columns(path.name, rows, self.where[0])
            rows = [row for row in rows if row[self.where[0]] == self.where[1]]
        columns = () if path.name not in self.files else (self.prompt, self.category, self.target)
        found = self.make(rows) if self.make is not None else read_items(path.name, rows, *columns)
        if not found:
            raise UsageError(f"{path.name} has no rows.", hint=f"Use the released file {self.files[0]}.")
        return Benchmark(name, self.kind, items_of(name, found), self.licence, self.source)


def _harmfulqa(rows: Rows) -> list[Item]:
    """The first 20 questions of every topic: the rest may be trained on (data/README.md). Released as a tree
    {topic: {subtopic: [question]}}, on the hub as rows with topic and question."""
    tree: dict[str, list[str]] = {}
    for row in rows:
        if isinstance(row, Mapping) and isinstance(row.get("question"), str):
            tree.setdefault(str(row.get("topic", "")), []).append(row["question"])
        elif isinstance(row, Mapping) and all(isinstance(each, Mapping) for each in row.values()):
            for topic, subtopics in row.items():
                tree.setdefault(topic, []).extend(text for texts in subtopics.values() for text in texts)
        else:
            raise UsageError("harmfulqa.json is not {topic: {subtopic: [question]}}.", hint="Use the released file.")
    return [Item("", text, topic) for topic, texts in tree.items() for text in texts[:20]]


def _harmbench(rows: Rows) -> list[Item]:
    """Behaviours; those with a context are asked in HarmBench's own frame: context, a rule, behaviour."""
    column = "Behavior" if rows and isinstance(rows[0], Mapping) and "Behavior" in rows[0] else "prompt"
    found = read_items("harmbench", rows, column)
    context = [str(row.get("ContextString") or row.get("context") or "").strip() for row in rows]
    return [
        replace(item, prompt=f"{text}\n\n---\n\n{item.prompt}", request=item.prompt) if text else item
        for item, text in zip(found, context)
    ]


def _mt_bench(rows: Rows) -> list[Item]:
    """First turns: the second ones answer the model's own first reply."""
    first = [
        {**row, "prompt": turns[0], "id": ""} if isinstance(turns := row.get("turns", row.get("prompt")), list) else row
        for row in rows
        if isinstance(row, Mapping)
    ]
    return read_items("mt_bench", first, "prompt", "category")


def _continued(rows: Rows) -> list[Item]:
    """Statements to continue: they were made to be sent without chat format."""
    return [plain_text(item, item.prompt) for item in read_items("safety_completionattack.json", rows)]


_XSTEST = ("xstest.csv", "xstest_prompts.csv", "xstest_v2_prompts.csv")
LOADERS: Mapping[str, Published] = {
    "advbench": Published(
        "harmful", ("advbench.csv", "harmful_behaviors.csv"), "MIT", "Zou 2023", "goal", target="target",
        hub=("walledai/AdvBench", None),
    ),
    "malicious-instruct": Published(
        "harmful", ("malicious_instruct.txt", "MaliciousInstruct.txt"), "research, none stated", "Huang 2023",
        hub=("walledai/MaliciousInstruct", None),
    ),
    "harmfulqa": Published(
        "harmful", ("harmfulqa.json",), "Apache-2.0", "Bhardwaj 2023", make=_harmfulqa,
        hub=("declare-lab/HarmfulQA", None),
    ),
    "dangerousqa": Published("harmful", ("dangerousqa.json",), "Apache-2.0", "Shaikh 2023"),
    "beavertails": Published(
        "harmful", ("beavertails.jsonl", "beavertails_evaluation.jsonl", "test.jsonl.xz", "test.jsonl.gz"),
        "CC BY-NC 4.0", "Ji 2023, the evaluation set", "prompt", "category",
        hub=("PKU-Alignment/BeaverTails-Evaluation", None),
    ),
    "harmbench": Published(
        "harmful", ("harmbench.csv", "harmbench_behaviors_text_all.csv", "harmbench_behaviors_text_test.csv"),
        "MIT", "Mazeika 2024", make=_harmbench, hub=("walledai/HarmBench", "standard/"),
    ),
    "jailbreakbench": Published(
        "harmful", ("jailbreakbench.csv", "harmful-behaviors.csv"), "MIT", "Chao 2024", "Goal", "Category", "Target",
        hub=("JailbreakBench/JBB-Behaviors", "data/harmful-behaviors.csv"),
    ),
    "strongreject": Published(
        "harmful", ("strongreject.csv", "strongreject_dataset.csv"), "MIT", "Souly 2024", "forbidden_prompt",
        "category", hub=("walledai/StrongREJECT", None),
    ),
    "xstest-unsafe": Published(
        "harmful", _XSTEST, "CC BY 4.0", "Roettger 2024", "prompt", "type", where=("label", "unsafe"),
        hub=("walledai/XSTest", None),
    ),
    "derta-codeattack": Published("harmful", ("safety_codeattack.json",), "MIT", "Yuan 2024, attacked prompts"),
    "derta-completionattack": Published(
        "harmful", ("safety_completionattack.json",), "MIT", "Yuan 2024, statements to continue", make=_continued
    ),
    "derta-jailbreakchat": Published("harmful", ("safety_jailbreakchat.json",), "MIT", "Yuan 2024, attacked prompts"),
    "xstest-safe": Published(
        "harmless", _XSTEST, "CC BY 4.0", "Roettger 2024", "prompt", "type", where=("label", "safe"),
        hub=("walledai/XSTest", None),
    ),
    "oktest": Published("harmless", ("oktest.csv", "OKTest.csv"), "none stated", "Shi 2024", "prompt"),
    "jailbreakbench-benign": Published(
        "harmless", ("jailbreakbench_benign.csv", "benign-behaviors.csv"), "MIT", "Chao 2024", "Goal", "Category",
        hub=("JailbreakBench/JBB-Behaviors", "data/benign-behaviors.csv"),
    ),
    "alpaca-eval": Published(
        "harmless", ("alpaca_eval_300.json", "alpaca_eval.json"), "as AlpacaEval, evaluation only", "Li 2023",
        hub=("tatsu-lab/alpaca_eval", "alpaca_eval.json"),
    ),
    "truthfulqa": Published(
        "harmless", ("truthfulqa.csv", "TruthfulQA.csv"), "Apache-2.0", "Lin 2022", "Question", "Category",
        hub=("truthfulqa/truthful_qa", "generation/"),
    ),
    "mt-bench": Published(
        "harmless", ("mt_bench.jsonl", "question.jsonl"), "Apache-2.0", "Zheng 2023, first turns", make=_mt_bench,
        hub=("HuggingFaceH4/mt_bench_prompts", None),
    ),
}  # fmt: skip
"""The public sets by name."""
BUNDLED: Mapping[str, Kind] = {"held-out-harmful": "harmful", "everyday": "harmless", "look-alikes": "harmless"}
"""Our own sets, held out from all training and tuning."""


def load_benchmark(name: str, data: str | Path | None = None) -> Benchmark:
    """The set that `name` says.

    advbench                     a key of LOADERS or BUNDLED, from its published file in the data directory
    advbench@hub                 the same from the hub
    harmful:FILE, harmless:FILE  a user's own file; FILE#column names its prompt column
    harmful:hub:OWNER/SET        a hub data set; OWNER/SET/part-of-path#column says which file and column
    NAME+begun16                 any of them under an attack, one of `attacks.ATTACKS`

    Raises UsageError naming the expected file or column, or the known names.
    """
    base, plus, way = name.rpartition("+")
    if plus and base and (is_attack(way) or _has_name(base)):  # a file's name may hold a plus
        return attack(load_benchmark(base, data), way, data)
    kind, _, rest = name.partition(":")
    if rest and kind in ("harmful", "harmless"):
        return _given("harmful" if kind == "harmful" else "harmless", rest)
    if name in BUNDLED:
        return _bundled(name, BUNDLED[name])
    known, _, place = name.partition("@")
    if known not in LOADERS or place not in ("", "hub"):
        every = ", ".join((*LOADERS, *BUNDLED))
        raise UsageError(
            f"There is no benchmark {name!r}.",
            hint=f"Known: {every}, or harmful:PATH, harmless:PATH, harmful:hub:OWNER/SET; then "
            f"NAME@hub, NAME+{', NAME+'.join(ATTACKS)}",
        )
    return LOADERS[known].load(known, data, hub=place == "hub")


def _has_name(name: str) -> bool:
    return re.split(r"[@+]", name, maxsplit=1)[0] in (*LOADERS, *BUNDLED)


def _given(kind: Kind, place: str) -> Benchmark:
    path, _, column = place.partition("#")
    if not path.startswith("hub:"):
        return read_benchmark(path, kind, column=column or None)
    parts = path.removeprefix("hub:").split("/", 2)
    return load_hub("/".join(parts[:2]), kind, column or None, file=parts[2] if len(parts) > 2 else None)


def read_benchmark(
    path: str | Path, kind: Kind, name: str | None = None, *, column: str | None = None, category: str | None = None
) -> Benchmark:
    """A user's own prompts: CSV, JSON lines, a JSON list (also .gz, .xz), parquet, or plain text with one a line.

    column, category: the columns of prompt and category; None finds the usual names (`items.PROMPT_FIELDS`). Rows
    may also hold id, prefill and messages (`items.read_items`).
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r}.", hint="Give a .jsonl, .json, .csv or .txt of prompts.")
    title = name or file.name.partition(".")[0]
    items = items_of(title, read_items(file.name, read_rows(file), column, category))
    if not items:
        raise UsageError(f"{file.name} holds no prompts.", hint="One prompt a line, or a field 'prompt'.")
    return Benchmark(title, kind, items, "the user's own", str(file))


def load_hub(
    dataset_id: str,
    kind: Kind,
    column: str | None = None,
    *,
    category: str | None = None,
    file: str | None = None,
    revision: str | None = None,
) -> Benchmark:
    """Prompts of a hub data set; needs the network (or the hub's cache). `file`: a path in it, or a part of one."""
    path = fetch_set(dataset_id, file, revision)
    found = read_benchmark(path, kind, dataset_id.rsplit("/", 1)[-1], column=column, category=category)
    return replace(found, licence="see the hub", source=dataset_id)


def _bundled(name: str, kind: Kind) -> Benchmark:
    text = (bundled.SETS / f"{name.replace('-', '_')}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    items = tuple(Item(row["id"], row["text"], row["category"]) for row in rows)
    return Benchmark(name, kind, items, "Apache-2.0", "ours, held out: never trained or tuned on")
