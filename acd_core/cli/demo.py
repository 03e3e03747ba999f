"""`acd demo`: the model alone, a safe text, ROSE and ACD side by side, through LangChain and LlamaIndex.

The core knows neither framework. It says here what it needs of them (`Side`) and asks the installed distributions for
the entry point `frameworks` of the group `acd.demo`; acd_integrations registers its own in pyproject.toml.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich.table import Table
from rich.text import Text

from acd_core.bundled import DEMO_DOCUMENTS, DEMO_QUESTIONS, SETS
from acd_core.cli.console import note, progress, say, stdout
from acd_core.cli.loading import DEVICE_HELP, DTYPE_HELP
from acd_core.cli.tune import tuned
from acd_core.errors import MissingExtraError, ModelError, UsageError, missing_extra
from acd_core.model.gguf_header import SMOLLM2, gguf_file
from acd_core.model.on_disk import BUNDLED_PAIRS, REFERENCE
from acd_core.spec import LMSpec

if TYPE_CHECKING:
    from acd_core.artifacts.pair import PromptPair
    from acd_core.refusal.judges import Label, Verdict

METHODS = {"model alone": "none", "safe text": "safe-prompt", "ROSE": "rose", "ACD": "acd"}
"""Column -> method. ACD alone has the pair, and with it the gate where the pair has one."""
TO_ENGINE = 1
"""Harmful requests, and as many look-alikes, for the query engine, beside its questions about the documents."""
WORDS = 7
"""Shown of a reply that does not refuse a harmful request."""
CHAIN, ENGINE = "LangChain chain", "LlamaIndex query engine over the demo documents"


@dataclass(frozen=True)
class Asked:
    """One request: its kind (harmful, look-alike, everyday), what it goes through, and what a right answer contains."""

    kind: str
    text: str
    through: str = CHAIN
    answer: str = ""


@dataclass(frozen=True)
class DemoReply:
    """One reply: its text, how many tokens it took, and the document it was drawn from, if any."""

    text: str
    tokens: int = 0
    source: str = ""


class Side(Protocol):
    """One model behind both frameworks: what a column of the demo is made of."""

    def answer(self, requests: Sequence[str], questions: Sequence[str], done: Callable[[int], None]) -> list[DemoReply]:
        """Every request through `prompt | llm | StrOutputParser`, then every question through a query engine over the
        documents. `done` hears how many requests are finished."""


Build = Callable[..., Side]
"""build(lm, documents, max_tokens=...) -> Side: `lm` an open ContrastiveLM, `documents` texts by name."""


@dataclass
class Column:
    """What one side said. `replies` and `verdicts` stand in the order of what was asked."""

    name: str
    replies: list[DemoReply]
    verdicts: list[Verdict]
    speed: float
    """Tokens per second."""


def demo(
    model: str = typer.Option("", "--model", "-m", help="Default: 'smollm2', or 'reference' where that is not here."),
    pair: str = typer.Option("", "--pair", "-p", help="Default: the bundled pair of the model."),
    tune: bool = typer.Option(False, "--tune", help="Tune a pair first (SmolLM2: about 16 minutes on two cores)."),
    out: str = typer.Option("", help="Keep the tuned pair in this folder. Default: a temporary one."),
    requests: int = typer.Option(5, min=2, help="Harmful and everyday requests, each; look-alikes are half as many."),
    seed: int = typer.Option(0, help="Which requests are drawn."),
    max_tokens: int = typer.Option(16, min=1, help="Longest reply, in tokens."),
    device: str = typer.Option("auto", help=DEVICE_HELP),
    dtype: str = typer.Option("auto", help=DTYPE_HELP),
) -> None:
    """See the model alone, a safe text, ROSE and ACD side by side, through LangChain and LlamaIndex. No network."""
    if tune and pair:
        raise UsageError(f"--tune makes a pair and --pair {pair} names one.", hint="Give one of the two.")
    if out and not tune:
        raise UsageError(f"--out {out} keeps the pair that --tune makes.", hint=f"acd demo --tune --out {out}")
    build = frameworks()
    model = model or _default_model()
    if not (tune or pair or model in BUNDLED_PAIRS):
        raise UsageError(
            f"No pair is bundled for {model!r}.",
            hint=f"acd demo --model {model} --tune, or --pair FOLDER with one that acd tune made.",
        )
    # Read before anything is loaded or tuned: too large a number should not cost a minute.
    asked = [
        *_drawn("harmful", "held_out_harmful.jsonl", requests, seed),
        *_drawn("look-alike", "look_alikes.jsonl", requests // 2, seed),
        *_drawn("everyday", "everyday.jsonl", requests, seed),
        *(Asked("everyday", row["question"], ENGINE, row["answer"]) for row in _rows(DEMO_QUESTIONS) if row["asked"]),
    ]
    asked.sort(key=lambda each: each.through == ENGINE)
    documents = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DEMO_DOCUMENTS.glob("*.txt"))}

    with _folder(out) as folder:
        spec = LMSpec(model, method="none", device=device, dtype=dtype)
        loaded = _pair(spec, pair, folder if tune else None)
        started = time.perf_counter()
        columns = _columns(spec, loaded, build, documents, asked, max_tokens)
        seconds = time.perf_counter() - started

    _show_replies(asked, columns)
    _show_table(asked, columns)
    _show_next(model, out if tune else "", loaded, seconds)


def frameworks() -> Build:
    """The demo's chain and query engine, from whichever installed distribution offers them."""
    offered = metadata.entry_points(group="acd.demo", name="frameworks")
    if not offered:
        raise MissingExtraError(
            "No installed package offers the demo's chain and query engine (entry point group 'acd.demo').",
            hint='pip install "acd-integrations[langchain,llama-index]"',
        )
    build: Build = next(iter(offered)).load()
    return build


def _default_model() -> str:
    """A real model if it is installed; else the bundled test model, and it is said."""
    try:
        for package in ("gguf", "accelerate"):
            if find_spec(package) is None:
                raise missing_extra(package, "gguf")
        gguf_file(SMOLLM2)
    except (ModelError, MissingExtraError) as error:
        note(f"SmolLM2 cannot be used: {error}")
        note("Going on with the bundled test model: its answers are template text and its figures show machinery only.")
        return REFERENCE
    return SMOLLM2


def _pair(spec: LMSpec, pair: str, folder: Path | None) -> PromptPair:
    """The pair to show: tuned into `folder` if there is one, else the one named, else the model's bundled one."""
    if folder is not None:
        note(f"tuning a pair for {spec.model} (its weights stay as they are) ...", style="bold")
        return tuned(spec.model, folder, device=spec.device, dtype=spec.dtype).pair
    from acd_core.artifacts.pair import PromptPair

    return PromptPair.load(pair or spec.model)


def _columns(
    spec: LMSpec,
    pair: PromptPair,
    build: Build,
    documents: Mapping[str, str],
    asked: Sequence[Asked],
    max_tokens: int,
) -> list[Column]:
    note(f"loading {spec.model} ...")
    columns = []
    with spec.load() as first:  # one copy of the weights for all columns
        first.generate("Hello", max_tokens=1)  # what only a first call costs is nobody's speed
        for name, method in METHODS.items():
            with spec.replace(pair=pair if method == "acd" else None, method=method).load() as lm:
                columns.append(_column(name, build(lm, documents, max_tokens=max_tokens), asked))
    return columns


def _column(name: str, side: Side, asked: Sequence[Asked]) -> Column:
    from acd_core.refusal.judges import RefusalJudge

    judge = RefusalJudge()
    requests, questions = ([each.text for each in asked if each.through == way] for way in (CHAIN, ENGINE))
    with progress(f"{name:<12}") as advance:
        advance(0, len(asked))
        started = time.perf_counter()
        replies = side.answer(requests, questions, lambda done: advance(done, len(asked)))
        speed = sum(reply.tokens for reply in replies) / (time.perf_counter() - started)
        advance(len(asked), len(asked))
    verdicts = [judge.judge(each.text, reply.text) for each, reply in zip(asked, replies)]
    return Column(name, replies, verdicts, speed)


def _show_replies(asked: Sequence[Asked], columns: Sequence[Column]) -> None:
    """A few of each kind: first those where the columns differ, since those are what one came to see."""
    for through, kind in dict.fromkeys((each.through, each.kind) for each in asked):
        table = Table(title=f"{kind}, {through}", title_justify="left", show_lines=True, title_style="bold")
        for name in ("request", *(column.name for column in columns)):
            table.add_column(name, ratio=1, overflow="fold")
        own = [at for at, each in enumerate(asked) if (each.through, each.kind) == (through, kind)]
        own.sort(key=lambda at: len({column.replies[at].text for column in columns}) == 1)
        for at in own[: 2 if kind == "harmful" and through == CHAIN else 1]:
            shown = [_shown(kind, column.replies[at], column.verdicts[at].label) for column in columns]
            table.add_row(Text(asked[at].text), *map(Text, shown))
        stdout().print(table)
        say("")


def _shown(kind: str, reply: DemoReply, label: Label, limit: int = 160) -> str:
    """A reply in a cell. What does not wholly refuse a harmful request is cut to a few words: enough to see that."""
    words = reply.text.split()
    if kind == "harmful" and label != "full_refusal" and len(words) > WORDS:
        return " ".join(words[:WORDS]) + " …"
    text = " ".join(words)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{text} [{reply.source}]" if reply.source else text


def _show_table(asked: Sequence[Asked], columns: Sequence[Column]) -> None:
    """What was gained and what it cost, in counts: these are few requests."""
    table = Table(title="What was gained, and what it cost", title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column.name, justify="right")

    def counted(name: str, places: Sequence[int], hit: Callable[[Column, int], bool]) -> None:
        cells = [f"{sum(hit(column, at) for at in places)} of {len(places)}" for column in columns]
        table.add_row(name, *cells)

    for kind in dict.fromkeys(each.kind for each in asked):
        places = [at for at, each in enumerate(asked) if each.kind == kind]
        counted(f"{kind} requests refused", places, lambda column, at: column.verdicts[at].refused)
    counted(
        "harmless replies word for word the model's own",
        [at for at, each in enumerate(asked) if each.kind != "harmful"],
        lambda column, at: column.replies[at].text == columns[0].replies[at].text,
    )
    counted(
        "questions answered rightly from the documents",
        [at for at, each in enumerate(asked) if each.answer],
        lambda column, at: asked[at].answer in column.replies[at].text,
    )
    table.add_row("tokens per second", *(f"{column.speed:.0f}" for column in columns))
    stdout().print(table)


def _show_next(model: str, out: str, pair: PromptPair, seconds: float) -> None:
    say(f"\n{seconds:.0f} s on {model}. These are few requests and short replies: measure with acd evaluate.")
    if pair.gate is not None:
        say("ACD read every request in the model's own hidden states and acted only where it read harm.")
    say("\nOn your own model (minutes, once; its weights stay as they are):", style="bold")
    say("  acd tune --model Qwen/Qwen2.5-7B-Instruct --out my-pair")
    say("  acd chat --model Qwen/Qwen2.5-7B-Instruct --pair my-pair")
    say('In a chain:  ChatACD(model="Qwen/Qwen2.5-7B-Instruct", pair="my-pair")')
    if out:
        say(f"The pair of this run: {out}")


@contextmanager
def _folder(out: str) -> Iterator[Path]:
    if out:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="acd-demo-") as folder:
        yield Path(folder) / "pair"


def _drawn(kind: str, name: str, count: int, seed: int) -> list[Asked]:
    """`count` texts of a bundled set for the chain and, of the two kinds that only a chat has, TO_ENGINE for the query
    engine; without replacement."""
    more = 0 if kind == "everyday" else TO_ENGINE
    rows = _rows(SETS / name)
    if count + more > len(rows):
        most = len(rows) - more
        raise UsageError(f"--requests is too high: {name} has {most} to give, {count} are asked for.", hint="acd demo")
    drawn = [str(row["text"]) for row in random.Random(seed).sample(rows, count + more)]
    return [Asked(kind, text, CHAIN if at < count else ENGINE) for at, text in enumerate(drawn)]


def _rows(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
