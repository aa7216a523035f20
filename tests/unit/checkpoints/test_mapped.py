"""Weights that stay in their file: the same model, nothing read, the file never written, errors before mapping."""

from __future__ import annotations

import json
import logging
import os
import struct
from pathlib import Path

import pytest
import torch

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.checkpoints.filling import Mapped
from blockzoo.checkpoints.mapped import Maps
from blockzoo.checkpoints.safetensors_io import StoredTensor, read_header
from blockzoo.cli import main
from blockzoo.cli.opening import open_model
from blockzoo.config import load_config
from blockzoo.errors import CheckpointError, InputError
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from tests.contract.test_layouts import small, with_toy
from tests.unit.checkpoints.conftest import CONFIGS

__all__ = ["with_toy"]  # a fixture: a kernel that wants rows interleaved
TOKENS = torch.arange(24)[None]


def saved(folder: Path, registry: Registry, quantizer: str | None = None) -> Path:
    model = build(small(registry, quantizer), registry=registry, dtype=torch.bfloat16)
    save_pretrained(model, folder, registry=registry, layout="native")
    return folder


@torch.no_grad()
def same(a: Decoder, b: Decoder) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(
        (t.dtype, t.shape) == (other[name].dtype, other[name].shape) and t.equal(other[name]) for name, t in one.items()
    )


@pytest.fixture
def no_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a tensor is an error."""

    def fails(*arguments: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(StoredTensor, "_fill", fails)


@pytest.mark.parametrize("quantizer", [None, "mxfp4", "int8"])
def test_a_native_folder_is_mapped_whole(
    quantizer: str | None, tmp_path: Path, registry: Registry, request: pytest.FixtureRequest
) -> None:
    folder = saved(tmp_path / "m", registry, quantizer)
    read = from_pretrained(folder, registry=registry)
    request.getfixturevalue("no_reads")
    with pytest.raises(AssertionError, match="read"):
        from_pretrained(folder, registry=registry)
    mapped = from_pretrained(folder, registry=registry, mapped=True)
    assert same(mapped, read)
    with torch.no_grad():
        assert mapped(TOKENS).equal(read(TOKENS))


def test_the_file_is_never_written(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry, "int8")
    before = (folder / "model.safetensors").read_bytes()
    model = from_pretrained(folder, registry=registry, mapped=True)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert not any(bool(tensor.any()) for tensor in model.state_dict().values())
    assert (folder / "model.safetensors").read_bytes() == before


def test_saving_over_the_mapped_folder_and_removing_it(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry)
    before = (folder / "model.safetensors").read_bytes()
    model, read = (from_pretrained(folder, registry=registry, mapped=mapped) for mapped in (True, False))
    save_pretrained(model, folder, registry=registry, layout="native")
    assert (folder / "model.safetensors").read_bytes() == before
    for file in folder.iterdir():
        file.unlink()
    assert same(model, read)


def test_a_kernels_layout_copies(tmp_path: Path, with_toy: Registry) -> None:
    folder = saved(tmp_path / "m", with_toy, "int8")
    read, mapped = (from_pretrained(folder, registry=with_toy, mapped=mapped) for mapped in (False, True))
    for model in (read, mapped):
        model.bind({"linear": "toy"})
    assert same(mapped, read)
    with torch.no_grad():
        assert mapped(TOKENS).equal(read(TOKENS))


def test_casting_a_mapped_model(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry)
    read, mapped = (from_pretrained(folder, registry=registry, mapped=mapped) for mapped in (False, True))
    assert same(mapped.float(), read.float())


def test_what_the_layout_transposes_is_read_and_said(
    checkpoint: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    read = from_pretrained(checkpoint, registry=registry)
    assert not caplog.messages
    with caplog.at_level(logging.WARNING):
        mapped = from_pretrained(checkpoint, registry=registry, mapped=True)
    (said,) = caplog.messages
    assert str(checkpoint) in said
    assert "layout hf" in said
    assert same(mapped, read)


def test_another_dtype_is_read(tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(tmp_path / "m", registry)
    mapped = from_pretrained(folder, registry=registry, mapped=True, dtype=torch.float32)
    assert same(mapped, from_pretrained(folder, registry=registry, dtype=torch.float32))
    assert "0.00 of 0.00 GB" in caplog.text


def test_one_tensor_an_expert_is_read(tmp_path: Path, shipping: Registry) -> None:
    sizes = {"layers.count": 2, "d_model": 64, "vocab_size": 128, "context_length": 64, "blocks.experts.n_experts": 4}
    config = load_config("qwen3-30b-a3b", {**sizes, "blocks.experts.top_k": 2}, registry=shipping)
    save_pretrained(build(config, registry=shipping), tmp_path / "m", registry=shipping)
    read, mapped = (from_pretrained(tmp_path / "m", registry=shipping, mapped=mapped) for mapped in (False, True))
    assert same(mapped, read)


def test_bytes_that_are_not_aligned_are_read(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(json.loads(data[8 : 8 + length])).encode()
    text += b" " * (1 - len(text) % 2)  # of odd length
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    stored = read_header(path)
    assert all(Maps().view(tensor) is None for tensor in stored.values())
    assert same(from_pretrained(folder, registry=registry, mapped=True), from_pretrained(folder, registry=registry))


def test_what_is_refused(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry)
    for asked in ({"trainable": True}, {"device": "meta"}):
        with pytest.raises(InputError, match="can't be mapped"):
            from_pretrained(folder, registry=registry, mapped=True, **asked)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="mapped='embeddings': must be True, False or 'embedding'"):
        from_pretrained(folder, registry=registry, mapped="embeddings")  # type: ignore[arg-type]
    path = folder / "model.safetensors"
    stored = read_header(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="truncated"):
        from_pretrained(folder, registry=registry, mapped=True)
    with pytest.raises(CheckpointError, match="truncated"):  # shorter since its header was read
        [Maps().view(tensor) for tensor in stored.values()]
    os.truncate(path, 0)
    with pytest.raises(CheckpointError, match="can't be mapped"):
        Maps().view(next(iter(stored.values())))


@pytest.mark.parametrize(("mapped", "flag"), [(True, "--mapped"), ("embedding", "--map-embedding")])
def test_a_config_has_no_file_to_map(mapped: Mapped, flag: str, registry: Registry) -> None:
    with pytest.raises(InputError, match=f"{flag}: .* no file to map"):
        open_model(str(CONFIGS / "gpt2" / "gpt2.yaml"), "cpu", "stored", registry=registry, mapped=mapped)


def mapped_lines(folder: Path) -> int:
    """Maps of this process's memory over files of a folder."""
    return sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_embedding_table_alone_is_mapped(tmp_path: Path, registry: Registry) -> None:
    folder = saved(tmp_path / "m", registry)
    read = from_pretrained(folder, registry=registry)
    model = from_pretrained(folder, registry=registry, mapped="embedding")
    assert same(model, read)
    with torch.no_grad():
        assert model(TOKENS).equal(read(TOKENS))
    assert mapped_lines(folder) == 1
    model.embedding.tokens.weight = None  # type: ignore[assignment]
    assert mapped_lines(folder) == 0  # nothing else was in the file


def test_a_table_that_is_the_unembedding_is_not_mapped_alone(tmp_path: Path, registry: Registry) -> None:
    config = small(registry, None)
    tied = config.model_copy(update={"embedding": config.embedding.model_copy(update={"tied": True})})
    save_pretrained(build(tied, registry=registry), tmp_path / "m", registry=registry, layout="native")
    with pytest.raises(InputError, match="is its unembedding too"):
        from_pretrained(tmp_path / "m", registry=registry, mapped="embedding")


def test_bench_refuses_it_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--set", "layers.count=1", "--set", "vocab_size=64", "--prompt-tokens", "8", "--new-tokens", "2"]
    assert main(["bench", "gpt2", *tiny, "--map-embedding"]) == 2
    assert "is its unembedding too" in capsys.readouterr().err
