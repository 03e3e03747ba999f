"""Where a run keeps what it has done, and that it is alone there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from acd_core.errors import TuningError
from acd_core.files.saving import BusyError, failing_as, locked, save_file

LOCK = ".running.lock"
_PATIENCE = 0.3  # seconds: one that ends at this moment is waited for


def work_folder(out: Path, end: str = "tuning") -> Path:
    """Where a run towards the folder `out` keeps what it has done."""
    return out.with_name(f"{out.name}.{end}")


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Within, no other run works in the folder `work`, which is there meanwhile and goes if nothing is kept in it. The
    same thread may ask again.

    Raises TuningError where another run does, or no file can be made there: before anything takes long. What a killed
    run left holds nobody up.
    """
    try:
        with _holding(work / LOCK, work):
            yield
    finally:
        with suppress(OSError):
            work.rmdir()


@contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """As `alone_in`, for one file that a run adds to."""
    with _holding(file.with_name(f".{file.name}.lock"), file):
        yield


@contextmanager
def _holding(lock: Path, what: Path) -> Iterator[None]:
    with ExitStack() as held:
        with failing_as(TuningError, f"Nothing can be kept in {str(what)!r}"):
            try:
                held.enter_context(locked(lock, _PATIENCE))
            except BusyError:
                raise TuningError(
                    f"Another run is at work in {str(what)!r}.",
                    hint="Wait until it has ended, or give another folder with --out.",
                ) from None
        yield


def write_beside(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with failing_as(TuningError, f"The state of the run cannot be kept in {str(path)!r}"):
        save_file(path, data)
