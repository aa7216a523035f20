"""Safetensors files, read strictly and written as a stream.

Format: 8 bytes little-endian length, a JSON header ``{name: {dtype, shape, data_offsets}}``, the data. What the
published format asks of a file is checked here before any size in it is believed: offsets tile the data without
holes or overlap, and the bytes of each tensor are what dtype and shape say. Data is read with plain reads into
its place; ``mapped`` has the other way, for who asks for it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blockzoo.checkpoints import strict_json
from blockzoo.checkpoints.atomic import new_file, write_file
from blockzoo.errors import CheckpointError

HEADER_BYTES = 32 * 2**20
CHUNK_BYTES = 16 * 2**20
PIECE_BYTES = 2**20
"""What a core's own cache holds: a piece is looked at before it has left it."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor in a file: where its bytes lie."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    path: Path
    offset: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def read(self) -> Tensor:
        """The whole tensor, in memory of its own."""
        return self._read(self.offset, self.shape)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """(first row, rows) along the first axis, about 16 MiB at a time; a scalar is a chunk by itself."""
        if not self.shape or self.nbytes <= CHUNK_BYTES:
            yield 0, self.read()
            return
        row_bytes = self.nbytes // self.shape[0]
        step = max(1, CHUNK_BYTES // row_bytes)
        for row in range(0, self.shape[0], step):
            rows = min(step, self.shape[0] - row)
            yield row, self._read(self.offset + row * row_bytes, (rows, *self.shape[1:]))

    def read_into(self, place: Tensor) -> Iterator[Tensor]:
        """Fill a contiguous tensor on the CPU, of this dtype and size; its pieces, flat, each when it is filled."""
        flat = place.view(-1)
        step = PIECE_BYTES // self.dtype.itemsize
        with self._opened(self.offset) as file:
            for start in range(0, flat.numel(), step):
                piece = flat[start : start + step]
                self._fill(file, piece)
                yield piece

    def _read(self, offset: int, shape: tuple[int, ...]) -> Tensor:
        whole = torch.empty(shape, dtype=self.dtype)
        with self._opened(offset) as file:
            self._fill(file, whole)
        return whole

    @contextmanager
    def _opened(self, offset: int) -> Iterator[FileIO]:
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(offset)
                yield file
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be read ({error.strerror})") from error

    def _fill(self, file: FileIO, tensor: Tensor) -> None:
        view = bytes_of(tensor)
        while view.nbytes:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{self.path}: ends inside tensor '{self.name}'; it is truncated")
            view = view[count:]


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    data: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(data)


# --- reading a header -------------------------------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name. Raises CheckpointError for anything that the format does not allow."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if len(start) < 8:
                raise CheckpointError(f"{path}: is no safetensors file; it has {size} bytes")
            length = struct.unpack("<Q", start)[0]
            if length > size - 8:
                raise CheckpointError(
                    f"{path}: says its header has {length} bytes, but the file has {size}; is it truncated?"
                )
            if length > HEADER_BYTES:
                raise CheckpointError(f"{path}: its header has {length} bytes; at most {HEADER_BYTES} are read")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    try:
        header = strict_json.parse(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its header is no valid JSON ({error})") from error
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry, 8 + length, size) for name, entry in header.items()}
    _check_tiling(path, tensors, 8 + length, size)
    return tensors


def _tensor(path: Path, name: str, entry: Any, data: int, size: int) -> StoredTensor:
    where = f"{path}: tensor '{name}'"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: its entry must have dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where}: dtype {dtype!r} is not read; known are {', '.join(DTYPES)}")
    if not _sizes(shape) or len(shape) > 8:
        raise CheckpointError(f"{where}: shape {str(shape)[:80]} is no list of at most 8 sizes")
    if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size - data:
        raise CheckpointError(f"{where}: data_offsets {str(offsets)[:80]} lie outside the file; is it truncated?")
    found, said = offsets[1] - offsets[0], prod(shape) * DTYPES[dtype].itemsize
    if found != said:
        raise CheckpointError(f"{where}: has {found} bytes, but {dtype} {tuple(shape)} takes {said}")
    return StoredTensor(name, DTYPES[dtype], tuple(shape), path, data + offsets[0])


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)


def _check_tiling(path: Path, tensors: dict[str, StoredTensor], data: int, size: int) -> None:
    end = data
    for tensor in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            what = "overlaps another" if tensor.offset < end else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor '{tensor.name}' {what}")
        end += tensor.nbytes
    if end != size:
        raise CheckpointError(f"{path}: has {size - end} bytes that belong to no tensor")


# --- writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A tensor to write: what it will be, and the function that makes it when its turn comes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    produce: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, planned: Sequence[Planned]) -> None:
    """Write one file, whole or not at all, holding one produced tensor at a time."""
    planned = sorted(planned, key=lambda p: -p.dtype.itemsize)  # wide ones first: every tensor is aligned
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for p in planned:
        header[p.name] = {
            "dtype": DTYPE_NAMES[p.dtype],
            "shape": list(p.shape),
            "data_offsets": [end, end + p.nbytes],
        }
        end += p.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with new_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for p in planned:
            tensor = p.produce().detach()
            assert (tensor.dtype, tuple(tensor.shape)) == (p.dtype, p.shape), (p.name, tensor.dtype, tensor.shape)
            file.write(bytes_of(tensor.cpu().contiguous()))
            del tensor  # else it lives while the next is made


def write_shards(folder: Path, planned: Sequence[Planned], shard_bytes: int) -> None:
    """``model.safetensors``, or numbered shards of at most about ``shard_bytes`` and their index."""
    shards: list[list[Planned]] = [[]]
    filled = 0
    for p in planned:
        if shards[-1] and filled + p.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(p)
        filled += p.nbytes
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", planned)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard)
        weight_map.update({p.name: name for p in shard})
    index = {"metadata": {"total_size": sum(p.nbytes for p in planned)}, "weight_map": dict(sorted(weight_map.items()))}
    write_file(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
