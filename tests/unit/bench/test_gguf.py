"""GGUF files: their bytes against the gguf package's reader and dequantizers, what they compute against llama.cpp."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import blockzoo
from blockzoo.errors import InputError
from blockzoo.memory_plan import quantized
from blockzoo.model import Decoder
from blockzoo.plugins import host

gguf = pytest.importorskip("gguf", reason="the extra 'bench' is not installed")
from blockzoo.bench.peers import Job, Prepared, Refused  # noqa: E402
from blockzoo.bench.peers.gguf import PACKED, outputs_of, write_gguf  # noqa: E402
from blockzoo.bench.peers.gguf_architectures import ARCHITECTURES, architecture_of  # noqa: E402
from blockzoo.bench.peers.gguf_blocks import mxfp4, q8_0  # noqa: E402
from blockzoo.bench.peers.gguf_source import Source  # noqa: E402
from blockzoo.bench.peers.llama_cpp import PEER, instructions  # noqa: E402

SIZES = {"vocab_size": 97, "context_length": 256, "d_model": 64}
YARN = {"type": "yarn", "factor": 4, "original_context_length": 64, "truncate": True}
QK_NORM = {"type": "rms_norm", "eps": 1e-6, "scale_in_fp32": False}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {
        **SIZES,
        "family": "gpt2",
        "embedding": {"tied": True, "position": "learned"},
        "norm": {"type": "layer_norm", "eps": 1e-5},
        "layers": {
            "count": 2,
            "mixer": {"type": "gqa", "n_heads": 4, "bias": True},
            "ffn": {"type": "mlp", "d_ff": 160, "activation": "gelu_tanh", "bias": True},
        },
    },
    "qwen3": {
        **SIZES,
        "family": "qwen3",
        "embedding": {"tied": False},
        "norm": {"type": "rms_norm", "eps": 1e-6, "scale_in_fp32": False},
        "position": {"type": "rope", "theta": 1e6},
        "layers": {
            "count": 3,
            "mixer": {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "qk_norm": QK_NORM},
            "ffn": {"type": "glu", "d_ff": 96, "activation": "silu"},
        },
    },
    "gpt-oss": {
        **SIZES,
        "family": "gpt_oss",
        "norm": {"type": "rms_norm", "eps": 1e-5},
        "position": {"type": "rope", "theta": 150000, "scaling": YARN},
        "blocks": {
            "full": {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "bias": True, "sinks": True},
            "sliding": {"use": "full", "window": 8},
            "gate": {"type": "glu", "d_ff": 96, "bias": True, "activation_scale": 1.702, "limit": 7.0, "up_shift": 1.0},
            "experts": {
                "type": "moe",
                "n_experts": 8,
                "top_k": 2,
                "router": {"bias": True, "weights": "chosen"},
                "expert": "gate",
                "quantizer": "mxfp4",
            },
        },
        "layers": {"count": 4, "mixer": {"cycle": ["sliding", "full"]}, "ffn": "experts"},
    },
}


def random_model(name: str, changes: Mapping[str, Any] | None = None) -> Decoder:
    """Weights of an ordinary size everywhere, gains and biases too, and logits far apart."""
    config = blockzoo.load_config(MODELS[name], changes)
    masters = blockzoo.build(config, trainable=True)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in masters.named_parameters():
            scale = 3.0 if key.startswith("head.unembedding") else 1.5
            std = scale / parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 0.2
            parameter.normal_(0.0, std, generator=generator)
            if "norm" in key and key.endswith("weight"):
                parameter.add_(1.0)
    return masters


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf") / request.param
    blockzoo.save_pretrained(random_model(request.param), folder, layout="hf")
    return folder


def written(folder: Path, path: Path, dtype: str = "float32", rest: str | None = None) -> dict[str, Any]:
    registry = host().registry
    source = Source(folder, registry)
    config = quantized(source.config, {"rest": registry.get("quantizer", rest)()}) if rest else source.config
    write_gguf(source, path, config, dtype, registry)
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def values(tensor: Any) -> np.ndarray:
    found: np.ndarray = gguf.dequantize(tensor.data, tensor.tensor_type)
    return found


def test_mxfp4_keeps_every_code_and_scale() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).view(4, 4, 16)
    scales = torch.tensor(
        [[0, 1, 2, 120], [125, 126, 127, 128], [3, 200, 252, 129], [90, 110, 115, 118]], dtype=torch.uint8
    )
    quantizer = host().registry.get("quantizer", "mxfp4")()
    ours = quantizer.unpack({"blocks": blocks, "scales": scales}, torch.float32).numpy()
    theirs = gguf.dequantize(mxfp4(blocks, scales), gguf.GGMLQuantizationType.MXFP4)
    assert np.array_equal(ours, theirs)


def test_mxfp4_order_of_nibbles() -> None:
    """ggml's first byte holds codes 0 and 16 of a block, by its own definition."""
    codes = torch.arange(32, dtype=torch.uint8) % 16
    blocks = (codes[0::2] | codes[1::2] << 4).view(1, 1, 16)
    assert mxfp4(blocks, torch.full((1, 1), 127, dtype=torch.uint8)).tolist() == [[127, *(17 * i for i in range(16))]]


def test_q8_0_is_near() -> None:
    rows = torch.randn(7, 96, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    rows[0, :32] = 0
    found = gguf.dequantize(q8_0(rows), gguf.GGMLQuantizationType.Q8_0)
    step = rows.float().unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
    assert bool(((torch.from_numpy(found) - rows.float()).abs().unflatten(-1, (-1, 32)) <= step * 0.56).all())


def test_every_weight_is_there_under_its_name(saved: Path, tmp_path: Path) -> None:
    tensors = written(saved, tmp_path / "model.gguf")
    model = blockzoo.from_pretrained(saved, dtype=torch.float32)
    state = model.state_dict()
    assert np.array_equal(values(tensors["token_embd.weight"]), state["embedding.tokens.weight"].numpy())
    assert np.array_equal(values(tensors["output_norm.weight"]), state["head.norm.weight"].numpy())
    total = sum(int(np.prod(tensor.shape)) for tensor in tensors.values())
    assert total == blockzoo.account(model.config).parameters["total"]
    layer = "layers.1.mixer"
    if saved.name == "gpt2":
        fused = torch.cat([state[f"{layer}.{part}.weight"] for part in "qkv"])
        assert np.array_equal(values(tensors["blk.1.attn_qkv.weight"]), fused.numpy())
        assert "output.weight" not in tensors
    else:
        assert np.array_equal(values(tensors["blk.1.attn_k.weight"]), state[f"{layer}.k.weight"].numpy())
    if saved.name == "gpt-oss":
        quantizer = model.config.layers[0].ffn.quantizer  # type: ignore[union-attr]
        for part in ("gate", "up", "down"):
            packed = {key: state[f"layers.1.ffn.experts.{part}.weight.{key}"] for key in ("blocks", "scales")}
            tensor = tensors[f"blk.1.ffn_{part}_exps.weight"]
            assert tensor.tensor_type is gguf.GGMLQuantizationType.MXFP4
            assert np.array_equal(values(tensor), quantizer.unpack(packed, torch.float32).numpy())
        assert np.array_equal(values(tensors["blk.1.attn_sinks.weight"]), state[f"{layer}.sinks"].numpy())


def test_storage_as_asked(saved: Path, tmp_path: Path) -> None:
    kinds = {name: t.tensor_type.name for name, t in written(saved, tmp_path / "m.gguf", "bfloat16", "int8").items()}
    assert kinds["blk.0.attn_output.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    kinds = {name: t.tensor_type.name for name, t in written(saved, tmp_path / "m.gguf", "bfloat16").items()}
    assert kinds["blk.0.attn_output.weight"] == "BF16"
    if saved.name == "gpt-oss":
        assert kinds["blk.0.ffn_up_exps.weight"] == "MXFP4"
        assert kinds["blk.0.ffn_gate_inp.weight"] == kinds["blk.0.ffn_up_exps.bias"] == "F32"


CONTINUE = """
import json, sys
from blockzoo.bench.peers.llama_cpp_served import Server
server = Server(sys.argv[1], 128, 1, "float32")
print("TOKENS", json.dumps([server.complete(prompt, 20)[0] for prompt in json.loads(sys.argv[2])]))
"""


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_continues_as_we_do(name: str, tmp_path: Path) -> None:
    """40 and 100 tokens read, 20 chosen each: past a window of 8, and past the 64 positions that YaRN stretches.

    In float32, experts too: llama.cpp rounds activations to 8 bits beside MXFP4 weights.
    """
    pytest.importorskip("xllamacpp", reason="the extra 'bench' is not installed")
    changes = {"blocks.experts.quantizer": None} if name == "gpt-oss" else {}
    folder, path = tmp_path / "saved", tmp_path / "model.gguf"
    blockzoo.save_pretrained(random_model(name, changes), folder, layout="hf")
    written(folder, path)
    model = blockzoo.from_pretrained(folder, dtype=torch.float32)
    prompts = [torch.randint(97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (40, 100)]
    ours = [list(blockzoo.generate(model, prompt, max_new_tokens=20, temperature=0.0)) for prompt in prompts]
    assert all(len(set(tokens)) > 5 for tokens in ours)
    command = [sys.executable, "-c", CONTINUE, str(path), json.dumps(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = [line.removeprefix("TOKENS") for line in done.stdout.splitlines() if line.startswith("TOKENS")]
    assert told, done.stderr[-2000:]
    assert json.loads(told[0]) == ours


# --- what can't be compared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gpt2", {"norm": {"type": "rms_norm", "eps": 1e-5}}, "norm is rms_norm, not layer_norm"),
        ("gpt2", {"layers.ffn.activation": "relu"}, "layers[0].ffn.activation is relu, not gelu_tanh"),
        ("qwen3", {"layers.mixer.scale": 0.5}, "layers[0].mixer.scale is 0.5, not 1 / sqrt(head_dim)"),
        ("qwen3", {"layers.mixer.window": 8}, "layers[0].mixer.window is 8, not none"),
        ("qwen3", {"head.logit_softcap": 30.0}, "head.logit_softcap is 30.0, not none"),
        ("qwen3", {"head.norm": {"type": "rms_norm", "eps": 1e-5}}, "several eps"),
        ("gpt-oss", {"layers.mixer": {"cycle": ["full", "sliding"]}}, "windows are not one on every second layer"),
        ("gpt-oss", {"blocks.gate.limit": 5.0}, "layers[0].ffn.expert.limit is 5.0, not 7.0"),
        ("gpt-oss", {"blocks.sliding.sinks": False}, "not like layers[0]"),
    ],
)
def test_a_model_that_llama_cpp_does_not_compute(name: str, changes: dict[str, Any], reason: str) -> None:
    config = blockzoo.load_config({**MODELS[name], "family": None}, changes)
    with pytest.raises(InputError, match=f"nearest is {name}") as told:
        architecture_of(config, host().registry)
    assert reason in str(told.value)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "qwen3-0.6b", "qwen3-32b", "gpt-oss-20b", "gpt-oss-120b"])
def test_the_published_models_have_one(name: str) -> None:
    assert architecture_of(blockzoo.load_config(name), host().registry).name in MODELS


def job(folder: Path, scratch: Path, **changes: Any) -> Job:
    given = {"dtype": "bfloat16", "quantize": (), "capacity": 64, "threads": 1, "memory": 2 * 10**9} | changes
    return Job(folder=folder, scratch=scratch, **given)


def test_the_peer_prepares_or_says_why_not(saved: Path, tmp_path: Path) -> None:
    ready = PEER.prepare(job(saved, tmp_path, quantize=("rest=int8",)))
    assert isinstance(ready, Prepared)
    assert ready.path.stat().st_size > 0
    assert "q8_0" in ready.what
    small = PEER.prepare(job(saved, tmp_path, memory=10**6))
    assert isinstance(small, Refused)
    assert "memory" in small.reason


def test_a_quantizer_that_gguf_has_not(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(PACKED, "blocks:int8")
    refused = PEER.prepare(job(saved, tmp_path, quantize=("rest=int8",)))
    assert isinstance(refused, Refused)
    assert "no storage like blocks:int8" in refused.reason


def test_blocks_of_32_must_fit() -> None:
    registry = host().registry
    config = blockzoo.load_config(MODELS["gpt2"], {"d_model": 48, "layers.mixer.n_heads": 3})
    halves = registry.get("quantizer", "int8")(group_size=16)
    with pytest.raises(InputError, match="groups of 32 inputs, found 48"):
        outputs_of(ARCHITECTURES[0], quantized(config, {"mixer": halves}), "bfloat16", registry)


def test_instructions() -> None:
    assert instructions("CPU : SSE3 = 1 | AVX2 = 1 | AMX_INT8 = 0 | REPACK = 1 | ") == "SSE3 AVX2 REPACK"
