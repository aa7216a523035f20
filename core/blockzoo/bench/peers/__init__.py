"""The contract of a peer: another engine that runs the same weights, measured the same way in a process of its own.

A peer is a module, named in ``PEERS``, with two parts:

- ``PEER``, an object of the ``Peer`` protocol, used by the conducting process: it says whether the peer can run this
  model here and makes what it needs (say, a converted file) in ``job.scratch``;
- ``python -m MODULE``, the side process: `blockzoo.bench.side.serve` gives it its `Request` and
  writes its `Reply`, and `side.timed` times anything that is an `Engine`.

Importing the module must not import the engine: the side process does, where it counts as loading.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

PEERS = {
    "transformers": f"{__name__}.transformers",
    "transformers-compiled": f"{__name__}.transformers_compiled",
    "llama.cpp": f"{__name__}.llama_cpp",
}
"""A peer's name on the command line -> its module."""


@dataclass(frozen=True)
class Job:
    """What is to be measured, for a peer to prepare for."""

    folder: Path
    """A checkpoint folder with all weights: native (``blockzoo.yaml``) or in a published layout (``config.json``)."""
    dtype: str
    """What floats compute in: "float32" or "bfloat16"."""
    quantize: tuple[str, ...]
    """As given to ``--quantize``: ("rest=int8",); empty: weights as the checkpoint stores them."""
    capacity: int
    """Positions that the cache must hold: prompt and new tokens."""
    threads: int
    memory: int
    """Bytes that a process may take here: refuse what doesn't fit."""
    scratch: Path
    """An empty folder of this peer's own, removed at the end."""


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready; ``path`` and ``options`` go into the request."""

    path: Path
    """What the side process loads: a folder or a file. It is read once before anything is timed."""
    what: str
    """Engine, format and what was converted, in a line for the reader."""
    options: dict[str, Any] = field(default_factory=dict)
    """JSON values that the side process needs beside the request's own fields."""
    weight_bytes_per_token: int | None = None
    """Bytes of weights that it reads for a token, for its share of the roof; None: as many as our side."""


@dataclass(frozen=True)
class Refused:
    """Why a peer can't run this model here, in a line for the reader."""

    reason: str


class Peer(Protocol):
    """What a peer's module offers as ``PEER``."""

    packages: tuple[str, ...]
    """Modules that must be there; where `find_spec` misses one, the error names the extra ``bench``."""

    def prepare(self, job: Job) -> Prepared | Refused: ...
