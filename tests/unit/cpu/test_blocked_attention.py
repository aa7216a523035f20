"""Attention in float32: in a mixer, and where it steps aside."""

from __future__ import annotations

import pytest
import torch

from blockzoo.blocks import Dims
from blockzoo.errors import KernelError
from blockzoo.kernels import Call, Capabilities, bind
from blockzoo.step import Keys, Step
from blockzoo_blocks.mixers.gqa import GQAConfig
from blockzoo_blocks.positions.none import NoPositionConfig
from blockzoo_cpu import library
from blockzoo_cpu.blocked_attention import BLOCKED, BLOCKED_ATTENTION, blocked_attention, supports
from blockzoo_cpu.compiling import compiler
from blockzoo_torch.sdpa import SDPA
from tests.unit.cpu.attending import errors, heads

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
here = pytest.mark.skipif(not compiler() or not library.wide(), reason="no AVX-512 on this machine")
CPU = Capabilities("cpu")


@here
def test_a_mixer_trains_with_it() -> None:
    torch.manual_seed(0)
    config = GQAConfig(n_heads=4, n_kv_heads=2, sinks=True, window=20, bias=True)
    mixer = config.build(Dims(d_model=64, n_layers=1, context_length=80), NoPositionConfig())
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, line = torch.randn(2, 70, 64), torch.arange(70).expand(2, -1)
    made = []
    for kernels, chosen in (({"attention": [BLOCKED_ATTENTION]}, "cpu_blocked_attention"), ({}, "reference")):
        lines = bind(mixer, kernels, device=torch.device("cpu"))
        assert [line.kernel for line in lines if line.op == "attention" and line.phase == "train"] == [chosen]
        y = mixer(x, Step(line, line, "train", consecutive=True, start=0))
        made.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(mixer.parameters()))])
    assert max(errors(made[0], [x.double() for x in made[1]])) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "tokens", "consecutive"),
    [(torch.bfloat16, 70, True), (torch.float64, 70, True), (torch.float32, 70, False), (torch.float32, 63, True)],
)
def test_other_numbers_padding_and_short_sequences_go_to_pytorch(
    dtype: torch.dtype, tokens: int, consecutive: bool
) -> None:
    q, k, v, _ = heads(tokens, dtype=dtype)
    positions = torch.arange(tokens).expand(2, -1)
    keys = Keys(positions, consecutive)
    found, wanted = (f(q, k, v, positions, keys, scale=0.1) for f in (blocked_attention, SDPA.function))
    assert torch.equal(found, wanted)


@here
def test_from_64_tokens_on_it_is_this_code() -> None:
    q, k, v, _ = heads(64, dtype=torch.float32)
    positions = torch.arange(64).expand(2, -1)
    found = blocked_attention(q, k, v, positions, Keys(positions, True), scale=0.1)
    assert torch.equal(found, BLOCKED(q, k, v, scale=0.1, window=None, sinks=None))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("attention", "decode", torch.float32, {}), "serves training"),
        (Call("attention", "prefill", torch.float32, {}), "serves training"),
        (Call("attention", "train", torch.bfloat16, {}), "not bfloat16"),
        (Call("attention", "train", torch.float32, {"softcap": 3.0}), "no softcap"),
        (Call("attention", "train", torch.float32, {"bias": True}), "no bias"),
        (Call("attention", "train", torch.float32, {"dropout": 0.1}), "drops no"),
    ],
)
def test_a_refusal_says_why(call: Call, reason: str) -> None:
    verdict = supports(CPU, call)
    assert not verdict.ok
    assert reason in verdict.reason
    assert "CPU" in supports(Capabilities("cuda", (9, 0)), call).reason


def test_without_avx512_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockzoo_cpu.blocked_attention.wide", lambda: False)
    assert "AVX-512" in supports(CPU, Call("attention", "train", torch.float32, {})).reason
    with pytest.raises(KernelError, match="AVX-512"):
        BLOCKED.forward(*heads(3, dtype=torch.float32)[:3], None, 0, 1.0)


@here
def test_it_serves_training_here() -> None:
    assert supports(CPU, Call("attention", "train", torch.float32, {"window": 5, "sinks": True, "dropout": 0.0})).ok
