"""The C kernels as a library: compiled at first use by the machine's compiler, cached, loaded beside torch's OpenMP.

Two OpenMP runtimes in one process fight for the cores, so the library links none: it takes the symbols of the runtime
that torch has loaded, and with it torch's number of threads. Where there is none it is built for one thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-fPIC", "-std=gnu11")


class BuildError(Exception):
    """The library can't be had here; the message is for people."""


@cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises BuildError, at every call with the same words, where it can't be had."""
    openmp = _openmp()
    file = _built(openmp is not None)
    if openmp is not None:
        ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
    try:
        found = ctypes.CDLL(str(file))
    except OSError as error:
        raise BuildError(f"{file} can't be loaded: {error}") from error
    return found


def function(name: str, *arguments: type[Any]) -> Any:
    """A function of the library that returns an int, and what it takes."""
    found = library()[name]
    found.argtypes = list(arguments)
    return found


@cache
def wide() -> bool:
    """Whether this CPU has the AVX-512 parts that the vector kernels use."""
    return bool(library().has_avx512())


class Tiles(IntEnum):
    """By what products of tiles in bfloat16 are made, as tiles.h counts them."""

    NONE, VECTORS, AMX = range(3)


def tiles() -> Tiles:
    """What this CPU has, and this process may use: asking is also what lets it."""
    return Tiles(library().has_tiles())


@cache
def problem() -> str | None:
    """Why there is no library here, or None."""
    try:
        library()
    except BuildError as error:
        return str(error)
    return None


def compiler() -> str | None:
    """The C compiler of this machine."""
    return next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def build(target: Path, *, openmp: bool) -> None:
    """Compile into a file that appears whole. Raises BuildError with the first thing the compiler said."""
    cc = compiler()
    if cc is None:
        raise BuildError("no C compiler (cc, gcc, clang) was found; install one for faster decoding")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made, sources = Path(folder, "made.so"), sorted(FOLDER.glob("*.c"))
            objects = [str(Path(folder, f"{source.stem}.o")) for source in sources]

            def compiled(source: Path, place: str) -> None:
                _run(cc, *FLAGS, *(["-fopenmp"] if openmp else []), "-c", str(source), "-o", place)

            with ThreadPoolExecutor() as pool:  # seconds a source: they don't wait for each other
                list(pool.map(compiled, sources, objects))
            _run(cc, "-shared", *objects, "-lm", "-o", str(made))
            os.replace(made, target)
    except OSError as error:
        raise BuildError(f"{target.parent} can't be written: {error}") from error


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} can't be run: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise BuildError(f"{command[0]} can't compile the kernels: {said}")


def _built(openmp: bool) -> Path:
    sources = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.[ch]"))]
    key = "\0".join((*sources, *FLAGS, str(openmp), platform.machine(), compiler() or ""))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = home / "blockzoo" / f"cpu-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not file.is_file():
        build(file, openmp=openmp)
    return file


def _openmp() -> Path | None:
    """The OpenMP runtime of this torch, if it is GNU's: wheels carry it under changing names."""
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    return found[0] if found else None
