"""The C kernels as a library, loaded beside torch's OpenMP.

Two OpenMP runtimes in one process fight for the cores, so the library links none: it takes the symbols of the runtime
that torch has loaded, and with it torch's number of threads. Where there is none it is built for one thread.
"""

from __future__ import annotations

import ctypes
import logging
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

import torch

from blockzoo_cpu.compiling import BuildError, built

log = logging.getLogger(__name__)


@cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises BuildError, at every call with the same words, where it can't be had."""
    openmp = _openmp()
    if openmp is not None:
        ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
    file = built(openmp=openmp is not None)
    try:
        return ctypes.CDLL(str(file))
    except OSError as error:
        raise BuildError(f"{file} can't be loaded: {error}") from error


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
    """Why there is no library here, or None. The first to ask has it said."""
    try:
        library()
    except BuildError as error:
        log.warning("blockzoo: warning: no kernels in C, PyTorch's slower ones serve: %s", error)
        return str(error)
    return None


def _openmp() -> Path | None:
    """The OpenMP runtime of this torch, if it is GNU's: wheels carry it under changing names."""
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    return found[0] if found else None
