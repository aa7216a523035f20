"""What we save: read by transformers, and bit for bit what was loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.safetensors_io import Planned, write_shards
from blockzoo.config import load_config
from blockzoo.errors import CheckpointError
from blockzoo.registry import Registry
from tests.parity import reference

KINDS = sorted(reference.CONFIGS)
PACK = {"blocks.experts.quantizer": "mxfp4"}
SAID = {
    "gpt2": {"n_embd", "n_layer", "n_head", "n_positions", "vocab_size", "activation_function", "tie_word_embeddings"},
    "qwen3": {"hidden_size", "head_dim", "rms_norm_eps", "rope_parameters", "layer_types", "tie_word_embeddings"},
    "qwen3_moe": {"norm_topk_prob", "mlp_only_layers", "num_local_experts", "rope_parameters", "moe_intermediate_size"},
    "gpt_oss": {"sliding_window", "layer_types", "swiglu_limit", "rope_parameters", "num_local_experts"},
}


def contents(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Name -> dtype, shape, bytes."""
    stored = stored_tensors(folder).values()
    return {t.name: (t.dtype, t.shape, t.read().reshape(-1).view(torch.uint8).numpy().tobytes()) for t in stored}


def read_by_transformers(folder: Path, **options: Any) -> transformers.PreTrainedModel:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, **options
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_transformers_reads_what_we_save(kind: str, tmp_path: Path, registry: Registry) -> None:
    theirs = reference.saved(kind, tmp_path / "theirs")
    save_pretrained(from_pretrained(tmp_path / "theirs", registry=registry), tmp_path / "ours", registry=registry)
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    again = read_by_transformers(tmp_path / "ours")
    tokens = reference.tokens(2, 40)
    assert torch.equal(again(tokens).logits, theirs(tokens).logits)
    said, expected = again.config.to_dict(), theirs.config.to_dict()
    assert {key: said[key] for key in SAID[kind]} == {key: expected[key] for key in SAID[kind]}


@torch.no_grad()
def test_transformers_reads_packed_experts(tmp_path: Path, registry: Registry) -> None:
    reference.saved("gpt_oss", tmp_path / "floats")
    ours = from_pretrained(tmp_path / "floats", registry=registry, overrides=PACK)
    save_pretrained(ours, tmp_path / "packed", registry=registry)
    theirs = read_by_transformers(tmp_path / "packed", quantization_config=transformers.Mxfp4Config(dequantize=True))
    tokens = reference.tokens(2, 40)
    assert reference.error(ours(tokens), theirs(tokens).logits) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_load_and_save_gives_equal_bytes_in_bfloat16(kind: str, tmp_path: Path, registry: Registry) -> None:
    theirs = reference.saved(kind, tmp_path / "wide").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    model = from_pretrained(tmp_path / "theirs", registry=registry)
    save_pretrained(model, tmp_path / "ours", registry=registry, shard_bytes=100_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 1
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_original_layout_comes_back(data: Path, tmp_path: Path, registry: Registry) -> None:
    folder = data / "gpt-oss-original-tiny"
    copy = tmp_path / "copy"  # without the expected logits beside it
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((folder / name).read_bytes())
    model = from_pretrained(copy, registry=registry)
    for layout in ("original", "hf", "native"):
        save_pretrained(model, tmp_path / layout, registry=registry, layout=layout)
        again = from_pretrained(tmp_path / layout, registry=registry)
        save_pretrained(again, tmp_path / f"{layout}-again", registry=registry, layout="original")
        assert contents(tmp_path / f"{layout}-again") == contents(copy)
    assert json.loads((tmp_path / "original" / "config.json").read_text()) == json.loads(
        (copy / "config.json").read_text()
    )


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    d_model=st.sampled_from([64, 96]),
    d_ff=st.sampled_from([32, 160]),
    experts=st.integers(2, 5),
    layers=st.integers(1, 3),
    packed=st.booleans(),
    layout=st.sampled_from(["hf", "original"]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_gpt_oss_of_unequal_sizes_comes_back(
    d_model: int,
    d_ff: int,
    experts: int,
    layers: int,
    packed: bool,
    layout: str,
    dtype: torch.dtype,
    registry: Registry,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Published checkpoints have d_model = d_ff, where a transposed matrix goes unseen."""
    tmp_path = tmp_path_factory.mktemp("sizes")
    packed = packed or layout == "original"
    sizes = {
        "hidden_size": d_model,
        "intermediate_size": d_ff,
        "num_local_experts": experts,
        "num_hidden_layers": layers,
    }
    values = reference.gpt_oss(**sizes).to_dict()
    mapping = registry.get("family", "gpt_oss").layouts["hf"].read_config(values)
    config = load_config(mapping, PACK if packed else None, registry=registry)
    model = build(config, registry=registry, dtype=dtype, seed=d_ff)
    save_pretrained(model, tmp_path / "a", registry=registry, layout=layout)
    again = from_pretrained(tmp_path / "a", registry=registry)
    save_pretrained(again, tmp_path / "b", registry=registry, layout=layout)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for (name, ours), (other, theirs) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)


def test_stored_dtypes_are_kept_one_by_one(tmp_path: Path, registry: Registry) -> None:
    reference.saved("qwen3", tmp_path / "wide").to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    mixed = {name: t.read() for name, t in stored_tensors(tmp_path / "narrow").items()}
    mixed = {name: tensor.float() if "norm" in name else tensor for name, tensor in mixed.items()}
    _write(mixed, tmp_path / "narrow")
    save_pretrained(from_pretrained(tmp_path / "narrow", registry=registry), tmp_path / "again", registry=registry)
    assert contents(tmp_path / "again") == contents(tmp_path / "narrow")


def test_gpt2_keys_without_prefix_and_with_masks(tmp_path: Path, registry: Registry) -> None:
    """The published files have no ``transformer.`` and carry the causal masks; saving keeps the choice of prefix."""
    theirs = reference.saved("gpt2", tmp_path / "theirs")
    bare = {name.removeprefix("transformer."): t.read() for name, t in stored_tensors(tmp_path / "theirs").items()}
    masks = {f"h.{n}.attn.bias": torch.ones(1, 1, 256, 256) for n in range(4)}
    masks |= {f"h.{n}.attn.masked_bias": torch.tensor(-1e4) for n in range(4)}
    _write({**bare, **masks}, tmp_path / "theirs")
    ours = from_pretrained(tmp_path / "theirs", registry=registry)
    tokens = reference.tokens(1, 30)
    with torch.no_grad():
        assert reference.error(ours(tokens), theirs(tokens).logits) < 1e-5
    save_pretrained(ours, tmp_path / "ours", registry=registry)
    assert set(contents(tmp_path / "ours")) == set(bare)
    read_by_transformers(tmp_path / "ours")


def test_a_tied_weight_stored_twice_is_written_once(tmp_path: Path, registry: Registry) -> None:
    reference.saved("qwen3", tmp_path / "theirs")
    tensors = {name: t.read() for name, t in stored_tensors(tmp_path / "theirs").items()}
    _write({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "theirs")
    save_pretrained(from_pretrained(tmp_path / "theirs", registry=registry), tmp_path / "ours", registry=registry)
    assert set(contents(tmp_path / "ours")) == set(tensors)
    _write({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"ties 'lm_head\.weight' to 'model\.embed_tokens\.weight'"):
        from_pretrained(tmp_path / "theirs", registry=registry)


def test_float_blocks_are_refused(tmp_path: Path, registry: Registry) -> None:
    """What transformers writes when it saves experts that it de-quantised: floats under the names of packed tensors."""
    reference.saved("gpt_oss", tmp_path / "floats")
    packed = from_pretrained(tmp_path / "floats", registry=registry, overrides=PACK)
    save_pretrained(packed, tmp_path / "packed", registry=registry)
    tensors = {name: t.read() for name, t in stored_tensors(tmp_path / "packed").items()}
    name = "model.layers.0.mlp.experts.down_proj_blocks"
    _write({**tensors, name: tensors[name].float()}, tmp_path / "packed")
    with pytest.raises(CheckpointError, match="down_proj_blocks' is float32, the config wants uint8"):
        from_pretrained(tmp_path / "packed", registry=registry)
    _write(
        {**tensors, name.replace("blocks", "scales"): tensors[name.replace("blocks", "scales")].fill_(255)},
        tmp_path / "packed",
    )
    with pytest.raises(CheckpointError, match="scale byte 255"):
        from_pretrained(tmp_path / "packed", registry=registry)


def test_experts_pack_on_load_and_unpack_for_training(tmp_path: Path, registry: Registry) -> None:
    reference.saved("gpt_oss", tmp_path / "floats")
    packed = from_pretrained(tmp_path / "floats", registry=registry, overrides=PACK)
    save_pretrained(packed, tmp_path / "packed", registry=registry)
    masters = from_pretrained(tmp_path / "packed", registry=registry, trainable=True)
    tokens = reference.tokens(1, 20)
    logits = masters(tokens)
    logits.sum().backward()
    assert masters.get_parameter("layers.0.ffn.experts.gate.weight").grad is not None
    with torch.no_grad():
        assert reference.error(logits, packed(tokens)) < 1e-5
    save_pretrained(masters, tmp_path / "again", registry=registry)
    assert contents(tmp_path / "again") == contents(tmp_path / "packed")


def _write(tensors: dict[str, Tensor], folder: Path) -> None:
    """Replace the weights of a folder."""
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    planned = [Planned(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]
    write_shards(folder, planned, 10**9)
