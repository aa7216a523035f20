"""Converting tensor by tensor writes what loading and saving a model would, and holds a few tensors only."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockzoo.blocks import QuantizerConfig
from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save, save_pretrained
from blockzoo.checkpoints.convert import convert
from blockzoo.checkpoints.keymap import Rule
from blockzoo.checkpoints.random_weights import write_random
from blockzoo.checkpoints.safetensors_io import StoredTensor, write_shards
from blockzoo.cli import main
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError
from blockzoo.memory_plan import quantized
from blockzoo.registry import Registry
from tests.unit.checkpoints.test_memory import peak

SIZES: dict[str, dict[str, object]] = {
    "gpt2": {"layers.count": 2, "d_model": 64, "layers.mixer.n_heads": 4, "vocab_size": 96, "context_length": 32},
    "qwen3-0.6b": {"layers.count": 2, "d_model": 64, "vocab_size": 96, "context_length": 32},
    "qwen3-30b-a3b": {
        "layers.count": 2,
        "d_model": 64,
        "vocab_size": 96,
        "context_length": 32,
        "blocks.experts.n_experts": 3,
        "blocks.experts.top_k": 2,
        "blocks.experts.expert.d_ff": 64,
    },
    "gpt-oss-20b": {
        "layers.count": 2,
        "d_model": 64,
        "vocab_size": 96,
        "blocks.experts.n_experts": 4,
        "blocks.experts.expert.d_ff": 96,
    },
}


def folder_of(name: str, layout: str, tmp_path: Path, registry: Registry, **asked: Any) -> Path:
    model = build(load_config(name, SIZES[name], registry=registry), registry=registry, **asked)
    save_pretrained(model, tmp_path / "source", registry=registry, layout=layout)
    return tmp_path / "source"


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def as_loading_and_saving(
    source: Path, tmp_path: Path, registry: Registry, layout: str, overrides: Mapping[str, object], **asked: Any
) -> None:
    """The reference: a model in between."""
    model = from_pretrained(source, registry=registry, overrides=overrides, **asked)
    save_pretrained(model, tmp_path / "expected", registry=registry, layout=layout, shard_bytes=200_000)
    told: list[tuple[int, int]] = []
    convert(
        source,
        tmp_path / "found",
        registry=registry,
        layout=layout,
        overrides=overrides,
        shard_bytes=200_000,
        progress=lambda *said: told.append(said),
        **asked,
    )
    assert bytes_of(tmp_path / "found") == bytes_of(tmp_path / "expected")
    assert told[-1][0] == told[-1][1] > 0


@pytest.mark.parametrize("dtype", ["stored", torch.float32])
@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("gpt2", "hf", "native"),
        ("gpt2", "native", "hf"),
        ("qwen3-0.6b", "hf", "native"),
        ("qwen3-30b-a3b", "hf", "native"),
        ("qwen3-30b-a3b", "native", "hf"),
        ("gpt-oss-20b", "hf", "native"),
        ("gpt-oss-20b", "native", "original"),
        ("gpt-oss-20b", "original", "hf"),
    ],
)
def test_layouts_and_dtypes(name: str, before: str, after: str, dtype: Any, tmp_path: Path, shipping: Registry) -> None:
    source = folder_of(name, before, tmp_path, shipping, dtype=torch.bfloat16)
    as_loading_and_saving(source, tmp_path, shipping, after, {}, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("qwen3-0.6b", {"embedding.quantizer": "int8"}),
        ("qwen3-30b-a3b", {"blocks.experts.quantizer": "mxfp4"}),
        ("gpt-oss-20b", {"head.quantizer": "int8", "embedding.quantizer": "int8"}),
    ],
)
def test_floats_are_packed(name: str, overrides: dict[str, object], tmp_path: Path, shipping: Registry) -> None:
    source = folder_of(name, "hf", tmp_path, shipping, dtype=torch.bfloat16)
    as_loading_and_saving(source, tmp_path, shipping, "native", overrides)


def test_packed_weights_become_floats_or_are_packed_anew(tmp_path: Path, shipping: Registry) -> None:
    source = folder_of("gpt-oss-20b", "hf", tmp_path, shipping, dtype=torch.bfloat16)
    before = from_pretrained(source, registry=shipping, trainable=True).state_dict()
    int8 = shipping.get("quantizer", "int8")()

    def with_ffn(quantizer: Any) -> Any:
        return lambda config: quantized(config, {"ffn": quantizer})

    convert(source, tmp_path / "floats", registry=shipping, layout="native", change=with_ffn(None))
    after = from_pretrained(tmp_path / "floats", registry=shipping).state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(before[name]) for name in before)
    convert(source, tmp_path / "int8", registry=shipping, layout="native", change=with_ffn(int8))
    after = from_pretrained(tmp_path / "int8", registry=shipping).state_dict()
    name = "layers.1.ffn.experts.up.weight"
    packed = int8.pack(before[name])
    assert all(after[f"{name}.{part}"].equal(packed[part]) for part in packed)


# --- refusals ---------------------------------------------------------------------------------------------------------


def nothing_left(tmp_path: Path) -> bool:
    return sorted(os.listdir(tmp_path)) == ["source"]


def test_what_a_layout_has_no_words_for_is_said_before_anything_is_read(
    tmp_path: Path, shipping: Registry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of("qwen3-0.6b", "hf", tmp_path, shipping)

    def fails(*arguments: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(StoredTensor, "_fill", fails)
    asked = ["convert", str(source), str(tmp_path / "out")]
    for options, message in (
        (["--to", "hf", "--quantize", "rest=int8"], "can't be saved in this layout; 'native' holds any model"),
        (["--to", "native", "--quantize", "res=int8"], "did you mean 'rest'"),
        (["--to", "native", "--quantize", "rest=mxfp3"], "mxfp3"),
        (["--to", "native", "--quantize", "rest={type: int8, group_size: 7}"], "groups of 7"),
        (["--to", "native", "--set", "vocab_size=95"], "don't fit the checkpoint's weights"),
    ):
        assert main([*asked, *options]) == 2
        assert message in capsys.readouterr().err
        assert nothing_left(tmp_path)


def test_nan_in_the_source(tmp_path: Path, shipping: Registry) -> None:
    config = load_config("gpt2", SIZES["gpt2"], registry=shipping)
    model = build(config, registry=shipping)
    model.layers[1].ffn.down.weight.data[3, 5] = float("nan")  # type: ignore[union-attr]
    save_pretrained(model, tmp_path / "source", registry=shipping)
    with pytest.raises(CheckpointError, match=r"h.1.mlp.c_proj.weight' has NaN in it"):
        convert(tmp_path / "source", tmp_path / "out", registry=shipping, layout="native")
    assert nothing_left(tmp_path)


def test_what_a_quantizer_refuses_is_told(tmp_path: Path, shipping: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(load_config("gpt2", SIZES["gpt2"], registry=shipping), registry=shipping)
    model.layers[1].ffn.down.weight.data[3, 5] = 1e9  # type: ignore[union-attr]
    save_pretrained(model, tmp_path / "source", registry=shipping)
    int8 = shipping.get("quantizer", "int8")()
    pack = type(int8).pack

    def strict(self: QuantizerConfig, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        if weight.abs().max() > 1e6:
            raise ValueError("int8 can't hold more than 1e6")
        return pack(self, weight)

    monkeypatch.setattr(type(int8), "pack", strict)

    def change(config: ModelConfig) -> ModelConfig:
        return quantized(config, {"rest": int8})

    with pytest.raises(CheckpointError, match=r"'layers.1.ffn.down.weight': int8 can't hold"):
        convert(tmp_path / "source", tmp_path / "out", registry=shipping, layout="native", change=change)
    assert nothing_left(tmp_path)


def test_packed_weights_that_float16_cannot_hold(tmp_path: Path, shipping: Registry) -> None:
    source = folder_of("gpt-oss-20b", "native", tmp_path, shipping, dtype=torch.bfloat16)
    file = source / "model.safetensors"
    stored = load_file(file)
    name = next(name for name in stored if name.endswith("up.weight.scales"))
    stored[name][1, 2] = 147  # times 2^20
    save_file(stored, file)
    weight = name.removesuffix(".scales")
    said = f"'{weight}', unpacked, has numbers in it more than float16 holds: say bfloat16 or float32"
    with pytest.raises(CheckpointError, match=re.escape(said)):
        convert(
            source,
            tmp_path / "out",
            registry=shipping,
            layout="native",
            dtype=torch.float16,
            overrides={"layers.ffn.quantizer": None},
        )
    assert nothing_left(tmp_path)
    with pytest.raises(CheckpointError, match=re.escape(said)):
        from_pretrained(source, registry=shipping, dtype=torch.float16, trainable=True)


def test_a_full_disk(tmp_path: Path, shipping: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_of("gpt-oss-20b", "hf", tmp_path, shipping)
    before = bytes_of(source)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"can't be written \(No space left on device\); nothing was changed"):
            convert(source, tmp_path / "out", registry=shipping, layout="native", shard_bytes=50_000)
    assert nothing_left(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))  # type: ignore[attr-defined]
        patch.setattr(StoredTensor, "_fill", full)
        with pytest.raises(CheckpointError, match="1,000 free; nothing was written"):
            convert(source, tmp_path / "out", registry=shipping, layout="native")
    assert nothing_left(tmp_path)
    assert bytes_of(source) == before


# --- memory -----------------------------------------------------------------------------------------------------------

CONVERT = """
import sys
from blockzoo.cli import main
assert main(["convert", *sys.argv[1:]]) == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("quantize", [(), ("--quantize", "rest=int8")])
def test_memory_is_a_few_tensors_and_not_the_model(
    quantize: tuple[str, ...], tmp_path: Path, shipping: Registry
) -> None:
    """784 MB of weights, the largest tensor 52 MB."""
    sizes = {"layers.count": 8, "vocab_size": 8_000, "blocks.experts.n_experts": 6}
    config = load_config("gpt-oss-20b", sizes, registry=shipping)
    weights = write_random(config, tmp_path / "source", registry=shipping)
    assert weights > 700e6
    bare = peak("import blockzoo.checkpoints.convert")
    found = peak(CONVERT, str(tmp_path / "source"), str(tmp_path / "out"), "--to", "native", *quantize)
    print(f"weights {weights / 1e6:.0f} MB, over the interpreter {(found - bare) / 1e6:.0f} MB")
    assert found - bare < 0.5 * weights


@pytest.mark.parametrize("layout", ["hf", "native"])
def test_a_folder_that_reads_otherwise_than_it_was_written_does_not_appear(
    layout: str, tmp_path: Path, shipping: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder_of("gpt-oss-20b", "hf", tmp_path, shipping)
    written = Rule.views

    def crossed(self: Rule, *arguments: Any) -> list[torch.Tensor]:
        return written(self, *arguments)[::-1]  # gate and up change places, as in a key map with a slip

    def publish(*arguments: Any, **options: Any) -> None:
        write_shards(*arguments, **options)
        monkeypatch.setattr(Rule, "views", crossed)

    monkeypatch.setattr(save, "write_shards", publish)
    if layout == "native":  # nothing is fused there: a disk that lies
        monkeypatch.setattr(Rule, "views", written)
        monkeypatch.setattr(save, "write_shards", lying)
    with pytest.raises(CheckpointError, match=r"read again, '.*' is not what was written"):
        convert(source, tmp_path / "found", registry=shipping, layout=layout)
    assert not (tmp_path / "found").exists()


def lying(folder: Path, planned: Any, shard_bytes: int) -> None:
    """Writes all, and then one bit of a weight otherwise."""
    write_shards(folder, planned, shard_bytes)
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
