"""Progress on stderr with rich: what is done, how fast, how long it will still take, and the latest figures."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Bar:
    """A progress bar as a context manager; `shown=False` makes it do nothing. rich is imported on first showing."""

    def __init__(self, title: str, total: int, *, shown: bool = True, unit: str = "/s") -> None:
        self._title, self._total, self._shown, self._unit = title, total, shown, unit
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self._shown:
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

    def advance(self, count: int = 1, figures: str = "") -> None:
        """Count `count` more as done; `figures` (losses, rates) replace what stood behind the bar if given."""
        if self._progress is None:
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
