"""Saving in one step: a reader, a second writer and whoever comes after a kill find the old version or the new one.

A file is written beside and renamed. A folder that others read by the names in it (PEFT does) cannot be renamed over
another one on every system, and may hold files that are not ours. So a new version is first written whole into STAGED,
inside the folder; renaming its main file there, the last one, is the step that counts. From then on `read_folder` takes
it, and its files are moved to their places, the main file last. Whatever a killed writer left is finished or removed by
the next one. The main file names its parts with digests; `read_folder` gives no others.

Locks are the operating system's, which frees them when a process dies; where a file system knows none, there are none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Union

from acd_core.errors import ACDError
from acd_core.files.reading import read_bytes, reason_of

STAGED = ".acd-saving"
LOCK = ".acd-saving.lock"
PATIENCE = 20.0
"""Seconds that a writer waits for another one, and a reader for one state of a folder."""
_SAME_READS, _PAUSE = (
    4,
    0.02,
)  # a folder that was the same so many times, with such pauses, is damaged and not being written
_MOVES = 50  # on Windows a file that somebody reads at this moment cannot be replaced
_FULL = (errno.ENOSPC, errno.EDQUOT) if hasattr(errno, "EDQUOT") else (errno.ENOSPC,)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

Parts = Callable[[bytes], Mapping[str, Union[str, None]]]
"""From the main file's bytes to the parts it names, each with its sha256, or None where an older version says none."""
Names = Callable[[bytes], Collection[str]]
"""From the main file's bytes to every file that was saved with it, itself included. Raises for somebody else's file."""


class BusyError(OSError):
    """Somebody else holds the lock."""


class ForeignError(OSError):
    """What would be overwritten is not ours. `args[0]` says what, in words that continue a sentence."""


class MixedError(ValueError):
    """A part in a folder is not the one that its main file names. found: what was read, by name; wrong: which part."""

    def __init__(self, found: dict[str, bytes], wrong: str) -> None:
        super().__init__(f"{wrong} is not the one it was saved with")
        self.found, self.wrong = found, wrong


# --- one file ---


def save_file(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data` in one step. Raises OSError, BusyError among them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    with locked(path.with_name(f".{path.name}.lock"), PATIENCE):
        try:
            _write(beside, data)
            _move(beside, path)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        _flush_names(path.parent)


def leftovers_of(path: Path) -> list[Path]:
    """Return what killed writers of the file `path` may have left beside it."""
    return [beside for end in ("new", "lock") if (beside := path.with_name(f".{path.name}.{end}")).exists()]


# --- a folder ---


def check_folder(folder: Path, main: str, names: Names, files: Collection[str]) -> None:
    """Raise ForeignError where saving `files` to `folder` would overwrite, or stand amid, what was not saved by us; and
    OSError where nothing can be written. What `names` raises for a main file that is not ours comes through.

    Free are: no folder, an empty one, and one with a main file of ours, in which other files are left alone.
    """
    if not os.path.lexists(folder):
        check_writable(folder)
        return
    if not folder.is_dir():
        raise ForeignError("is no folder")
    there = {path.name for path in folder.iterdir()} - {STAGED, LOCK}
    own: set[str] = set()
    for place in (folder / STAGED / main, folder / main):
        if os.path.lexists(place):
            own.update(names(read_bytes(place)))
    if there and not own:
        raise ForeignError(f"holds {sorted(there)[0]!r} and no {main}")
    for name in files:
        inner = folder
        for part in Path(name).parts[:-1]:
            inner = inner / part
            if os.path.lexists(inner) and (inner.is_symlink() or not inner.is_dir()):
                raise ForeignError(f"holds {part!r}, which is not a plain folder")
        if os.path.lexists(folder / name) and (name not in own or (folder / name).is_dir()):
            raise ForeignError(f"holds {name!r}, which was not saved with its {main}")
    check_writable(folder)


def save_folder(folder: Path, main: str, files: Mapping[str, bytes], names: Names) -> None:
    """Make `files` (name -> bytes, `main` among them) the version that is saved in `folder`; what else is in it stays.

    Raises as `check_folder` does, BusyError where somebody else is saving there all the time, and OSError; then the
    old version is still there.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ForeignError("is no folder")
    made = _make_with_parents(folder)
    try:
        with locked(folder / LOCK, PATIENCE):
            _put_in_force(folder, main, names)
            check_folder(folder, main, names, files)
            _stage(folder / STAGED, main, files)
            _put_in_force(folder, main, names)
    except BaseException:
        for each in reversed(made):  # only those that are still empty go
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def read_folder(folder: Path, main: str, parts: Parts) -> dict[str, bytes]:
    """Return the main file of the version that is saved in `folder` and the parts it names, all of one version, by
    name.

    Raises FileNotFoundError for a missing file (its `filename` is the path), MixedError, and OSError. A writer at work
    is waited for; nothing is locked and nothing is written.
    """
    since, still = time.monotonic(), 0
    before: object = None
    while True:
        missing: OSError | None = None
        try:
            found, wrong = _read_version(folder, main, parts)
            if not wrong:
                return found
        except (FileNotFoundError, PermissionError) as error:  # the latter on Windows also for a file being replaced
            if isinstance(error, FileNotFoundError) and str(error.filename) == str(folder / main):
                raise  # at no moment of a save is there none
            found, wrong, missing = {}, str(error), error
        now = (wrong, [(name, hashlib.sha256(data).digest()) for name, data in found.items()])
        still = still + 1 if now == before else 1
        if still >= _SAME_READS or time.monotonic() - since > PATIENCE:
            if missing is not None:
                raise missing
            raise MixedError(found, wrong)
        before = now
        time.sleep(_PAUSE)


def has_version(folder: Path, main: str) -> bool:
    """Return whether a version was saved in `folder`, whatever became of it since."""
    return os.path.lexists(folder / STAGED / main) or os.path.lexists(folder / main)


def newest_place(folder: Path, main: str, name: str) -> Path:
    """Return where the file `name` of the version in `folder` lies now; a killed writer may not have moved it to its
    place.
    """
    staged = folder / STAGED
    return staged / name if (staged / main).is_file() and (staged / name).is_file() else folder / name


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each of `files`, as a main file names its parts."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return a hash of what `read_folder` gave: the same for the same version, wherever it lies."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def _read_version(folder: Path, main: str, parts: Parts) -> tuple[dict[str, bytes], str]:
    """Return what can be read now, and which part is not the one that the main file names ("" for none)."""
    text, staged = _read_main(folder, main)
    found, unsaid, wrong = {main: text}, False, ""
    for name, digest in parts(text).items():
        unsaid = unsaid or digest is None
        places = (folder / name,) if digest is None and not staged else (folder / STAGED / name, folder / name)
        right = False
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                found[name] = read_bytes(place)
                right = digest is None or hashlib.sha256(found[name]).hexdigest() == digest
            if right:
                break
        if name not in found:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / name))
        wrong = wrong or ("" if right else name)
    # A main file without digests cannot tell its parts from others: it must have been in force to the end.
    return found, wrong or (main if unsaid and _read_main(folder, main) != (text, staged) else "")


def _read_main(folder: Path, main: str) -> tuple[bytes, bool]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return read_bytes(folder / STAGED / main), True
    return read_bytes(folder / main), False


def _stage(staged: Path, main: str, files: Mapping[str, bytes]) -> None:
    """Write a whole version into `staged`; until the last step it counts for nothing."""
    try:
        for name, data in files.items():
            if name != main:
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                _write(staged / name, data)
        staged.mkdir(exist_ok=True)
        _write(staged / f"{main}.new", files[main])
        for folder in {(staged / name).parent for name in files}:
            _flush_names(folder)
        _move(staged / f"{main}.new", staged / main)
    except BaseException:
        if not (staged / main).exists():
            shutil.rmtree(staged, ignore_errors=True)
        raise
    _flush_names(staged)


def _put_in_force(folder: Path, main: str, names: Names) -> None:
    """Move a version that counts to its places, and remove what is left of one that does not. Can be killed anywhere
    and done again."""
    staged = folder / STAGED
    if not os.path.lexists(staged):
        return
    if (staged / main).is_file():
        fresh = names(read_bytes(staged / main))
        gone = set(names(read_bytes(folder / main))) - set(fresh) if (folder / main).is_file() else set()
        for name in sorted(gone):
            (folder / name).unlink(missing_ok=True)
            _remove_if_empty((folder / name).parent, folder)
        for name in fresh:
            if name != main and (staged / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                _move(staged / name, folder / name)
        for place in {(folder / name).parent for name in fresh}:
            _flush_names(place)
        _move(staged / main, folder / main)
        _flush_names(folder)
    shutil.rmtree(staged)


def _remove_if_empty(inner: Path, folder: Path) -> None:
    if inner != folder:
        with contextlib.suppress(OSError):
            inner.rmdir()


# --- locks, and what they and errors are told as ---

_held: dict[str, int] = {}  # by path, the thread of this process that holds it


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock at `path`, made with its folder if they are not there and removed afterwards. The same thread may
    ask again. Raises BusyError where another one, or another process, has it for longer than `patience` seconds."""
    key, me = str(path.absolute()), threading.get_ident()
    if _held.get(key) == me:
        yield
        return
    until = time.monotonic() + patience
    while (handle := _open_and_lock(path)) is None:
        if time.monotonic() > until:
            raise BusyError(errno.EBUSY, "another process is at work there", str(path))
        time.sleep(0.01)
    _held[key] = me
    try:
        yield
    finally:
        del _held[key]
        if sys.platform != "win32":  # while it is held: nobody can hold a file of this name that is not this one
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(handle)
        if sys.platform == "win32":
            with contextlib.suppress(OSError):
                path.unlink()


def _open_and_lock(path: Path) -> int | None:
    """Return an open file that holds the lock; None where somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:  # somebody who had it removed the empty folder at this moment
        return None
    try:
        _lock(handle)
        here = os.stat(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        return None
    except PermissionError:
        os.close(handle)
        if sys.platform == "win32":  # what locking says there
            return None
        raise
    except BaseException:
        os.close(handle)
        raise
    if not os.path.samestat(here, os.fstat(handle)):  # removed by the one who held it, and perhaps made anew
        os.close(handle)
        return None
    return handle


def _lock(handle: int) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextmanager
def failing_as(error: type[ACDError], what: str, thing: str = "ours") -> Iterator[None]:
    """Within, what the file system says becomes an `error`. what: what was tried, the beginning of its message. thing:
    what a folder should have been."""
    try:
        yield
    except ForeignError as wrong:
        raise error(
            f"{what}: it {wrong.args[0]}; what is not {thing} will not be overwritten.", hint="Choose another folder."
        ) from None
    except BusyError as wrong:
        raise error(
            f"{what}: another process is at work there ({wrong.filename}).",
            hint="Wait until it has ended, or choose another folder.",
        ) from None
    except OSError as wrong:
        hint = "Check that the folder can be written to, or choose another one."
        if wrong.errno in _FULL:
            hint = "Make room on the disk, or choose a folder on another one. Nothing half-written was left."
        raise error(
            f"{what}: {reason_of(wrong)}{f' ({wrong.filename})' if wrong.filename else ''}.", hint=hint
        ) from wrong


def check_writable(folder: Path) -> None:
    """Raise OSError unless files can be made in `folder`, or `folder` itself where it is not there yet."""
    place = folder.absolute()
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    with tempfile.TemporaryFile(dir=place):
        pass


# --- steps ---


def _make_with_parents(folder: Path) -> list[Path]:
    """Make `folder`; the folders that had to be made for it, outermost first."""
    absent, place = [], folder
    while not os.path.lexists(place):
        absent.append(place)
        place = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    return absent[::-1]


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _move(source: Path, target: Path) -> None:
    for left in range(_MOVES, -1, -1):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            time.sleep(0.02)


def _flush_names(folder: Path) -> None:
    """Have the names in `folder` written down, where the system can be asked to: else a lost power line may undo
    moves in another order than they were made in."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
