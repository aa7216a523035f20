"""A toy kernel whose layout interleaves rows: saving, state dicts and loading never see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from blockzoo.building import build
from blockzoo.config.schema import HeadConfig, LayerConfig, ModelConfig
from blockzoo.errors import KernelError
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Layout, Verdict, no
from blockzoo.linear import StoredLinear, matrix
from blockzoo.model import Decoder
from blockzoo.registry import Registrar, Registry
from tests.contract.mixes import block

ROWS = 2


def interleave(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows 0, n/2, 1, n/2 + 1, ...: of every tensor, along the output axis of a (out, ...) weight."""
    return {name: torch.stack(t.chunk(ROWS, dim=0), dim=1).flatten(0, 1).contiguous() for name, t in tensors.items()}


def restore(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([t[i::ROWS] for i in range(ROWS)]).contiguous() for name, t in tensors.items()}


INTERLEAVED = Layout("interleaved rows", interleave, restore)


def decode(weight: Mapping[str, torch.Tensor], x: torch.Tensor, bias: Any, *, quantizer: Any) -> torch.Tensor:
    matrix = weight["weight"] if quantizer is None else quantizer.unpack(weight, x.dtype)
    y = F.linear(x, matrix)
    y = torch.cat([y[..., i::ROWS] for i in range(ROWS)], dim=-1)
    return y if bias is None else y + bias


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    return YES if call.phase == "decode" else no("decodes only")


TOY = Kernel("toy", decode, supports, priority=90, layout=INTERLEAVED)


@pytest.fixture
def with_toy(registry: Registry) -> Registry:
    copy = Registry(builtin=registry.builtin, things=dict(registry.things))
    registrar = Registrar(copy, "toys")
    registrar.kernel("linear", TOY)
    registrar.commit()
    return copy


def small(registry: Registry, quantizer: str | None) -> ModelConfig:
    packed = None if quantizer is None else block(registry, "quantizer", quantizer)
    norm = block(registry, "norm", "rms_norm")
    layer = LayerConfig(
        mixer=block(registry, "mixer", "gqa", n_heads=4, n_kv_heads=2, head_dim=16, bias=True, quantizer=packed),
        ffn=block(registry, "ffn", "glu", d_ff=64, quantizer=packed),
        norm=norm,
        position=block(registry, "position", "rope"),
        residual=block(registry, "residual", "pre_norm"),
    )
    return ModelConfig(vocab_size=64, context_length=32, d_model=32, head=HeadConfig(norm=norm), layers=(layer, layer))


def linears(model: Decoder) -> list[StoredLinear]:
    return [module for module in model.modules() if isinstance(module, StoredLinear)]


@pytest.mark.parametrize("quantizer", [None, "mxfp4", "int8"])
def test_nothing_outside_sees_a_layout(with_toy: Registry, quantizer: str | None) -> None:
    config = small(with_toy, quantizer)
    plain = build(config, registry=with_toy, kernels={"linear": "reference"})
    toy = build(config, registry=with_toy, kernels={"linear": "toy"})
    assert linears(toy)
    assert all(module.layout is INTERLEAVED for module in linears(toy))
    assert {(b.phase, b.kernel) for b in toy.bindings if b.op == "linear"} >= {
        ("decode", "toy"),
        ("prefill", "reference"),
    }

    saved = plain.state_dict()
    assert set(toy.state_dict()) == set(saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in toy.state_dict().items())

    tokens = torch.arange(24)[None] % config.vocab_size
    with torch.no_grad():
        expected = plain(tokens)
        assert torch.allclose(toy(tokens), expected, atol=1e-6)
        cache = toy.new_cache()
        steps = [toy(tokens[:, i : i + 1], cache=cache) for i in range(24)]
        assert torch.allclose(torch.cat(steps, dim=1), expected, atol=1e-5)

        other = build(config, registry=with_toy, seed=5, kernels={"linear": "toy"})
        other.load_state_dict(saved)
        assert all(torch.equal(tensor, saved[name]) for name, tensor in other.state_dict().items())
        assert torch.allclose(other(tokens), expected, atol=1e-6)


@pytest.mark.parametrize("quantizer", [None, "mxfp4", "int8"])
@torch.no_grad()
def test_a_matrix_is_the_same_however_it_is_stored(with_toy: Registry, quantizer: str | None) -> None:
    config = small(with_toy, quantizer)
    models = [
        build(config, registry=with_toy),
        build(config, registry=with_toy, trainable=True),
        build(config, registry=with_toy, kernels={"linear": "toy"}),
    ]
    x = torch.eye(32)
    for name in ("layers.0.mixer.k", "layers.1.ffn.up"):
        linears = [model.get_submodule(name) for model in models]
        first, *others = [matrix(linear, torch.float32) for linear in linears]
        assert all(torch.equal(first, other) for other in others)
        bias = 0 if linears[0].bias is None else linears[0].bias
        assert torch.equal(linears[0](x) - bias, first.mT)
        assert matrix(linears[0], torch.bfloat16).dtype == torch.bfloat16


def test_going_back_to_the_canonical_layout(with_toy: Registry) -> None:
    config = small(with_toy, None)
    model = build(config, registry=with_toy, kernels={"linear": "toy"})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.bind({"linear": "reference"})
    assert all(module.layout is None for module in linears(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_explicit_choice_that_cannot_run_says_why(with_toy: Registry) -> None:
    config = small(with_toy, None)
    with pytest.raises(KernelError, match="did you mean 'toy'"):
        build(config, registry=with_toy, kernels={"linear": "tooy"})
    with pytest.raises(KernelError, match="no op of that name"):
        build(config, registry=with_toy, kernels={"atention": "sdpa"})
    (layer, _) = config.layers
    capped = layer.model_copy(update={"mixer": layer.mixer.model_copy(update={"softcap": 5.0})})
    soft = config.model_copy(update={"layers": (capped, capped)})
    with pytest.raises(KernelError, match="has no softcap"):
        build(soft, registry=with_toy, kernels={"attention": "sdpa"})
    with pytest.raises(KernelError, match="do not train"):
        build(config, registry=with_toy, trainable=True, kernels={"linear": "toy"})


def packed_weights_only(capabilities: Capabilities, call: Call) -> Verdict:
    return no("reads packed weights only") if call.static["quantizer"] is None else YES


def test_a_choice_leaves_the_matrices_it_cannot_read_to_the_best_other(with_toy: Registry) -> None:
    registrar = Registrar(with_toy, "more")
    registrar.kernel("linear", replace(TOY, name="packed", supports=packed_weights_only, priority=-1))
    registrar.commit()
    model = build(small(with_toy, "int8"), registry=with_toy, kernels={"linear": "packed"})
    decoding = {line.place: line for line in model.bindings if line.op == "linear" and line.phase == "decode"}
    head = decoding.pop("head.unembedding")
    assert head.kernel == "toy"
    assert dict(head.lost)["packed"] == "reads packed weights only"
    assert {line.kernel for line in decoding.values()} == {"packed"}
    with pytest.raises(KernelError, match=r"can't serve op 'linear' here: train: forward only; prefill: reads"):
        build(small(with_toy, None), registry=with_toy, kernels={"linear": "packed"})
