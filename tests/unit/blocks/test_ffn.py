"""Feed-forward blocks and routing against their formulas, written out plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.blocks import Dims
from blockzoo.plugins import host
from blockzoo_blocks.ffn.activations import ACTIVATIONS
from blockzoo_blocks.ffn.glu import GLU, GLUConfig
from blockzoo_blocks.ffn.mlp import MLPConfig
from blockzoo_blocks.ffn.moe import MoE, MoEConfig, RouterConfig

DIMS = Dims(d_model=8, n_layers=1, context_length=16)


def filled(module: torch.nn.Module, std: float = 1.0) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return module


def test_gpt_oss_gate_is_clamped_on_one_side_and_up_on_both() -> None:
    gate_in = torch.tensor([-50.0, -7.5, 0.5, 7.5, 50.0])
    up_in = torch.tensor([-50.0, 3.0, 50.0, -7.5, 7.5])
    glu = GLU(
        gate=torch.nn.Identity(), up=torch.nn.Identity(), down=torch.nn.Identity(),
        activation_scale=1.702, limit=7.0, up_shift=1.0,
    )  # fmt: skip
    glu.up = torch.nn.Module()
    glu.up.forward = lambda x: up_in  # type: ignore[method-assign]
    found, aux = glu(gate_in)
    gate = gate_in.clamp(max=7.0)
    expected = gate * torch.sigmoid(1.702 * gate) * (up_in.clamp(-7.0, 7.0) + 1)
    assert torch.allclose(found, expected)
    assert float(gate[0]) == -50.0
    assert aux == {}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_glu_and_mlp_by_formula(activation: Any) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    function = ACTIVATIONS[activation]
    glu = filled(GLUConfig(d_ff=12, activation=activation, bias=True).build(DIMS))
    assert torch.allclose(glu(x)[0], glu.down(function(glu.gate(x)) * glu.up(x)))
    mlp = filled(MLPConfig(d_ff=12, activation=activation).build(DIMS))
    assert torch.allclose(mlp(x)[0], function(x @ mlp.up.weight.T) @ mlp.down.weight.T)


def dense(moe: MoE, x: Tensor, weigh: Any) -> Tensor:
    """All experts on all tokens, then the weighted sum: (N, D)."""
    logits = x @ moe.router.weight.T + (0 if moe.router.bias is None else moe.router.bias)
    outputs = []
    for expert in range(logits.shape[-1]):
        gate, up, down = (getattr(moe.experts, name) for name in ("gate", "up", "down"))
        hidden = torch.nn.functional.silu(x @ gate.weight[expert].T) * (x @ up.weight[expert].T)
        outputs.append(hidden @ down.weight[expert].T)
    return (torch.stack(outputs, dim=1) * weigh(logits)[..., None]).sum(1)


def top(scores: Tensor, k: int) -> Tensor:
    """scores where they are among the k greatest, else 0."""
    return scores * (scores >= scores.topk(k, dim=-1).values[..., -1:])


WEIGHERS = {
    "chosen": lambda z: torch.where(z >= z.topk(2, dim=-1).values[..., -1:], z, float("-inf")).softmax(-1),
    "all": lambda z: top(z.softmax(-1), 2),
    "all_renormalized": lambda z: top(z.softmax(-1), 2) / top(z.softmax(-1), 2).sum(-1, keepdim=True),
}


@pytest.mark.parametrize("weights", list(WEIGHERS))
@pytest.mark.parametrize("bias", [False, True])
def test_routing_equals_all_experts_weighed(weights: Any, bias: bool) -> None:
    router = RouterConfig(weights=weights, bias=bias)
    config = MoEConfig(n_experts=5, top_k=2, expert=GLUConfig(d_ff=12), router=router)
    moe = filled(config.build(DIMS))
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(1))
    found, aux = moe(x)
    expected = dense(moe, x.flatten(0, 1), WEIGHERS[weights]).view_as(x)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert float(aux["expert_load"].sum()) == pytest.approx(1.0)


def test_sigmoid_router_chooses_by_bias_and_weighs_without_it() -> None:
    router = RouterConfig(score="sigmoid", selection_bias=True, scale=2.5)
    config = MoEConfig(n_experts=4, top_k=2, expert=GLUConfig(d_ff=12), router=router)
    moe = filled(config.build(DIMS))
    moe.router.selection_bias.copy_(torch.tensor([9.0, 0.0, 0.0, 9.0]))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    chosen, weights, _ = moe.router(x)
    assert set(chosen.flatten().tolist()) == {0, 3}
    scores = (x @ moe.router.weight.T).sigmoid().gather(1, chosen)
    assert torch.allclose(weights, 2.5 * scores / scores.sum(-1, keepdim=True))


@pytest.mark.parametrize("biased", [True, False])
@torch.no_grad()
def test_groups_limit_the_choice_as_in_deepseek_v3(biased: bool) -> None:
    router = RouterConfig(score="sigmoid", selection_bias=biased, groups=4, top_groups=2, scale=2.5)
    moe = filled(MoEConfig(n_experts=16, top_k=4, expert=GLUConfig(d_ff=12), router=router).build(DIMS))
    if biased:
        moe.router.selection_bias.copy_(torch.linspace(-1, 1, 16))
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    chosen, weights, logits = moe.router(x)
    scores = logits.sigmoid()
    ranked = scores + torch.linspace(-1, 1, 16) if biased else scores
    for row in range(50):
        worth = [float(group.topk(2 if biased else 1).values.sum()) for group in ranked[row].split(4)]
        allowed = sorted(range(4), key=lambda group: -worth[group])[:2]
        experts = [e for e in range(16) if e // 4 in allowed]
        expected = sorted(experts, key=lambda e: -float(ranked[row, e]))[:4]
        assert chosen[row].tolist() == expected
    picked = scores.gather(1, chosen)
    assert torch.allclose(weights, 2.5 * picked / picked.sum(-1, keepdim=True))


def test_balance_loss_is_one_when_even_and_greater_when_not() -> None:
    moe = MoEConfig(n_experts=4, top_k=1, expert=GLUConfig(d_ff=12), balance_loss=1.0).build(DIMS)
    even = moe.aux(torch.tensor([2, 2, 2, 2]), torch.zeros(8, 4))
    assert float(even["balance_loss"]) == pytest.approx(1.0)
    skewed = moe.aux(torch.tensor([8, 0, 0, 0]), torch.tensor([[0.7, 0.1, 0.1, 0.1]]).log().expand(8, 4))
    assert float(skewed["balance_loss"]) == pytest.approx(2.8)


def test_shared_expert_sees_every_token() -> None:
    config = MoEConfig(n_experts=4, top_k=1, expert=GLUConfig(d_ff=12), shared=MLPConfig(d_ff=6))
    moe = filled(config.build(DIMS))
    x = torch.randn(6, 8)
    shared = moe.shared
    with_shared = moe(x)[0]
    moe.shared = None
    assert torch.allclose(with_shared, moe(x)[0] + shared(x)[0], atol=1e-5)


def test_a_shared_expert_is_weighed_by_the_sigmoid_of_one_more_logit() -> None:
    config = MoEConfig(n_experts=4, top_k=1, expert=GLUConfig(d_ff=12), shared=MLPConfig(d_ff=6), shared_gate=True)
    moe = filled(config.build(DIMS))
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    shared, gate = moe.shared, moe.shared_gate.weight
    assert gate.shape == config.cost(DIMS).parameters["shared_gate.weight"].shape == (1, 8)
    weighed = moe(x)[0]
    moe.shared = None
    assert torch.allclose(weighed, moe(x)[0] + (x @ gate.T).sigmoid() * shared(x)[0], atol=1e-5)
    weighed.sum().backward()
    assert bool(gate.grad.abs().sum() > 0)


def test_whether_an_expert_can_be_stacked_may_depend_on_its_options() -> None:
    class Options(GLUConfig):
        @property
        def stackable(self) -> bool:  # type: ignore[override]
            return not self.bias

    assert not list(MoEConfig(n_experts=2, top_k=1, expert=Options(d_ff=12)).check(DIMS))
    ((field, message),) = MoEConfig(n_experts=2, top_k=1, expert=Options(d_ff=12, bias=True)).check(DIMS)
    assert field == "expert"
    assert message.endswith("declares stackable = False: it can't be an expert")


def test_wrong_between_fields() -> None:
    host()  # messages say blocks' names, which they get as they are registered

    def problems(config: Any) -> dict[str, str]:
        return dict(config.check(DIMS))

    expert = GLUConfig(d_ff=12)
    assert "top_k 5 is more than n_experts 4" in problems(MoEConfig(n_experts=4, top_k=5, expert=expert))["top_k"]
    nested = MoEConfig(n_experts=2, top_k=1, expert=expert)
    assert "blocks:moe declares stackable = False" in problems(MoEConfig(n_experts=2, top_k=1, expert=nested))["expert"]
    uneven = MoEConfig(n_experts=6, top_k=2, expert=expert, router=RouterConfig(groups=4))
    assert "6 experts are not 4 equal groups" in problems(uneven)["router.groups"]
    few = MoEConfig(n_experts=8, top_k=4, expert=expert, router=RouterConfig(groups=4, top_groups=1))
    assert "can't give top_k 4" in problems(few)["router.top_groups"]
    ungated = MoEConfig(n_experts=2, top_k=1, expert=expert, shared_gate=True)
    assert problems(ungated) == {
        "shared_gate": "there is no shared ffn for it to weigh: give shared, or leave shared_gate out"
    }
    assert "only silu" in problems(GLUConfig(d_ff=4, activation="relu", activation_scale=2.0))["activation_scale"]
