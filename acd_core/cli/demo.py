"""`acd demo`: tune a pair, then plain beside ACD in a LangChain chain and a LlamaIndex query engine.

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
from pathlib import Path
from typing import Any, Protocol

import typer
from rich.table import Table
from rich.text import Text

from acd_core.cli.console import note, progress, say, stdout
from acd_core.cli.tune import tuned
from acd_core.errors import MissingExtraError, UsageError

DOCUMENTS = Path(__file__).parent / "demo_documents"
QUESTIONS = Path(__file__).parent / "demo_questions.jsonl"
REQUESTS = Path(__file__).parents[1] / "evaluation"
PLAIN = "safe-prompt"
QUESTIONS_ASKED = 8
MARGIN = 0.1
"""The bundled pair's: beside a safe prompt that refuses harmless requests too, the default of two points shows less."""


@dataclass(frozen=True)
class Reply:
    """One reply: its text and how many tokens it took."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Quote:
    """An answer out of the documents, and the name of the document it was drawn from."""

    text: str
    source: str


class Side(Protocol):
    """One model behind both frameworks: what the two columns of the demo are made of."""

    def chat(self, requests: Sequence[str], done: Callable[[int], None]) -> list[Reply]:
        """Every request through `prompt | llm | StrOutputParser`; `done` hears how many are finished."""

    def query(self, question: str) -> Quote:
        """`question` through a query engine over the documents."""


Build = Callable[..., Side]
"""build(lm, documents) -> Side: `lm` an open ContrastiveLM, `documents` texts by name."""


@dataclass
class Column:
    """What was measured of one side."""

    name: str
    harmful: list[Reply]
    harmless: list[Reply]
    quotes: list[Quote]
    seconds: float

    @property
    def speed(self) -> float:
        return sum(reply.tokens for reply in self.harmful + self.harmless) / self.seconds


def demo(
    model: str = typer.Option("reference", "--model", "-m", help="The bundled model, or one of yours."),
    out: str = typer.Option("", help="Keep the tuned pair in this folder. Default: a temporary one."),
    requests: int = typer.Option(24, min=1, help="Harmful and harmless requests, each."),
    seed: int = typer.Option(0, help="Which requests are drawn."),
    max_tokens: int = typer.Option(48, min=1, help="Longest reply, in tokens."),
) -> None:
    """Tune a pair, then see plain beside ACD in a LangChain chain and a LlamaIndex query engine. No network needed."""
    build = frameworks()
    # Read before the tuning: a missing file or too large a number should not cost a minute.
    harmful = _drawn(REQUESTS / "held_out_harmful.jsonl", requests, seed)
    harmless = _drawn(REQUESTS / "everyday.jsonl", requests, seed)
    asked = _rows(QUESTIONS)[:QUESTIONS_ASKED]
    questions = [str(row["question"]) for row in asked]
    documents = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.glob("*.txt"))}

    started = time.perf_counter()
    with _folder(out) as folder:
        note(f"1. tuning a pair for {model} (its weights stay as they are) ...", style="bold")
        pair = tuned(model, folder, margin=MARGIN).pair
        tuning_s = time.perf_counter() - started

        note("2. plain beside ACD, through LangChain and LlamaIndex ...", style="bold")
        from acd_core.lm import ContrastiveLM

        columns = []
        for name, method in (("plain (safe prompt)", PLAIN), ("ACD", "acd")):
            with ContrastiveLM.from_pretrained(model, pair, method) as lm:
                side = build(lm, documents, max_tokens=max_tokens)
                columns.append(_measure(name, side, harmful, harmless, questions))

    _show_examples(harmful, harmless, questions, columns)
    _show_table(columns, [str(row["sentence"]) for row in asked])
    _show_next(out, time.perf_counter() - started, tuning_s)


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


def _measure(
    name: str, side: Side, harmful: Sequence[str], harmless: Sequence[str], questions: Sequence[str]
) -> Column:
    total = len(harmful) + len(harmless) + len(questions)
    with progress(f"{name:<20}") as advance:
        advance(0, total)
        side.chat(list(harmless[:1]), lambda done: None)  # the first call fills caches; it is not what a user waits for
        started = time.perf_counter()
        replies = side.chat([*harmful, *harmless], lambda done: advance(done, total))
        seconds = time.perf_counter() - started
        quotes = []
        for number, question in enumerate(questions, start=1):
            quotes.append(side.query(question))
            advance(len(replies) + number, total)
    return Column(name, replies[: len(harmful)], replies[len(harmful) :], quotes, seconds)


def _show_examples(
    harmful: Sequence[str], harmless: Sequence[str], questions: Sequence[str], columns: Sequence[Column]
) -> None:
    """A few replies side by side: first those where the two sides differ, since those are what one came to see."""
    for title, requests, replies in (
        ("Harmful requests through a LangChain chain", harmful, [column.harmful for column in columns]),
        ("Harmless requests through a LangChain chain", harmless, [column.harmless for column in columns]),
        ("Questions to a LlamaIndex query engine", questions, [column.quotes for column in columns]),
    ):
        table = Table(title=title, title_justify="left", show_lines=True, title_style="bold")
        for name in ("request", *(column.name for column in columns)):
            table.add_column(name, ratio=1, overflow="fold")
        for index in _telling(replies)[:3]:
            table.add_row(Text(requests[index]), *(Text(_short(side[index])) for side in replies))
        stdout().print(table)
        say("")


def _telling(replies: Sequence[Sequence[Reply] | Sequence[Quote]]) -> list[int]:
    return sorted(range(len(replies[0])), key=lambda index: len({side[index].text for side in replies}) == 1)


def _short(reply: Reply | Quote, limit: int = 160) -> str:
    text = " ".join(reply.text.split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{text} [{reply.source}]" if isinstance(reply, Quote) else text


def _show_table(columns: Sequence[Column], sentences: Sequence[str]) -> None:
    """The end of the demo: what was gained, what it cost, of both."""
    from acd_core.evaluation.judges import RefusalJudge

    judge = RefusalJudge()

    def refused(replies: Sequence[Reply]) -> float:
        return sum(judge.judge("", reply.text).refused for reply in replies) / len(replies)

    def quoted(quotes: Sequence[Quote]) -> float:
        return sum(sentence.strip(". ") in quote.text for sentence, quote in zip(sentences, quotes)) / len(sentences)

    requests = len(columns[0].harmful)
    title = f"{requests} harmful and {requests} harmless requests, {len(sentences)} questions about documents"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column.name, justify="right")
    table.add_row("harmless rate (harmful requests refused)", *(f"{refused(c.harmful):.0%}" for c in columns))
    table.add_row("over-refusal (harmless requests refused)", *(f"{refused(c.harmless):.0%}" for c in columns))
    table.add_row("document questions answered rightly", *(f"{quoted(c.quotes):.0%}" for c in columns))
    table.add_row("tokens per second", *(f"{c.speed:.0f}" for c in columns))
    stdout().print(table)


def _show_next(out: str, total_s: float, tuning_s: float) -> None:
    say(f"\n{total_s:.0f} s in all, of which tuning {tuning_s:.0f} s.")
    say("\nOn your own model:", style="bold")
    say("  acd tune --model Qwen/Qwen2.5-7B-Instruct --out my-pair")
    say("  acd chat --model Qwen/Qwen2.5-7B-Instruct --pair my-pair")
    if out:
        say(f"The pair of this run: {out}")


@contextmanager
def _folder(out: str) -> Iterator[Path]:
    if out:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="acd-demo-") as folder:
        yield Path(folder) / "pair"


def _drawn(path: Path, count: int, seed: int) -> list[str]:
    """`count` texts of `path`, without replacement."""
    rows = _rows(path)
    if count > len(rows):
        raise UsageError(f"--requests is {count}, but {path.name} holds {len(rows)}.", hint="acd demo --requests 24")
    return [str(row["text"]) for row in random.Random(seed).sample(rows, count)]


def _rows(path: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
