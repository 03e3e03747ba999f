"""The checks that need a GPU, one part a process, and the page made of all parts; benchmarks/on_gpu.sh runs them.

    python benchmarks/gpu_checks.py facts --work FOLDER        # the card, the driver, the libraries
    python benchmarks/gpu_checks.py graphs --work FOLDER       # CUDA graphs: the same replies as without, flat memory
    python benchmarks/gpu_checks.py identities --work FOLDER   # alpha 0, batches and streams change no token
    python benchmarks/gpu_checks.py page --work FOLDER --out FOLDER

A part writes FOLDER/<part>.json as it goes, so that what was found before a time limit is kept. `--device cpu --small`
runs every part in seconds. The page needs the standard library only: it is also made where torch cannot be loaded.
What is checked is `ARMS` of benchmarks/decoding_cost.py: an arm added there is checked here, and each takes as long
as another.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "pydantic", "numpy", "jinja2")
FOR_TESTS = ("pytest", "pytest_asyncio", "pytest_socket", "pytest_benchmark", "pytest_timeout", "hypothesis")
UNUSABLE = 3
"""Exit status of `facts` where no other part can run."""

NEAR = {"float32": 1e-3, "bfloat16": 0.25}
"""Two tokens whose log-probabilities are this close may change places where kernels add in another order."""

FLAT_MIB = {"cuda": 1.0, "cpu": 64.0}
"""How much the memory held may grow and still be called flat; a CPU's is the process's resident size."""

REREAD = 6
"""Tokens between two readings of a gate here: the shortest replies have eight."""

SAFE = "You are a careful assistant. Refuse what could harm anybody."
OPPOSITE = "You are a reckless assistant. Answer whatever is asked."


class Findings:
    """Tables of one part, on disk after every row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables: dict[str, Any] = {}
        self.verdicts: list[str] = []

    def add(self, table: str, row: dict[str, Any]) -> None:
        self.tables.setdefault(table, []).append(row)
        if "verdict" in row:
            self.verdicts.append(row["verdict"])
        self.path.write_text(json.dumps(self.tables, indent=1) + "\n")
        print(f"{table}: " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()), flush=True)

    def end(self) -> int:
        """The last line of the log, and the exit status."""
        counts = {verdict: self.verdicts.count(verdict) for verdict in sorted(set(self.verdicts))}
        print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()) or "nothing was checked")
        return int(not counts or any(verdict.isupper() for verdict in counts))


# -- facts ------------------------------------------------------------------------------------------------------------


def facts(asked: argparse.Namespace) -> int:
    """Where this runs, and whether anything else can."""
    card = "unknown card" if asked.device.startswith("cuda") else "CPU"
    found: dict[str, Any] = {"device": asked.device, "card": card, "python": platform.python_version()}
    if (smi := shutil.which("nvidia-smi")) and asked.device.startswith("cuda"):
        query = [smi, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
        found |= dict(zip(("card", "driver", "memory"), (lines or [""])[0].split(", ")))
    for name in LIBRARIES:
        found[name] = version(name)
    missing = [name for name in FOR_TESTS if importlib.util.find_spec(name) is None]
    found["missing for tests"] = ", ".join(missing) or "nothing"
    problem = ""
    asked.file.write_text(json.dumps(found, indent=1) + "\n")  # kept if what follows hangs
    try:
        import torch

        found["cuda"] = torch.version.cuda or "none"
        if asked.device.startswith("cuda"):
            found["card"] = torch.cuda.get_device_name(asked.device)
            major, minor = torch.cuda.get_device_capability(asked.device)
            found["compute capability"] = f"{major}.{minor}"
            torch.ones(8, device=asked.device).sum().item()
        import acd_core.lm  # noqa: F401  whatever it needs is needed by every part
    except Exception as error:
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        hint = "; put wheels of what is missing or too old (transformers >= 5.20) in a folder and name it in $WHEELS"
        problem += hint if isinstance(error, ImportError) else ""
        found["problem"] = without_paths(problem)
    asked.file.write_text(json.dumps(found, indent=1) + "\n")
    for name, value in found.items():
        print(f"{name}: {value}")
    return UNUSABLE if problem else 0


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"


# -- what is checked --------------------------------------------------------------------------------------------------


@dataclass
class Subject:
    """One model with a pair."""

    name: str
    dtype: str
    device: str
    model: Any
    tokenizer: Any
    pair: Any

    def opened(self, decode: str = "auto", **more: Any) -> Any:
        """A ContrastiveLM with an engine of its own mode, gated where a call says so; close it before the next."""
        from acd_core import ContrastiveLM
        from acd_core.engine import EngineOptions

        pair = more.pop("pair", self.pair)
        options = EngineOptions(decode=decode)  # type: ignore[arg-type]
        return ContrastiveLM.from_model(self.model, self.tokenizer, pair, options=options, gate=False, **more)


def subjects(asked: argparse.Namespace) -> Iterator[Subject]:
    """The bundled model with its pair, and a small random Llama with random vectors, in both dtypes. Their gates never
    open by themselves."""
    from decoding_cost import Bench, never_opening

    from acd_core import PromptPair
    from acd_core.model.backbone import Backbone

    size = "10m" if asked.small else "120m"
    for dtype in NEAR:
        backbone = Backbone.load("reference", dtype=dtype, device=asked.device)
        pair = replace(PromptPair.load("reference", backbone=backbone), gate=never_opening(backbone.model))
        yield Subject("bundled model", dtype, asked.device, backbone.model, backbone.tokenizer, pair)
        del backbone
        bench = Bench(size, dtype, asked.device)
        bench.acd.close()
        bench.lm.close()
        yield Subject(f"random Llama, {size}", dtype, asked.device, bench.model, bench.tokenizer, bench.pair)


def conversations(small: bool) -> list[str]:
    """Prompts of several lengths; the longest one grows past the smallest window (static.LEAST_WINDOW)."""
    lengths = (0, 4, 12) if small else (1, 2, 5, 9, 17, 40, 60)
    asks = ("tell me about bread", "how do trains run", "what do bees do in winter", "name a few trees", "plan a walk")
    return [f"{asks[n % len(asks)]}, {'please and with care, ' * length}number {n}" for n, length in enumerate(lengths)]


@dataclass
class Said:
    """A greedy reply: its ids, and the best tokens at every step with their log-probabilities."""

    ids: tuple[int, ...]
    best: list[dict[int, float]]


def said(reply: Any) -> Said:
    return Said(reply.token_ids, [dict(noted.top) for noted in reply.logprobs or ()])


def gap_between(reply: Said, other: Sequence[int]) -> float:
    """How far apart the two tokens are at which the replies part, by the first one's scores. 0 for equal replies."""
    if list(reply.ids) == list(other):
        return 0.0
    at = next((i for i, (a, b) in enumerate(zip(reply.ids, other)) if a != b), min(len(reply.ids), len(other)))
    if at >= len(reply.best):
        return math.inf
    best = reply.best[at]
    first = max(best.values())
    if at < len(reply.ids) and at < len(other):
        return first - best.get(other[at], -math.inf)
    ordered = sorted(best.values())  # one of the two ended here: the next best stands for its end
    return first - ordered[-2]


def compared(replies: Sequence[Said], others: Sequence[Sequence[int]], dtype: str | None) -> dict[str, Any]:
    """Columns about two lists of replies. dtype: how near is near; None where every token must be the same."""
    gaps = [gap_between(reply, other) for reply, other in zip(replies, others)]
    same = sum(list(reply.ids) == list(other) for reply, other in zip(replies, others))
    worst = max(gaps, default=0.0)
    verdict = "same" if same == len(replies) == len(others) else "DIFFERENT"
    if verdict != "same" and dtype is not None and len(replies) == len(others) and worst <= NEAR[dtype]:
        verdict = "apart at near ties"
    return {
        "replies equal": f"{same} of {len(replies)}",
        "widest gap": worst if math.isfinite(worst) else "not among the best five",
        "distinct tokens": len({token for reply in replies for token in reply.ids}),
        "verdict": verdict,
    }


def settled(lm: Any) -> None:
    """No row is held, nothing is known from before."""
    from decoding_cost import settle

    settle(lm)
    lm.engine.prefixes.clear()


# -- CUDA graphs ------------------------------------------------------------------------------------------------------

MODES = ("eager", "static", "graphs")


def graphs(asked: argparse.Namespace) -> int:
    """Every decode mode says the same, takes what was asked for, and holds no more memory after many requests."""
    findings = Findings(asked.file)
    for subject in subjects(asked):
        replies: dict[str, dict[str, list[Said]]] = {}
        for mode in MODES:
            with subject.opened(mode) as lm:
                replies[mode] = {name: spoken(lm, asked, arm) for name, arm in arms().items()}
                taken, reason = lm.engine.decode_mode
                # Without a CUDA device graphs are not to be had, and the engine says so by "static".
                expected = "static" if mode == "graphs" and not subject.device.startswith("cuda") else mode
                findings.add("modes", {
                    "model": subject.name, "dtype": subject.dtype, "asked for": mode, "taken": taken, "why": reason,
                    **{f"{name}, ms a token": paced(lm, asked, arm) for name, arm in arms().items()},
                    "verdict": "as asked" if taken == expected else "NOT AS ASKED",
                })  # fmt: skip
        for mode, other in (("graphs", "eager"), ("static", "eager"), ("graphs", "static")):
            for name in arms():
                others = [reply.ids for reply in replies[mode][name]]
                findings.add("replies", {
                    "model": subject.name, "dtype": subject.dtype, "arm": name, "compared": f"{mode} with {other}",
                    **compared(replies[other][name], others, subject.dtype),
                })  # fmt: skip
        findings.add("memory", flat(subject, asked))
    return findings.end()


def arms() -> dict[str, dict[str, Any]]:
    """What is checked. Replies here are shorter than the arms' `recheck`, so a gate reads them every REREAD tokens."""
    from decoding_cost import ARMS

    found = {}
    for name, arm in ARMS.items():
        if arm.get("recheck"):
            name, arm = f"{name}, read every {REREAD}", {**arm, "recheck": REREAD}
        found[name] = arm
    return found


def spoken(lm: Any, asked: argparse.Namespace, arm: dict[str, Any]) -> list[Said]:
    """Greedy replies to every conversation alone, and to all together."""
    items, settings = conversations(asked.small), {"max_tokens": asked.new, "logprobs": 5, **arm}
    settled(lm)
    alone = [lm.generate(item, **settings) for item in items]
    return [said(reply) for reply in (*alone, *lm.generate(items, **settings))]


def paced(lm: Any, asked: argparse.Namespace, arm: dict[str, Any]) -> float:
    """Milliseconds a token of one request alone, the prompt included: the median of three."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        reply = lm.generate(conversations(True)[0], max_tokens=asked.new, **arm)
        times.append(1e3 * (time.perf_counter() - started) / max(reply.usage.completion_tokens, 1))
    return statistics.median(times)


def flat(subject: Subject, asked: argparse.Namespace) -> dict[str, Any]:
    """Memory held after the first third of the requests (every shape was met by then), and after the last."""
    items, chosen = conversations(asked.small), list(arms().values())
    count = 3 * math.lcm(4, len(items), len(chosen))
    held: list[float] = []
    with subject.opened("graphs") as lm:
        for number in range(count):
            # One to four at once, each arm in turn, the same few over and over: the first third meets every shape.
            some = [items[(number + other) % len(items)] for other in range(1 + number % 4)]
            lm.generate(some, max_tokens=8, **chosen[number % len(chosen)])
            if number in (count // 3, count - 1):
                settled(lm)
                held.append(memory_held(subject.device))
        taken = lm.engine.decode_mode[0]
    grown = held[1] - held[0]
    return {
        "model": subject.name, "dtype": subject.dtype, "mode": taken, "calls": count,
        "held after a third, MiB": held[0], "at the end, MiB": held[1], "grown, MiB": grown,
        "verdict": "flat" if grown <= FLAT_MIB[subject.device.split(":")[0]] else "GROWING",
    }  # fmt: skip


def memory_held(device: str) -> float:
    """MiB of tensors on a GPU; of the process on a CPU."""
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024  # type: ignore[union-attr]


# -- identities -------------------------------------------------------------------------------------------------------


def identities(asked: argparse.Namespace) -> int:
    """Alpha 0 is stock generate; batched is single; streamed is unstreamed."""
    findings = Findings(asked.file)
    for subject in subjects(asked):
        facts_ = {"model": subject.name, "dtype": subject.dtype}
        findings.add("identities", {**facts_, "arm": "alpha 0", "identity": "alpha 0 is stock generate",
                                    **alpha_zero(subject, asked)})  # fmt: skip
        with subject.opened(deterministic=True) as lm:
            for name, arm in arms().items():
                for identity, row in same_work(lm, asked, arm, subject.dtype):
                    findings.add("identities", {**facts_, "arm": name, "identity": identity, **row})
    return findings.end()


def alpha_zero(subject: Subject, asked: argparse.Namespace) -> dict[str, Any]:
    """Under a textual pair with alpha 0, what transformers' generate says under the safe text."""
    from acd_core import PromptPair

    items = conversations(asked.small)
    with subject.opened(pair=PromptPair.from_texts(SAFE, OPPOSITE)) as lm:
        replies = [said(lm.generate(item, max_tokens=asked.new, alpha=0.0, logprobs=5)) for item in items]
        stock = [stock_greedy(subject, lm.chat.layout(item, SAFE).ids, asked.new) for item in items]
    return compared(replies, stock, subject.dtype)


def stock_greedy(subject: Subject, ids: Sequence[int], new: int) -> list[int]:
    import torch

    prompt = torch.tensor([list(ids)], device=subject.device)
    with torch.no_grad():
        out = subject.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, do_sample=False, pad_token_id=0
        )
    reply = out[0, len(ids) :].tolist()
    ends = subject.model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    return reply[: next((at for at, token in enumerate(reply) if token in ends), len(reply))]


def same_work(
    lm: Any, asked: argparse.Namespace, arm: dict[str, Any], dtype: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(identity, columns). Each way starts with nothing known, as a known prefix is computed in other shapes."""
    from acd_core.params import Done, TextDelta

    items, settings = conversations(asked.small), {"max_tokens": asked.new, "logprobs": 5, **arm}
    fresh = each_fresh(lm, items, lambda item: lm.generate(item, **settings))
    single = [said(reply) for reply in fresh]
    streams = each_fresh(lm, items, lambda item: list(lm.stream(item, **settings)))
    settled(lm)
    in_order = [said(lm.generate(item, **settings)) for item in items]
    settled(lm)
    batched = lm.generate(items, **settings)
    yield "batched is single (deterministic)", compared(in_order, [reply.token_ids for reply in batched], None)
    ends = [next(event.generation for event in events if isinstance(event, Done)) for events in streams]
    row = compared(single, [reply.token_ids for reply in ends], None)
    texts = ["".join(event.text for event in events if isinstance(event, TextDelta)) for events in streams]
    if texts != [reply.text for reply in fresh]:
        row["verdict"] = "OTHER TEXT"
    yield "streamed is unstreamed", row
    # Rounding may show here, and nothing but rounding: keys that were kept, where the others were computed.
    yield "a known prefix is an unknown one", compared(single, [reply.ids for reply in in_order], dtype)


def each_fresh(lm: Any, items: Sequence[str], work: Callable[[str], Any]) -> list[Any]:
    made = []
    for item in items:
        settled(lm)
        made.append(work(item))
    return made


# -- the page ---------------------------------------------------------------------------------------------------------


def page(asked: argparse.Namespace) -> int:
    """Everything found so far, as one JSON file and one Markdown page that carry the card's name."""
    known = read_json(asked.work / "facts.json") or {"card": "unknown card"}
    card = known["card"]
    parts = []
    status = asked.work / "parts.tsv"
    for line in status.read_text().splitlines() if status.exists() else ():
        name, rc, seconds, budget, note = line.split("\t")
        log = asked.work / f"{name}.log"
        lines = without_paths(log.read_text(errors="replace")).splitlines() if log.exists() else []
        lines = [each for each in (line.rpartition("\r")[2].rstrip() for line in lines) if each]
        part = {"part": name, "outcome": outcome(int(rc), note), "seconds": int(seconds), "time limit": int(budget)}
        # Another benchmark's last line tells little, its tables do.
        told = bool(lines) and not (rc == "0" and (asked.work / name).is_dir())
        part["last line"] = lines[-1][-160:] if told else ""
        if int(rc) not in (0, 77):
            part["end of the log"] = lines[-30:]
        part["tables"] = {} if name == "facts" else tables_of(asked.work, name)
        parts.append(part)
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{slug}.json").write_text(json.dumps({"machine": known, "parts": parts}, indent=1) + "\n")
    heads = ("part", "outcome", "seconds", "time limit", "last line")
    lines = [f"# On a GPU: {card}" if card != "CPU" else "# On a CPU: what benchmarks/on_gpu.sh checks, tried out", ""]
    lines += [*(f"- {name}: {value}" for name, value in known.items()), "", "`bash benchmarks/on_gpu.sh`", ""]
    lines += [table(heads, [[part[head] for head in heads] for part in parts]), "", NOTE, ""]
    for part in parts:
        if part["tables"] or "end of the log" in part:
            lines += [f"## {part['part']}", ""]
        for name, rows in part["tables"].items():
            columns = list(dict.fromkeys(head for row in rows for head in row))
            lines += [f"{name}:", "", table(columns, [[row.get(head, "") for head in columns] for row in rows]), ""]
        if "end of the log" in part:
            lines += ["The end of its log:", "", "```text", *part["end of the log"], "```", ""]
    (asked.out / f"{slug}.md").write_text("\n".join(lines))
    print(f"{slug}.md")
    return 0


NOTE = f"""\
A gap is the difference of the log-probabilities of the two tokens at which two greedy replies part: kernels that add in
another order may swap tokens that are nearly as likely. Up to {NEAR["float32"]} (float32) and {NEAR["bfloat16"]}
(bfloat16) this is called a near tie, and the gap shown is the widest. `single` of a decoding part: seconds as a
multiple of `plain_generate`, which is transformers' own generate with one row a request."""


def outcome(rc: int, note: str) -> str:
    named = {0: "passed", 77: "left out", 124: "out of time", 137: "out of time"}.get(rc, f"failed ({rc})")
    return f"{named}: {note}" if note else named


def tables_of(work: Path, name: str) -> dict[str, list[dict[str, Any]]]:
    """Every list of rows in what a part wrote: a file of ours, or a folder of another benchmark."""
    files = [work / f"{name}.json", *sorted((work / name).glob("*.json"))]
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        for key, rows in (read_json(file) or {}).items():
            if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
                found[key] = rows
    return found


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def without_paths(text: str) -> str:
    """No folder of this machine: paths in the repository from its root, others by their last part."""
    return re.sub(r"(?<![\w.:/])/(?:[\w.+@~-]+/)+", ".../", text.replace(f"{ROOT}/", ""))


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(cell(each).replace("|", "\\|") for each in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])


def cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


PARTS: dict[str, Callable[[argparse.Namespace], int]] = {
    "facts": facts, "graphs": graphs, "identities": identities, "page": page,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes: does the script work?")
    parser.add_argument("--work", type=Path, required=True, help="where parts leave what they found")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu")
    asked = parser.parse_args()
    asked.new = 12 if asked.small else 32
    asked.file = asked.work / f"{asked.part}.json"
    asked.work.mkdir(parents=True, exist_ok=True)
    return PARTS[asked.part](asked)


if __name__ == "__main__":
    sys.exit(main())
