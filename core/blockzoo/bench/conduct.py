"""The way of a bench: the roof, the sides in turns, the roof again for each repeat, and what is of our side alone.

Nothing is computed here but medians: the document holds each single value, and figures made of them.
"""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from blockzoo.bench.error import TOKENS as COMPARED
from blockzoo.bench.peers import PEERS, Job, Peer, Prepared, Refused
from blockzoo.bench.processes import SideError, command_of, run_side
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.roof import SIDE, STREAM_BYTES
from blockzoo.bench.subject import Subject, read_once
from blockzoo.checkpoints.filling import Mapped, mapped_words
from blockzoo.errors import BlockzooError, InputError, nearest
from blockzoo.experiments.speed import fits
from blockzoo.memory import free_memory
from blockzoo.registry import Registry

OURS = "blockzoo"
MEASURES = ("decode", "prefill", "load", "training", "error")
DEFAULT_MEASURES = ("decode", "prefill", "load")
BLOCK, BATCH = 256, 12
"""Tokens in a training sequence, sequences in a step."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ask:
    """What is to be measured and how."""

    prompt_tokens: int = 512
    new_tokens: int = 64
    repeats: int = 3
    threads: int = 1
    mapped: Mapped = False
    quantize: tuple[str, ...] = ()
    measures: tuple[str, ...] = DEFAULT_MEASURES
    against: tuple[str, ...] = ()
    timeout: float = 1800.0
    stream_bytes: int = STREAM_BYTES
    matrix_side: int = SIDE

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "new_tokens", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        for measure in self.measures:
            if measure not in MEASURES:
                raise InputError(f"--measure {measure}{nearest(measure, MEASURES)}")

    @property
    def capacity(self) -> int:
        return self.prompt_tokens + self.new_tokens


@dataclass
class Side:
    """One engine: how it is run, and what was found. ``failed``: why there is nothing (more)."""

    name: str
    module: str
    path: Path
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weight_bytes_per_token: int | None = None
    failed: str | None = None
    replies: list[Reply] = field(default_factory=list)

    @property
    def command(self) -> str:
        return shlex.join(command_of(self.module))

    def values(self) -> dict[str, list[float]]:
        """Every single value, by measure."""
        lists = {name: [value for r in self.replies for value in getattr(r, name)] for name in TIMES}
        return {**lists, "peak_bytes": [reply.peak_bytes for reply in self.replies]}


TIMES = ("load_s", "prefill_s", "decode_s")


@dataclass(frozen=True)
class Outcome:
    """All that was measured. ``roofs``: replies of the roof's process, before, between and after
    repeats; ``alone``: by further measure of our side a reply's values, or why there are none.
    """

    sides: list[Side]
    roofs: list[dict[str, Any]]
    alone: dict[str, dict[str, Any] | str]


def peers_of(names: Sequence[str]) -> dict[str, Peer]:
    """Raises InputError for one that nobody knows, or that misses a package."""
    found: dict[str, Peer] = {}
    for name in names:
        if name not in PEERS:
            raise InputError(f"--against {name}{nearest(name, PEERS)}")
        peer: Peer = importlib.import_module(PEERS[name]).PEER
        missing = [package for package in peer.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise InputError(
                f"--against {name}: needs {' and '.join(missing)}; install it by: pip install 'blockzoo[bench]'"
            )
        found[name] = peer
    return found


def conduct(subject: Subject, ask: Ask, peers: Mapping[str, Peer], *, registry: Registry, say: Say) -> Outcome:
    """Measure. Whatever happens, no process and no temporary folder is left."""
    with _scratch() as scratch:
        sides = list(_sides(subject, ask, peers, scratch, say)) if _runs(ask) else []
        for side in sides:
            if side.failed is None:
                read_once(side.path)
        roofs = list(_rounds(sides, subject, ask, say))
        alone = {name: measure(subject, ask, registry) for name, measure in _ALONE.items() if name in ask.measures}
    return Outcome(sides, roofs, alone)


def _runs(ask: Ask) -> bool:
    return any(measure in DEFAULT_MEASURES for measure in ask.measures)


@contextmanager
def _scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="blockzoo-bench-") as folder:
        yield Path(folder)


def _sides(subject: Subject, ask: Ask, peers: Mapping[str, Peer], scratch: Path, say: Say) -> Iterator[Side]:
    dtype = _name(subject.dtype)
    yield Side(OURS, f"{__package__}.ours", subject.folder, _what(subject, ask), _opening(subject, ask))
    for name, peer in peers.items():
        place = scratch / name
        place.mkdir()
        job = Job(subject.folder, dtype, ask.quantize, ask.capacity, ask.threads, free_memory(), place)
        say(f"{name} gets ready")
        try:
            ready = peer.prepare(job)
        except BlockzooError as error:
            ready = Refused(str(error))
        if isinstance(ready, Refused):
            yield Side(name, PEERS[name], subject.folder, "", failed=ready.reason)
        else:
            yield _of_peer(name, ready)


def _of_peer(name: str, ready: Prepared) -> Side:
    return Side(name, PEERS[name], ready.path, ready.what, ready.options, ready.weight_bytes_per_token)


def _rounds(sides: Sequence[Side], subject: Subject, ask: Ask, say: Say) -> Iterator[dict[str, Any]]:
    """Run them in turns, a process a repeat, so that what else the machine does hits all of them; the roof before, in
    between and after.
    """
    say("the roof: memory and matrix products")
    yield _roof(ask)
    for turn in range(ask.repeats if sides else 0):
        for side in sides:
            if side.failed is None:
                say(f"round {turn + 1} of {ask.repeats}: {side.name}")
                request = replace(_request(subject, ask), path=str(side.path), repeats=1, options=dict(side.options))
                try:
                    side.replies.append(run_side(side.module, request, timeout=ask.timeout))
                except SideError as error:
                    side.failed = str(error)
        say("the roof once more")
        yield _roof(ask)


def _request(subject: Subject, ask: Ask) -> Request:
    tokens = _random_tokens(subject, ask.prompt_tokens, seed=0)
    return Request(str(subject.folder), _name(subject.dtype), ask.threads, tokens, ask.new_tokens, ask.repeats)


def _random_tokens(subject: Subject, count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(subject.stored.vocab_size, (count,), generator=generator).tolist()


def _opening(subject: Subject, ask: Ask) -> dict[str, Any]:
    return {"overrides": subject.overrides, "mapped": ask.mapped}


def _what(subject: Subject, ask: Ask) -> str:
    packed = ["packed as it loads"] if subject.config != subject.stored and ask.quantize else []
    parts = [_name(subject.dtype), *ask.quantize, *packed, *mapped_words(ask.mapped)]
    return f"layout {subject.layout}, {', '.join(parts)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- the roof, and what only our side has -----------------------------------------------------------------------------


def _roof(ask: Ask) -> dict[str, Any]:
    options = {"stream_bytes": ask.stream_bytes, "side": ask.matrix_side}
    request = Request("", "float32", ask.threads, [], 1, 1, options=options)
    try:
        return run_side(f"{__package__}.roof", request, timeout=ask.timeout).extra
    except SideError as error:
        return {"failed": str(error)}


def _training(subject: Subject, ask: Ask, registry: Registry) -> dict[str, Any] | str:
    if not fits(subject.stored, free_memory()):
        return "weights, gradients and AdamW's moments don't fit the memory"
    if subject.dtype not in (torch.float32, torch.bfloat16):
        return f"training computes in float32 or bfloat16, not {_name(subject.dtype)}"
    options = {"batch_size": BATCH, "block": min(BLOCK, subject.stored.context_length)}
    return _extra(f"{__package__}.training", replace(_request(subject, ask), options=options), ask)


def _error(subject: Subject, ask: Ask, registry: Registry) -> dict[str, Any] | str:
    count = min(COMPARED, ask.new_tokens)
    needed = max(
        subject.planned_bytes(ask.capacity, ask.prompt_tokens, registry, mapped=False, exact=exact)
        for exact in (True, False)
    )
    if needed > (there := free_memory()):
        return f"the exact model, in float32, takes {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are free"
    options = {**_opening(subject, ask), "forced": _random_tokens(subject, count, seed=1)}
    return _extra(f"{__package__}.error", replace(_request(subject, ask), options=options), ask)


def _extra(module: str, request: Request, ask: Ask) -> dict[str, Any] | str:
    try:
        return run_side(module, request, timeout=ask.timeout).extra
    except SideError as error:
        return str(error)


_ALONE = {"training": _training, "error": _error}
