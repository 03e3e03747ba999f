"""Progress on stderr: with rich what is done, how fast, how long it will still take, and the latest figures; without a
terminal the same as a line every so many seconds, so that a log shows that something happens."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

EVERY_SECONDS = 15.0
"""Between two lines where there is no terminal."""


class Bar:
    """A progress bar as a context manager; `shown=False` makes it do nothing. rich is imported on first showing."""

    def __init__(self, title: str, total: int, *, shown: bool = True, unit: str = "/s") -> None:
        self._title, self._total, self._shown, self._unit = title, total, shown, unit
        self._progress: Any = None
        self._task: Any = None
        self._done, self._began, self._printed = 0, 0.0, 0.0

    def __enter__(self) -> Bar:
        self._began = self._printed = time.monotonic()
        if self._shown and not sys.stderr.isatty():
            print(f"{self._title}: {self._total} to do", file=sys.stderr, flush=True)
        elif self._shown:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._task = self._progress.add_task(self._title, total=self._total, rate="", figures="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        elif self._shown and kind is None:
            self._print_line("")

    def advance(self, count: int = 1, figures: str = "") -> None:
        """Count `count` more as done; `figures` (losses, rates) replace what stood behind the bar if given."""
        self._done += count
        if self._progress is None:
            if self._shown and time.monotonic() - self._printed >= EVERY_SECONDS:
                self._print_line(figures)
            return
        self._progress.advance(self._task, count)
        speed = self._progress.tasks[0].speed
        fields: dict[str, Any] = {"rate": f"{speed:.1f}{self._unit}" if speed else ""}
        if figures:
            fields["figures"] = figures
        self._progress.update(self._task, **fields)

    def say(self, text: str) -> None:
        """A line of its own above the bar."""
        if self._progress is not None:
            self._progress.console.print(text)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)

    def _print_line(self, figures: str) -> None:
        self._printed = time.monotonic()
        spent = f"{self._printed - self._began:.0f} s"
        print(f"{self._title}: {self._done} of {self._total}, {spent}  {figures}".rstrip(), file=sys.stderr, flush=True)
