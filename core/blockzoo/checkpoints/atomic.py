"""Files and folders that appear whole or not at all: written beside their place, synced, renamed.

An interrupted writer leaves what stood there before. One that was killed leaves a hidden temporary too
(``.name.writing-...``), which nobody has a lock on any more: the next writer of the place removes it.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from blockzoo.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WRITING, REPLACED = ".writing-", ".replaced-"
YOUNG = 5
"""Seconds: what is younger may be somebody's who has no lock on it yet."""


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which takes the place of ``path`` when the block ends without an exception.

    Raises CheckpointError when the system refuses: no such folder, no permission, a full disk.
    """
    with _readable_errors(path):
        if path.is_dir():
            raise CheckpointError(f"{path}: is a folder; name a file")
        _remove_left(path)
        number, name = tempfile.mkstemp(prefix=f".{path.name}{WRITING}", dir=path.parent)
        try:
            with _locked(Path(name)):
                with os.fdopen(number, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o666 & ~_umask())
                os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_file(path: Path, data: bytes | str) -> None:
    """Write one file whole. Text is UTF-8."""
    with new_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def new_folder(path: Path, replaceable: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` when the block ends without an exception.

    An existing folder is replaced only if it holds nothing but files whose names are ``replaceable``. Raises
    CheckpointError otherwise, and when the system refuses.
    """
    path = path.absolute()
    with _readable_errors(path):
        _check_replaceable(path, replaceable)
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}{WRITING}", dir=path.parent))
        try:
            with _locked(temporary):
                yield temporary
                _sync_tree(temporary)
                temporary.chmod(0o777 & ~_umask())
                _take_place(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


def check_room(path: Path, nbytes: int) -> None:
    """Raise CheckpointError where ``nbytes`` do not fit on the disk that ``path`` will be on: before hours of writing.

    A file that is replaced still stands while the new one is written, so it makes no room.
    """
    path = path.absolute()
    there = next(place for place in (*path.parents, path) if os.path.exists(place))  # the root has no parents
    free = shutil.disk_usage(there).free
    if nbytes > free:
        raise CheckpointError(f"{path}: takes {nbytes:,} bytes, and its disk has {free:,} free; nothing was written")


def _check_replaceable(path: Path, replaceable: Callable[[str], bool]) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise CheckpointError(f"{path}: is there already and is no folder; choose another place")
    there = list(os.scandir(path)) if path.is_dir() else []
    kept = sorted(one.name for one in there if not replaceable(one.name) or one.is_dir(follow_symlinks=False))
    if kept:
        shown = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
        raise CheckpointError(f"{path}: holds other files ({shown}); choose an empty or new folder")


def _take_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}{REPLACED}", dir=path.parent))
    with _locked(path):
        os.rename(path, aside)
        try:
            os.rename(temporary, path)
        except BaseException:
            os.rename(aside, path)
            raise
        shutil.rmtree(aside)


def _remove_left(path: Path) -> None:
    """What a writer of ``path`` that was killed has left; a folder that it had only put aside comes back."""
    for mark in (WRITING, REPLACED):
        for left in path.parent.glob(f".{glob.escape(path.name)}{mark}*"):
            with suppress(OSError), _locked(left) as free:
                ours = free and time.time() - left.stat().st_mtime > YOUNG
                if ours and mark == REPLACED and not path.exists():
                    os.rename(left, path)
                elif ours:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether it is ours: until the block ends, or the process, however that ends."""
    if fcntl is None:
        yield False
        return
    number = os.open(path, os.O_RDONLY)
    try:
        yield _lock(number)
    finally:
        os.close(number)


def _lock(number: int) -> bool:
    with suppress(OSError):  # somebody else has it, or the file system has no locks
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            with open(Path(parent) / name, "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(parent))


def _sync_folder(folder: Path) -> None:
    """Make renames durable, where the system lets a folder be synced."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _umask() -> int:
    """What the user's mask takes away; temporaries are made private and files must not stay so."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written ({error.strerror or error}); nothing was changed") from error
