"""The C sources as a shared library: compiled at first use by the machine's compiler, and kept in the user's cache.

A file's name says what it was made of and what is in it, so one that was cut short or written over is made anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-fPIC", "-std=gnu11")
COMPILERS = ("cc", "gcc", "clang")


class BuildError(Exception):
    """The library can't be had here; the message is for people."""


def built(*, openmp: bool) -> Path:
    """The library, from the cache or made now. Raises BuildError."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]"))]
    key = "\0".join((*sources, *FLAGS, str(openmp), platform.machine(), *compiler()))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockzoo"
    stem = f"cpu-{_digest(key.encode())}"
    for file in home.glob(f"{stem}-*.so"):
        with suppress(OSError):
            if file.stem == f"{stem}-{_digest(file.read_bytes())}":
                return file
            file.unlink()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".cpu-") as folder:
            return _kept(_made(Path(folder), openmp), home, stem)
    except OSError as error:
        raise BuildError(f"{home} can't be written: {error.strerror}; XDG_CACHE_HOME names another place") from error


def compiler() -> list[str]:
    """The C compiler of this machine, ``$CC`` before any other; nothing where there is none."""
    if asked := shlex.split(os.environ.get("CC", "")):
        return asked
    return next(([path] for name in COMPILERS if (path := shutil.which(name))), [])


def _made(folder: Path, openmp: bool) -> Path:
    """Compile into a folder, and see that it loads."""
    cc = compiler()
    if not cc:
        raise BuildError(f"no C compiler ({', '.join(COMPILERS)}) was found; install one, or name yours in CC")
    library, sources = folder / "made.so", sorted(FOLDER.glob("*.c"))
    objects = [str(folder / f"{source.stem}.o") for source in sources]

    def compiled(source: Path, place: str) -> None:
        _run(*cc, *FLAGS, *(["-fopenmp"] if openmp else []), "-c", str(source), "-o", place)

    with ThreadPoolExecutor() as pool:  # seconds a source: they don't wait for each other
        list(pool.map(compiled, sources, objects))
    _run(*cc, "-shared", *objects, "-lm", "-o", str(library))
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"what {cc[0]} made of the kernels can't be loaded: {error}") from error
    return library


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} can't be run: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise BuildError(f"{command[0]} can't compile the kernels: {said}")


def _kept(library: Path, home: Path, stem: str) -> Path:
    """It, in its place in the cache, where it appears whole."""
    with library.open("rb") as made:
        file = home / f"{stem}-{_digest(made.read())}.so"
        os.fsync(made.fileno())
    return library.replace(file)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
