"""Attention in tiles: what it alone serves (prompts after earlier tokens, autocast), and where it steps aside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.blocks import Dims
from blockzoo.errors import KernelError
from blockzoo.kernels import Call, Capabilities, bind
from blockzoo.step import Keys, Step
from blockzoo_blocks.mixers.attention import attention_reference
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.positions.none import NoPositionConfig
from blockzoo_cpu import tiled_attention
from blockzoo_cpu.blocked_attention import blocked_attention
from blockzoo_cpu.compiling import compiler
from blockzoo_cpu.library import Tiles, tiles
from blockzoo_cpu.tiled_attention import TILED, TILED_ATTENTION, attention, supports
from tests.unit.cpu.attending import drawn, errors, heads, results
from tests.unit.cpu.tiling import at_most

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
here = pytest.mark.skipif(not compiler() or not tiles(), reason="no tiles on this machine")
CPU = Capabilities("cpu")
NEAR = 2e-2  # of the norm: roundings to bfloat16 of weights, gradients of scores and results, of terms that may cancel


@here
@pytest.mark.parametrize("options", [{}, {"window": 20}, {"window": 90, "sinks": torch.linspace(-1, 2, 4).bfloat16()}])
@pytest.mark.parametrize(
    ("earlier", "tokens"), [(0, 2), (1, 33), (31, 17), (32, 64), (75, 1), (300, 100), (513, 40), (5, 300)]
)
def test_prompts_after_earlier_tokens(earlier: int, tokens: int, options: dict[str, Any]) -> None:
    n_keys = earlier + tokens
    q, k, v = drawn(2, 4, tokens, 64), drawn(2, 2, 700, 64)[:, :, :n_keys], drawn(2, 2, 700, 32)[:, :, :n_keys]
    positions, keys = torch.arange(earlier, n_keys).expand(2, -1), torch.arange(n_keys).expand(2, -1)
    said = {"scale": 0.2, "window": None, "sinks": None, **options}
    with torch.no_grad():
        found = attention(q, k, v, positions, Keys(keys, True), **said)
    doubles = [None if x is None else x.double() for x in (q, k, v, said["sinks"])]
    wanted = attention_reference(*doubles[:3], positions, Keys(keys, True), **{**said, "sinks": doubles[3]})
    assert max(errors([found], [wanted])) < 6e-3


def _mixed(autocast: bool, dtype: torch.dtype, chosen: str) -> list[Tensor]:
    torch.manual_seed(0)
    config = GQAConfig(n_heads=4, n_kv_heads=2, sinks=True, window=20, bias=True)
    mixer = config.build(Dims(d_model=64, n_layers=1, context_length=64), NoPositionConfig())
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mixer.to(dtype)
    x = torch.randn(2, 50, 64)
    kernels = {"attention": [TILED_ATTENTION]} if chosen != "reference" else {}
    lines = bind(mixer, kernels, device=torch.device("cpu"))
    assert [line.kernel for line in lines if line.op == "attention" and line.phase == "train"] == [chosen]
    line = torch.arange(50).expand(2, -1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        y = mixer(x.to(dtype), Step(line, line, "train", consecutive=True, start=0))
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), list(mixer.parameters()))]


@here
@pytest.mark.parametrize("autocast", [True, False])
def test_a_mixer_runs_it_in_autocast_and_in_bfloat16(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_attention, "blocked_attention", None)  # where it would go otherwise
    dtype = torch.float32 if autocast else torch.bfloat16
    found = _mixed(autocast, dtype, "cpu_tiled_attention")
    wanted = _mixed(False, torch.float32, "reference")
    assert max(errors(found, [x.double() for x in wanted])) < 3e-2


@here
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, 1.0])])
def test_float32_goes_to_the_kernel_of_float32(sinks: Tensor | None) -> None:
    parts = heads(70, dtype=torch.float32)
    assert all(map(torch.equal, results(attention, parts, sinks), results(blocked_attention, parts, sinks)))


@here
@pytest.mark.parametrize("consecutive", [True, False])
def test_padding_and_keys_from_before_go_to_pytorch(consecutive: bool) -> None:
    q, k, v, _ = heads(20)
    positions = torch.arange(20).expand(2, -1).clone()
    if consecutive:
        q, where = q[:, :, 12:], positions[:, 12:]
    else:
        positions[0, :10], where = -1, positions
    keys = Keys(positions, consecutive)
    found = attention(q, k, v, where, keys, scale=0.1)
    wanted = attention_reference(q.double(), k.double(), v.double(), where, keys, scale=0.1)
    assert errors([found], [wanted])[0] < NEAR


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("attention", "decode", torch.bfloat16, {}), "many queries"),
        (Call("attention", "prefill", torch.float32, {}), "not float32"),
        (Call("attention", "train", torch.float16, {}), "not float16"),
        (Call("attention", "train", torch.bfloat16, {"softcap": 3.0}), "no softcap"),
        (Call("attention", "train", torch.bfloat16, {"bias": True}), "no bias"),
        (Call("attention", "train", torch.bfloat16, {"dropout": 0.1}), "drops no"),
    ],
)
def test_a_refusal_says_why(call: Call, reason: str) -> None:
    verdict = supports(CPU, call)
    assert not verdict.ok
    assert reason in verdict.reason
    assert "CPU" in supports(Capabilities("cuda", (9, 0)), call).reason


def test_without_tiles_it_says_no() -> None:
    with at_most(Tiles.NONE):
        assert "AMX" in supports(CPU, Call("attention", "train", torch.bfloat16, {})).reason
        with pytest.raises(KernelError, match="AMX"):
            TILED.forward(*heads(3)[:3], None, 0, 1.0)


@here
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_serves_training_here(dtype: torch.dtype) -> None:
    assert supports(CPU, Call("attention", "train", dtype, {"window": 5, "sinks": True, "dropout": 0.0})).ok
