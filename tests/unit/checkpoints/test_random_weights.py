"""Checkpoints of random weights: every layout loads, the same model in each, sane values, nothing half-written."""

from __future__ import annotations

import errno
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from blockzoo.accounting import account
from blockzoo.checkpoints import from_pretrained, places, safetensors_io
from blockzoo.checkpoints import random_weights as module
from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.random_weights import write_random
from blockzoo.cli import main
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError
from blockzoo.registry import Registry
from tests.conftest import builtin_registry
from tests.unit.test_memory_plan import ROOT, TINY

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def shipping() -> Registry:
    registry = builtin_registry()
    registry.config_folders = {"blocks": [ROOT / "configs" / name for name in ("gpt2", "qwen3", "gpt_oss")]}
    return registry


def tiny(name: str, registry: Registry, **more: object) -> ModelConfig:
    return load_config(name, {**TINY[name], **more}, registry=registry)


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("gpt2", ("hf", "native")),
        ("qwen3-0.6b", ("hf", "native")),
        ("qwen3-30b-a3b", ("hf", "native")),
        ("gpt-oss-20b", ("hf", "original", "native")),
    ],
)
def test_every_layout_holds_the_same_model(
    name: str, layouts: tuple[str, ...], shipping: Registry, tmp_path: Path
) -> None:
    config = tiny(name, shipping)
    states = []
    for layout in layouts:
        written = write_random(config, tmp_path / layout, registry=shipping, layout=layout, seed=7)
        assert written == account(config).weight_bytes["as_configured"]
        assert written == sum(tensor.nbytes for tensor in stored_tensors(tmp_path / layout).values())
        model = from_pretrained(tmp_path / layout, registry=shipping)
        assert model.dtype == torch.bfloat16
        assert model(torch.arange(20)[None] % config.vocab_size).isfinite().all()
        states.append(model.state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[key], states[0][key]) for key in state)


@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b"])
def test_transformers_reads_them(name: str, shipping: Registry, tmp_path: Path) -> None:
    write_random(tiny(name, shipping), tmp_path / "out", registry=shipping, dtype=torch.float32)
    judge = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ours = from_pretrained(tmp_path / "out", registry=shipping)
    tokens = torch.arange(30)[None] * 3 % 128
    with torch.no_grad():
        theirs = judge(tokens).logits
        assert (ours(tokens) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_values_are_sane(shipping: Registry, tmp_path: Path) -> None:
    config = tiny("gpt-oss-20b", shipping)
    write_random(config, tmp_path / "out", registry=shipping, layout="native", dtype=torch.float32)
    held = {name: tensor.read() for name, tensor in stored_tensors(tmp_path / "out").items()}
    assert set(held["layers.0.ffn.experts.up.weight.scales"].unique().tolist()) == {120}
    up = config.layers[0].ffn.quantizer.unpack(  # type: ignore[union-attr]
        {part: held[f"layers.0.ffn.experts.up.weight.{part}"] for part in ("blocks", "scales")}, torch.float32
    )
    assert 0.015 < up.std() < 0.03
    assert abs(up.mean()) < 0.002
    assert held["embedding.tokens.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert (held["head.norm.weight"] == 1).all()
    assert (held["layers.0.mixer.q.bias"] == 0).all()
    experts = held["layers.0.ffn.experts.up.weight.blocks"]
    assert not torch.equal(experts[0], experts[1])


def test_seeds_and_pieces(shipping: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("qwen3-0.6b", shipping)
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random(config, tmp_path / folder, registry=shipping, seed=seed)
    a, b, c = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "abc")
    assert a == b
    assert a != c
    monkeypatch.setattr(module, "WEIGHTS_AT_ONCE", 640)
    said: list[tuple[int, int]] = []
    total = write_random(
        config, tmp_path / "d", registry=shipping, shard_bytes=10**5, progress=lambda *now: said.append(now)
    )
    assert said[-1] == (total, total)
    assert len(said) == len(stored_tensors(tmp_path / "d"))
    assert len(list((tmp_path / "d").glob("model-*.safetensors"))) > 1
    table = from_pretrained(tmp_path / "d", registry=shipping).embedding.tokens.weight
    assert not torch.equal(table[:10], table[10:20])


@pytest.mark.parametrize("name", ["mxfp4", "int8"])
def test_quantizers_draw_what_they_pack(name: str, registry: Registry) -> None:
    quantizer, shape = registry.get("quantizer", name)(), (6, 40, 64)
    drawn = quantizer.draw(shape, 0.02, torch.Generator().manual_seed(1))
    assert {part: (tuple(t.shape), t.dtype) for part, t in drawn.items()} == {
        part: (t.shape, t.dtype) for part, t in quantizer.tensors(shape).items()
    }
    weight = quantizer.unpack(drawn, torch.float32)
    assert 0.015 < weight.std() < 0.027
    again = quantizer.draw(shape, 0.02, torch.Generator().manual_seed(1))
    assert all(torch.equal(drawn[part], again[part]) for part in drawn)


@pytest.mark.parametrize("name", ["gpt2", "qwen3-30b-a3b"])
def test_floats_are_packed_piece_by_piece(
    name: str, shipping: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transposed and fused ones, and experts that come one by one, as if each had been packed whole."""
    write_random(tiny(name, shipping), tmp_path / "out", registry=shipping)
    plain = from_pretrained(tmp_path / "out", registry=shipping).state_dict()
    monkeypatch.setattr(places, "WEIGHTS_AT_ONCE", 640)
    packed = from_pretrained(tmp_path / "out", registry=shipping, overrides={"quantizer": "int8"}).state_dict()
    int8 = shipping.get("quantizer", "int8")()
    changed = sorted({name.rpartition(".")[0] for name in packed.keys() - plain.keys()})
    assert len(changed) >= 10
    for weight in changed:
        for part, tensor in int8.pack(plain[weight]).items():
            assert torch.equal(packed[f"{weight}.{part}"], tensor), weight


def test_a_full_disk_leaves_nothing(shipping: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny("gpt2", shipping)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage(10**6, 10**6, 5000))
        with pytest.raises(CheckpointError, match="has 5,000 free; nothing was written"):
            write_random(config, tmp_path / "new" / "out", registry=shipping)
    calls = []

    def full(tensor: torch.Tensor) -> memoryview:
        calls.append(tensor)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())

    monkeypatch.setattr(safetensors_io, "bytes_of", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_random(config, tmp_path / "new" / "out", registry=shipping)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for key, value in TINY["qwen3-0.6b"].items() for word in ("--set", f"{key}={value}")]
    assert main(["convert", "--random", "qwen3-0.6b", str(tmp_path / "out"), *settings]) == 0
    assert "no tokenizer files are written: its tokenizer is 'Qwen/Qwen3-0.6B'" in capsys.readouterr().err
    (tmp_path / "out" / "tokenizer_config.json").write_text("{}")
    again = ["convert", "--random", str(tmp_path / "out"), str(tmp_path / "two"), "--layout", "native"]
    assert main([*again, "--dtype", "float32", "--seed", "3"]) == 0
    assert "with tokenizer_config.json" in capsys.readouterr().err
    assert (tmp_path / "two" / "tokenizer_config.json").read_text() == "{}"
    for arguments, message in (
        (["convert", str(tmp_path / "out"), str(tmp_path / "no")], "--to is missing"),
        (["convert", str(tmp_path / "out"), str(tmp_path / "no"), "--to", "hf", "--seed", "1"], "--random"),
        (["convert", "--random", "gpt2", str(tmp_path / "no"), "--to", "hff"], "did you mean 'hf'"),
        (["convert", "--random", "gpt9", str(tmp_path / "no")], "no config 'gpt9'"),
        (["convert", "--random", "gpt2", str(tmp_path), *settings[-2:]], "holds other files"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
