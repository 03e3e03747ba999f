"""What the verbs print with: results on stdout, the course of the work on stderr, plain when not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from acd_core.files.reading import visible

# A pipe has no width; tables laid out for 80 columns would break words for nobody's benefit.
PIPE_WIDTH = 110


def stdout() -> Console:
    """For results. Text of users and models is never read as markup."""
    return _console(stderr=False)


def stderr() -> Console:
    """For progress, reasons and errors."""
    return _console(stderr=True)


class _Console(Console):
    """Nothing that is printed can steer the terminal: what comes from files and models is shown with its control
    characters written out, wherever it stands (a cell, a title, a line)."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text), style, control)


def _console(*, stderr: bool) -> Console:
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def say(text: str, style: str = "") -> None:
    """Print one line on stdout, wrapped by the terminal and not by us."""
    stdout().print(Text(visible(text), style=style), soft_wrap=True)


def say_reply(text: str, end: str = "\n") -> None:
    """Print a model's words on stdout, at once: on a terminal without what could steer it, on a pipe as they are."""
    console = stdout()
    if console.is_terminal:
        console.print(Text(visible(text)), end=end, soft_wrap=True)
    else:
        sys.stdout.write(text + end)
    sys.stdout.flush()


def note(text: str, style: str = "dim") -> None:
    """Print one line on stderr."""
    stderr().print(Text(visible(text), style=style), soft_wrap=True)


def say_table(rows: dict[str, str], title: str = "") -> None:
    """Print names and values, aligned, on stdout."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(visible(name)), Text(visible(value)))
    if title:
        say(title, style="bold underline")
    stdout().print(table)


class Progressing(Protocol):
    """Called as work goes on: how much is done, of how much, and one short remark."""

    def __call__(self, done: int, total: int, remark: str = "") -> None: ...


@contextmanager
def progress(label: str) -> Iterator[Progressing]:
    """A bar on stderr; on a pipe one line for every tenth of the work."""
    console = stderr()
    if not console.is_terminal:
        yield _Lines(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remark]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None, remark="")

        def advance(done: int, total: int, remark: str = "") -> None:
            bar.update(task, completed=done, total=total, remark=remark)

        yield advance


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._tenth = -1

    def __call__(self, done: int, total: int, remark: str = "") -> None:
        tenth = 10 * done // total if total else 10
        if tenth != self._tenth:
            self._tenth = tenth
            note(f"{self._label}: {done}/{total} {remark}".rstrip())
