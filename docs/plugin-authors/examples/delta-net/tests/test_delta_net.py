"""Both forms of the rule and the whole block against transformers' Qwen3-Next, in float32; padding; a hybrid."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from blockzoo_delta_net.mixer import GatedDeltaNet, GatedDeltaNetConfig
from blockzoo_delta_net.rule import chunked, recurrent
from torch import Tensor, nn

import blockzoo
from blockzoo.blocks import Dims
from blockzoo.errors import InputError
from blockzoo.step import Step
from blockzoo.testing import conformance
from blockzoo_blocks.norms.rms_norm import RMSNormConfig
from blockzoo_blocks.positions.none import NoPositionConfig

qwen3_next = pytest.importorskip(
    "transformers.models.qwen3_next.modeling_qwen3_next", reason="the independent implementation (the test extra)"
)

test_conformance = conformance("delta_net")

T = 50
DIMS = Dims(d_model=32, n_layers=2, context_length=256)
NORM = RMSNormConfig(eps=1e-6, scale_in_fp32=False)
RECIPE = GatedDeltaNetConfig(n_heads=4, n_key_heads=2, key_dim=8, value_dim=12, norm=NORM, chunk=16)


def step(positions: Tensor) -> Step:
    return Step(positions, positions, "prefill", consecutive=bool((positions >= 0).all()))


def line(batch: int, start: int, end: int) -> Step:
    return step(torch.arange(start, end).expand(batch, end - start))


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """q, k, v, log_decay, beta, memory, as the rule takes them."""
    torch.manual_seed(0)
    q, k = (nn.functional.normalize(torch.randn(2, 4, T, 8), dim=-1) for _ in range(2))
    gates = {"log_decay": -torch.rand(2, 4, T) * 2, "beta": torch.rand(2, 4, T)}
    return {"q": q, "k": k, "v": torch.randn(2, 4, T, 12), **gates, "memory": torch.randn(2, 4, 8, 12)}


@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_both_forms_of_the_rule(inputs: dict[str, Tensor], name: str, chunk: int) -> None:
    early = {key: value.transpose(1, 2) for key, value in inputs.items() if key != "memory"}
    expected, memory = getattr(qwen3_next, name)(
        early["q"] * 8**0.5,  # theirs scales queries itself
        early["k"],
        early["v"],
        g=early["log_decay"],
        beta=early["beta"],
        initial_state=inputs["memory"],
        output_final_state=True,
    )
    for y, after in (recurrent(**inputs), chunked(**inputs, chunk=chunk)):
        assert error(y.transpose(1, 2), expected) < 1e-5
        assert error(after, memory) < 1e-5


def reference() -> nn.Module:
    settings = qwen3_next.Qwen3NextConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, linear_num_value_heads=4,
        linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=12, linear_conv_kernel_dim=4,
    )  # fmt: skip
    torch.manual_seed(0)
    return qwen3_next.Qwen3NextGatedDeltaNet(settings, layer_idx=0).eval()


def converted(theirs: nn.Module) -> dict[str, Tensor]:
    """Their fused projections, which lie by key head, taken apart."""
    weights = theirs.state_dict()
    q, k, v, gate = weights["in_proj_qkvz.weight"].unflatten(0, (2, -1)).split([8, 8, 24, 24], dim=1)
    beta, decay = weights["in_proj_ba.weight"].unflatten(0, (2, -1)).split([2, 2], dim=1)
    parts = {"q": q, "k": k, "v": v, "gate": gate, "beta": beta, "decay": decay}
    return {f"{name}.weight": part.flatten(0, 1) for name, part in parts.items()} | {
        "conv.weight": weights["conv1d.weight"],
        "log_rate": weights["A_log"],
        "step_bias": weights["dt_bias"],
        "norm.weight": weights["norm.weight"],
        "o.weight": weights["out_proj.weight"],
    }


@pytest.fixture
def mixer() -> GatedDeltaNet:
    model = RECIPE.build(DIMS, NoPositionConfig())
    model.load_state_dict(converted(reference()))
    return model.eval()


@torch.no_grad()
def test_it_is_qwen3_nexts(mixer: GatedDeltaNet) -> None:
    x = torch.randn(2, T, 32)
    assert error(mixer(x, line(2, 0, T)), reference()(x)) < 1e-5


@torch.no_grad()
def test_any_split(mixer: GatedDeltaNet) -> None:
    x = torch.randn(2, T, 32)
    state = mixer.new_state(2, T, x.device, x.dtype)
    cuts = [0, 1, 2, 20, 37, *range(38, T + 1)]
    parts = [mixer(x[:, a:b], line(2, a, b), state) for a, b in pairwise(cuts)]
    assert error(torch.cat(parts, dim=1), mixer(x, line(2, 0, T))) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("where", [[-1, -1, 0, 1, 2], [0, 1, 2, -1, -1], [-1, 0, -1, 1, 2], [-1] * 5])
def test_padding_leaves_the_state_alone(mixer: GatedDeltaNet, where: list[int]) -> None:
    positions = torch.tensor([where])
    real = positions[0] >= 0
    x, rest = torch.randn(1, 5, 32), torch.randn(1, 3, 32)
    state = mixer.new_state(1, 8, x.device, x.dtype)
    padded = torch.cat([mixer(x, step(positions), state)[:, real], mixer(rest, line(1, 3, 6), state)], dim=1)
    together = torch.cat([x[:, real], rest], dim=1)
    assert error(padded, mixer(together, line(1, 0, together.shape[1]))) < 1e-5


def test_a_hybrid_keeps_a_state_of_fixed_size_and_cannot_roll_back() -> None:
    model = blockzoo.build(blockzoo.load_config("delta-hybrid-tiny"))
    cache = model.new_cache(max_length=64)
    recurrent_bytes = 4 * (3 * (2 * 2 * 16 + 4 * 16) + 4 * 16 * 16)
    assert cache.nbytes() == 3 * recurrent_bytes + 4 * 2 * (2 * 64 * 16)
    with torch.no_grad():
        model(torch.zeros(1, 10, dtype=torch.int64), cache=cache)
    with pytest.raises(InputError, match="DeltaState"):
        cache.rollback(5)
