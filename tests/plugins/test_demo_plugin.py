"""An installed third-party plugin inside all three architectures: from YAML it trains, caches, saves and loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo.accounting import account
from blockzoo.building import build, empty
from blockzoo.config import dump, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.linear import StoredLinear
from blockzoo.model import Decoder
from blockzoo.plugins import Loaded, load_plugins
from blockzoo.registry import Registry
from blockzoo.selection import Selection

TINY = {"vocab_size": 128, "context_length": 64, "d_model": 32, "layers.count": 2, "norm": {"type": "dynamic_tanh"}}
NIBBLE = {"type": "nibble"}
GATED = {"type": "gated_attention", "n_heads": 4}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "blocks.attention": GATED,
        "blocks.dense": {"type": "mlp", "d_ff": 64, "activation": "gelu_tanh", "bias": True, "quantizer": NIBBLE},
    },
    "qwen3-30b-a3b": {
        "blocks.attention": {**GATED, "quantizer": NIBBLE},
        "blocks.experts.n_experts": 4,
        "blocks.experts.top_k": 2,
        "blocks.experts.expert.d_ff": 32,
    },
    "gpt-oss-20b": {  # its sliding layers stay grouped-query attention, the full ones are the plugin's
        "blocks.full": GATED,
        "blocks.sliding": {
            "type": "gqa", "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "bias": True, "sinks": True, "window": 8,
        },
        "blocks.gate.d_ff": 64,
        "blocks.experts.n_experts": 4,
        "blocks.experts.top_k": 2,
        "blocks.experts.quantizer": NIBBLE,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded(good: Path) -> Iterator[Loaded]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(good))
        yield load_plugins(selection=Selection(frozenset({"demo"})))


@pytest.fixture(scope="module")
def registry(loaded: Loaded) -> Registry:
    return loaded.registry


@pytest.fixture(params=ARCHITECTURES)
def config(request: pytest.FixtureRequest, registry: Registry) -> ModelConfig:
    return load_config(request.param, {**TINY, **ARCHITECTURES[request.param]}, registry=registry)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(1))


def test_it_loads_with_all_its_components(loaded: Loaded) -> None:
    (row,) = [plugin for plugin in loaded.plugins if plugin.name == "demo"]
    assert row.state == "loaded"
    assert (row.installed.distribution, row.installed.version) == ("blockzoo-demo-plugin", "0.3.0")
    names = {component.canonical for component in row.components}
    assert names == {"demo:dynamic_tanh", "demo:gated_attention", "demo:nibble", "demo:per_head"}


def test_its_own_config_is_shipped(registry: Registry) -> None:
    assert load_config("demo-tiny", registry=registry).n_layers == 2


def test_yaml_names_its_blocks_and_dumps_them_canonically(config: ModelConfig, registry: Registry) -> None:
    said = dump(config, registry)
    assert {"demo:dynamic_tanh", "demo:gated_attention", "demo:nibble"} <= _types(said)
    assert load_config(said, registry=registry) == config


@pytest.mark.parametrize("kernel", ["per_head", "reference", "sdpa"])
def test_its_kernel_agrees_with_the_others(
    config: ModelConfig, registry: Registry, tokens: torch.Tensor, kernel: str
) -> None:
    model = build(config, registry=registry, kernels={"attention": kernel}, seed=3)
    used = {line.kernel for line in model.bindings if line.op == "attention" and line.phase == "prefill"}
    assert used == {kernel}
    reference = build(config, registry=registry, kernels={"attention": "reference"}, seed=3)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), reference(tokens), rtol=1e-4, atol=1e-5)


def test_causal_and_cached_equals_uncached(config: ModelConfig, registry: Registry, tokens: torch.Tensor) -> None:
    model = build(config, registry=registry)
    with torch.no_grad():
        full = model(tokens)
        torch.testing.assert_close(model(tokens[:, :9]), full[:, :9], rtol=1e-4, atol=1e-5)
        cache = model.new_cache(batch_size=2, max_length=32)
        steps = [model(tokens[:, :10], cache=cache)]
        steps += [model(tokens[:, i : i + 1], cache=cache) for i in range(10, tokens.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), full, rtol=1e-4, atol=1e-5)


def test_cost_is_exact(config: ModelConfig, registry: Registry) -> None:
    model = build(config, registry=registry, trainable=True)
    assert account(config).parameters["total"] == sum(parameter.numel() for parameter in model.parameters())


def test_trains_through_its_quantizer_then_saves_and_loads(
    config: ModelConfig, registry: Registry, tokens: torch.Tensor, tmp_path: Path
) -> None:
    from blockzoo.checkpoints import from_pretrained, save_pretrained

    model = build(config, registry=registry, trainable=True).train()
    losses = train(model, tokens)
    assert losses[-1] < losses[0] - 0.5
    model.eval()
    save_pretrained(model, tmp_path / "saved", layout="native", registry=registry)
    again = from_pretrained(tmp_path / "saved", dtype=torch.float32, registry=registry)
    assert any(isinstance(module, StoredLinear) for module in again.modules())
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), model(tokens), rtol=1e-4, atol=1e-4)


def test_packed_weights_go_through_a_state_dict(config: ModelConfig, registry: Registry, tokens: torch.Tensor) -> None:
    model = build(config, registry=registry, seed=5)
    state = model.state_dict()
    assert any(name.endswith("weight.codes") and tensor.dtype == torch.uint8 for name, tensor in state.items())
    again = empty(config, registry=registry)
    again.load_state_dict(state)
    again.bind()
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))


def train(model: Decoder, tokens: torch.Tensor, steps: int = 40) -> list[float]:
    """A few steps on one batch; the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _types(value: object) -> set[str]:
    """Every ``type`` in a dumped config."""
    if isinstance(value, dict):
        own = {str(value["type"])} if "type" in value else set()
        return own.union(*map(_types, value.values()))
    return set().union(*map(_types, value)) if isinstance(value, list) else set()
