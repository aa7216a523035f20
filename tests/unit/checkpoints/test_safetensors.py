"""Our safetensors against the published library, both ways."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.safetensors_io import CHUNK_BYTES, Planned, read_header, write_safetensors, write_shards

TENSORS = {
    "bytes": torch.arange(7, dtype=torch.uint8),
    "matrix": torch.randn(3, 5),
    "half": torch.randn(2, 3, 2).to(torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "flags": torch.tensor([True, False]),
    "wide": torch.randn(2, dtype=torch.float64),
}


def planned(tensors: dict[str, torch.Tensor]) -> list[Planned]:
    return [Planned(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", planned(TENSORS))
    found = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = {name: stored.read() for name, stored in read_header(tmp_path / "x.safetensors").items()}
    assert found.keys() == TENSORS.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_chunks_are_the_tensor(tmp_path: Path) -> None:
    big = torch.randint(256, (3 * CHUNK_BYTES // 1000, 1000), dtype=torch.uint8)
    write_safetensors(tmp_path / "model.safetensors", planned({"big": big}))
    chunks = list(read_header(tmp_path / "model.safetensors")["big"].chunks())
    assert len(chunks) == 3
    assert chunks[1][0] == len(chunks[0][1])
    assert torch.equal(torch.cat([chunk for _, chunk in chunks]), big)


def test_shards_and_their_index(tmp_path: Path) -> None:
    write_shards(tmp_path, planned(TENSORS), shard_bytes=40)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    found = {name: stored.read() for name, stored in stored_tensors(tmp_path).items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert found.keys() == TENSORS.keys()
