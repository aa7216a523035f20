"""Products of tiles as a CPU with less than this one makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from blockzoo_cpu import library
from blockzoo_cpu.library import Tiles


@contextmanager
def at_most(kind: Tiles) -> Iterator[None]:
    library.library().limit_tiles(kind)
    try:
        yield
    finally:
        library.library().limit_tiles(Tiles.AMX)
