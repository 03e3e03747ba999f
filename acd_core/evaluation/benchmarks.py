"""Prompts to measure on: public sets from local files, two bundled sets of our own, and a user's own file.

Nothing is fetched. A set is found in the data directory: the argument, else the environment variable ACD_DATA, else
`shared/data/eval` beside the checkout. Harmful prompts never appear in logs or error messages; items are named by id.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from acd_core.errors import UsageError, missing_extra

Kind = Literal["harmful", "harmless"]
_BUNDLED = ("everyday", "held-out-harmful")


@dataclass(frozen=True)
class Item:
    """One prompt. `id` is unique within its benchmark and stable between runs.

    messages: the conversation to send instead of `prompt` as one user turn. prefill: what the reply begins with; the
    model continues it. request: what is really asked for, where an attack wraps it; judges read `asked`.
    """

    id: str
    prompt: str
    category: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    prefill: str = ""
    request: str = ""

    @property
    def asked(self) -> str:
        """The request itself, without the attack around it."""
        return self.request or self.prompt

    def conversation(self) -> str | list[dict[str, Any]]:
        """What `ContrastiveLM.generate` takes: the prompt as a text, or messages where there is more than that."""
        if not self.messages and not self.prefill:
            return self.prompt
        turns = [dict(each) for each in self.messages] or [{"role": "user", "content": self.prompt}]
        return [*turns, {"role": "assistant", "content": self.prefill}] if self.prefill else turns


@dataclass(frozen=True)
class Benchmark:
    """A named set of prompts of one kind. `harmful`: a refusal is wanted. `harmless`: an answer is wanted."""

    name: str
    kind: Kind
    items: tuple[Item, ...]
    licence: str = ""
    source: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, n: int | None, seed: int = 0) -> Benchmark:
        """`n` items drawn without replacement with `seed`, in the set's own order. None or n >= len gives all."""
        if n is not None and n < 1:
            raise UsageError(f"A sample needs at least 1 prompt (given: {n}).", hint="Give n=100, or None for all.")
        if n is None or n >= len(self.items):
            return self
        chosen = sorted(random.Random(seed).sample(range(len(self.items)), n))
        return Benchmark(self.name, self.kind, tuple(self.items[i] for i in chosen), self.licence, self.source)


# --- finding files ---


def data_directory(data: str | Path | None = None) -> Path:
    """Where the public sets lie: `data`, else ACD_DATA, else shared/data/eval beside the checkout (may not exist)."""
    given = data or os.environ.get("ACD_DATA")
    return Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data" / "eval"


def _file(name: str, data: str | Path | None) -> Path:
    folder = data_directory(data)
    path = folder / name
    if not path.is_file():
        raise UsageError(
            f"The file {name} was not found in {str(folder)!r}.",
            hint=f"Put {name} there, or name its folder: export ACD_DATA=/path/to/folder (or --data /path/to/folder)",
        )
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name} is not UTF-8 text.", hint=f"Save {path.name} as UTF-8.") from error


def _json(path: Path) -> Any:
    """A JSON document, or JSON lines as a list."""
    text = _text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UsageError(
                    f"{path.name}, line {number}: not JSON ({error.msg}).", hint="One JSON object a line is expected."
                ) from None
    return rows


def _csv(path: Path, *columns: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(_text(path), newline="")))
    missing = [name for name in columns if rows and name not in rows[0]]
    if missing or not rows:
        raise UsageError(
            f"{path.name} has no {'rows' if not rows else 'column ' + ', '.join(missing)}.",
            hint=f"Expected a CSV with the columns {', '.join(columns)}.",
        )
    return rows


def _items(name: str, prompts: Iterable[tuple[str, str]]) -> tuple[Item, ...]:
    """(prompt, category) pairs as items, numbered in file order; blank prompts and repeats are left out."""
    items: list[Item] = []
    seen: set[str] = set()
    for number, (prompt, category) in enumerate(prompts, start=1):
        key = normalised(prompt)
        if key and key not in seen:
            seen.add(key)
            items.append(Item(f"{name}-{number:04d}", prompt.strip(), category))
    return tuple(items)


# --- the sets ---


def _advbench(data: str | Path | None) -> Benchmark:
    rows = _csv(_file("advbench.csv", data), "goal")
    return Benchmark("advbench", "harmful", _items("advbench", ((row["goal"], "") for row in rows)), "MIT", "Zou 2023")


def _malicious(data: str | Path | None) -> Benchmark:
    lines = _text(_file("malicious_instruct.txt", data)).splitlines()
    items = _items("malicious", ((line, "") for line in lines))
    return Benchmark("malicious-instruct", "harmful", items, "research, none stated", "Huang 2023")


def _harmfulqa(data: str | Path | None) -> Benchmark:
    """The first 20 questions of every topic: the rest may be trained on (data/README.md)."""
    topics = _json(_file("harmfulqa.json", data))
    if not isinstance(topics, dict) or not all(isinstance(each, dict) for each in topics.values()):
        raise UsageError("harmfulqa.json is not {topic: {subtopic: [question]}}.", hint="Use the released file.")
    pairs = []
    for topic, subtopics in topics.items():
        pairs += [(text, topic) for questions in subtopics.values() for text in questions][:20]
    return Benchmark("harmfulqa", "harmful", _items("harmfulqa", pairs), "Apache-2.0", "Bhardwaj 2023")


def _dangerousqa(data: str | Path | None) -> Benchmark:
    rows = _strings(_json(_file("dangerousqa.json", data)), "dangerousqa.json")
    return Benchmark("dangerousqa", "harmful", _items("dangerousqa", rows), "Apache-2.0", "Shaikh 2023")


def _xstest(kind: Kind) -> Callable[[str | Path | None], Benchmark]:
    label = "safe" if kind == "harmless" else "unsafe"

    def load(data: str | Path | None) -> Benchmark:
        rows = _csv(_file("xstest.csv", data), "prompt", "type", "label")
        items = _items(f"xstest-{label}", ((row["prompt"], row["type"]) for row in rows if row["label"] == label))
        return Benchmark(f"xstest-{label}", kind, items, "CC BY 4.0", "Roettger 2024")

    return load


def _alpaca(data: str | Path | None) -> Benchmark:
    rows = _strings(_json(_file("alpaca_eval_300.json", data)), "alpaca_eval_300.json")
    return Benchmark("alpaca-eval", "harmless", _items("alpaca", rows), "as AlpacaEval, evaluation only", "Li 2023")


def _truthfulqa(data: str | Path | None) -> Benchmark:
    rows = _csv(_file("truthfulqa.csv", data), "Question", "Category")
    items = _items("truthfulqa", ((row["Question"], row["Category"]) for row in rows))
    return Benchmark("truthfulqa", "harmless", items, "Apache-2.0", "Lin 2022")


def _derta(attack: str) -> Callable[[str | Path | None], Benchmark]:
    def load(data: str | Path | None) -> Benchmark:
        name = f"safety_{attack}.json"
        rows = _strings(_json(_file(name, data)), name)
        return Benchmark(f"derta-{attack}", "harmful", _items(attack, rows), "MIT", "Yuan 2024, attacked prompts")

    return load


def _bundled(name: str, kind: Kind) -> Callable[[str | Path | None], Benchmark]:
    def load(_: str | Path | None) -> Benchmark:
        resource = files("acd_core.evaluation").joinpath(f"{name.replace('-', '_')}.jsonl")
        rows = [json.loads(line) for line in resource.read_text(encoding="utf-8").splitlines()]
        items = tuple(Item(row["id"], row["text"], row["category"]) for row in rows)
        return Benchmark(name, kind, items, "Apache-2.0", "ours, held out: never trained or tuned on")

    return load


def _strings(rows: Any, name: str) -> list[tuple[str, str]]:
    """A list of texts, or of objects with question, instruction, prompt, goal or text."""
    found = []
    for number, row in enumerate(rows if isinstance(rows, list) else [None], start=1):
        text = row if isinstance(row, str) else _prompt_of(row) if isinstance(row, dict) else None
        if text is None:
            raise UsageError(
                f"{name}, entry {number}: no prompt found.", hint="Entries are texts, or objects with a field 'prompt'."
            )
        found.append((text, str(row.get("category", "")) if isinstance(row, dict) else ""))
    return found


def _prompt_of(row: Mapping[str, Any]) -> str | None:
    named = (row.get(field) for field in ("prompt", "question", "instruction", "goal", "text"))
    return next((text for text in named if isinstance(text, str)), None)


LOADERS: Mapping[str, tuple[Kind, Callable[[str | Path | None], Benchmark]]] = {
    "advbench": ("harmful", _advbench),
    "malicious-instruct": ("harmful", _malicious),
    "harmfulqa": ("harmful", _harmfulqa),
    "dangerousqa": ("harmful", _dangerousqa),
    "xstest-unsafe": ("harmful", _xstest("harmful")),
    "derta-codeattack": ("harmful", _derta("codeattack")),
    "derta-completionattack": ("harmful", _derta("completionattack")),
    "derta-jailbreakchat": ("harmful", _derta("jailbreakchat")),
    "held-out-harmful": ("harmful", _bundled("held-out-harmful", "harmful")),
    "xstest-safe": ("harmless", _xstest("harmless")),
    "alpaca-eval": ("harmless", _alpaca),
    "truthfulqa": ("harmless", _truthfulqa),
    "everyday": ("harmless", _bundled("everyday", "harmless")),
}


def load_benchmark(name: str, data: str | Path | None = None) -> Benchmark:
    """The set called `name` (a key of LOADERS), or a user's .jsonl, .json or .csv as "harmful:PATH" / "harmless:PATH".

    Raises UsageError naming the expected file or column, or the known names.
    """
    kind, _, path = name.partition(":")
    if path and kind in ("harmful", "harmless"):
        return read_benchmark(path, "harmful" if kind == "harmful" else "harmless")
    if name not in LOADERS:
        raise UsageError(
            f"There is no benchmark {name!r}.", hint=f"Known: {', '.join(LOADERS)}, or harmful:PATH, harmless:PATH"
        )
    return LOADERS[name][1](data)


def read_benchmark(path: str | Path, kind: Kind, name: str | None = None) -> Benchmark:
    """A user's own prompts: JSON lines, a JSON list, or a CSV with a column prompt (also category, id), or plain text.

    Objects may name the prompt `prompt`, `question`, `instruction`, `goal` or `text`.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no file {str(file)!r}.", hint="Give a .jsonl, .json, .csv or .txt of prompts.")
    title = name or file.stem
    if file.suffix.lower() == ".csv":
        rows: list[tuple[str, str]] = _strings(list(_csv(file)), file.name)
    elif file.suffix.lower() in (".json", ".jsonl"):
        rows = _strings(_json(file), file.name)
    else:
        rows = [(line, "") for line in _text(file).splitlines()]
    items = _items(title, rows)
    if not items:
        raise UsageError(f"{file.name} holds no prompts.", hint="One prompt a line, or a field 'prompt'.")
    return Benchmark(title, kind, items, "the user's own", str(file))


def load_hub(dataset_id: str, kind: Kind, column: str, *, split: str = "test", config: str | None = None) -> Benchmark:
    """Prompts of a hub data set, only when asked for by this call. Needs the package `datasets` and the network."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise missing_extra("datasets", "eval") from error
    rows = datasets.load_dataset(dataset_id, config, split=split)
    if column not in rows.column_names:
        raise UsageError(f"{dataset_id} has no column {column!r}.", hint=f"Columns: {', '.join(rows.column_names)}")
    title = dataset_id.rsplit("/", 1)[-1]
    return Benchmark(title, kind, _items(title, ((str(text), "") for text in rows[column])), "see the hub", dataset_id)


# --- attacks ---


def jailbreak_templates(data: str | Path | None = None) -> dict[str, str]:
    """Named jailbreak templates (Self-Reminder's data, MIT). The request goes where [INSERT PROMPT HERE] stands."""
    rows = _csv(_file("jailbreak_templates.csv", data), "name", "prompt")
    return {row["name"]: row["prompt"] for row in rows}


def attacked(benchmark: Benchmark, template: str, name: str) -> Benchmark:
    """Every prompt of `benchmark` put into `template` (at [INSERT PROMPT HERE], else at its end)."""
    slot = "[INSERT PROMPT HERE]"

    def wrap(prompt: str) -> str:
        return template.replace(slot, prompt) if slot in template else f"{template}\n{prompt}"

    items = tuple(Item(f"{item.id}@{name}", wrap(item.prompt), item.category) for item in benchmark.items)
    return Benchmark(f"{benchmark.name}@{name}", benchmark.kind, items, benchmark.licence, benchmark.source)


# --- overlap ---


def normalised(text: str) -> str:
    """`text` for comparison: Unicode compatibility form, case folded, words only, single spaces."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(char if char.isalnum() else " " for char in folded).split())


def check_overlap(tuning: Iterable[str], benchmarks: Sequence[Benchmark]) -> None:
    """Raises UsageError when a tuning text is also a test prompt (after `normalised`); names ids, never texts."""
    known = {normalised(text) for text in tuning} - {""}
    for benchmark in benchmarks:
        shared = [item.id for item in benchmark.items if normalised(item.prompt) in known]
        if shared:
            raise UsageError(
                f"{len(shared)} prompt(s) of {benchmark.name} were tuned on: {', '.join(shared[:5])}.",
                hint="Take them out of the tuning anchors, or leave this benchmark out of the report.",
            )
