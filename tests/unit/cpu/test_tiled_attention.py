"""Attention in tiles, forward and backward, against the op's reference in double, and where it steps aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from blockzoo_cpu import library, tiled_attention
from blockzoo_cpu.prefill import tiled
from blockzoo_cpu.tiled_attention import BACKWARD, FORWARD, TILED_ATTENTION, attention, supports
from blockzoo_torch.sdpa import SDPA

pytestmark = pytest.mark.skipif(library.compiler() is None, reason="no C compiler on this machine")
here = pytest.mark.skipif(library.compiler() is None or not tiled(), reason="no AMX on this machine")
CPU = Capabilities("cpu")
NEAR = 2e-2  # of the norm: roundings to bfloat16 of weights, gradients of scores and results, of terms that may cancel


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).bfloat16()


def heads(
    tokens: int, n_heads: int = 2, kv_heads: int = 2, width: int = 64, value_width: int | None = None
) -> list[Tensor]:
    """q, k, v and the gradient of y as projections give them: (B, T, H, D) seen as (B, H, T, D)."""
    wide = width if value_width is None else value_width
    sizes = ((n_heads, width), (kv_heads, width), (kv_heads, wide), (n_heads, wide))
    return [drawn(2, tokens, *size, seed=i).transpose(1, 2) for i, size in enumerate(sizes)]


def results(
    function: Callable[..., Tensor], parts: list[Tensor], sinks: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """y and the gradients of q, k, v and sinks."""
    *leaves, dy = parts
    leaves = [x.detach().requires_grad_() for x in (*leaves, *([] if sinks is None else [sinks]))]
    positions = torch.arange(dy.shape[2]).expand(dy.shape[0], -1)
    said = {"scale": leaves[0].shape[-1] ** -0.5, "sinks": None if sinks is None else leaves[3], **options}
    y = function(*leaves[:3], positions, Keys(positions, True), **said)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy.to(y.dtype))]


def exact(parts: list[Tensor], sinks: Tensor | None = None, **options: Any) -> list[Tensor]:
    doubles = [x.double() for x in parts]
    return results(attention_reference, doubles, None if sinks is None else sinks.double(), **options)


def errors(found: list[Tensor], wanted: list[Tensor]) -> list[float]:
    return [float((a.double() - b).norm() / b.norm().clamp(min=1)) for a, b in zip(found, wanted, strict=True)]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@here
@pytest.mark.parametrize("options", [{}, {"window": 7}, {"sinks": True}, {"window": 100, "sinks": True, "scale": 0.3}])
@pytest.mark.parametrize(
    ("n_heads", "kv_heads", "width", "value_width"), [(2, 2, 64, 64), (4, 2, 96, 32), (8, 1, 20, 40)]
)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 255, 256])
def test_it_equals_the_reference(
    tokens: int, n_heads: int, kv_heads: int, width: int, value_width: int, options: dict[str, Any]
) -> None:
    parts, said = heads(tokens, n_heads, kv_heads, width, value_width), dict(options)
    if "sinks" in said:
        said["sinks"] = torch.linspace(-1, 2, n_heads)
    found, wanted = results(attention, parts, **said), exact(parts, **said)
    assert max(errors(found, wanted)) < NEAR, errors(found, wanted)


@here
@pytest.mark.parametrize("tokens", [16, 256, 700])
def test_it_is_as_near_as_pytorchs_fused_attention(tokens: int) -> None:
    parts = heads(tokens)
    wanted = exact(parts)
    ours, theirs = (errors(results(f, parts), wanted) for f in (attention, SDPA.function))
    assert all(a < 1.3 * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


@here
@pytest.mark.parametrize(("kv_heads", "options"), [(2, {}), (1, {"window": 300, "sinks": torch.tensor([0.5, 2.0])})])
def test_many_blocks_of_keys_and_queries(kv_heads: int, options: dict[str, Any]) -> None:
    parts = heads(700, 2, kv_heads)
    assert max(errors(results(attention, parts, **options), exact(parts, **options))) < NEAR


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


@here
def test_the_bits_are_the_same_on_any_number_of_threads(threads: Callable[[int], None]) -> None:
    parts, options = heads(300, 4), {"window": 200, "sinks": torch.linspace(-1, 2, 4)}
    made = []
    for n in (1, 2, 3):
        threads(n)
        made.append(results(attention, parts, **options))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


@here
def test_heads_are_read_where_they_lie_and_gradients_lie_so_too() -> None:
    parts = heads(40, 4, 2)
    plain = results(attention, [x.contiguous() for x in parts])
    *leaves, dy = (x.detach() for x in parts)
    lain = results(attention, [*leaves, dy])
    whole = torch.cat([x.transpose(1, 2).flatten(2) for x in leaves], dim=-1)  # one projection, cut in three
    cut = [x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in whole.split([256, 128, 128], dim=-1)]
    features_apart = [x.mT.contiguous().mT for x in leaves]
    for other in (lain, results(attention, [*cut, dy]), results(attention, [*features_apart, dy.mT.contiguous().mT])):
        assert all(torch.equal(a, b) for a, b in zip(other, plain, strict=True))
    assert lain[0].transpose(1, 2).is_contiguous()
    assert all(a.stride() == b.stride() for a, b in zip(lain[1:], leaves, strict=True))


@here
def test_a_gradient_of_stride_zero() -> None:
    q, k, v, dy = heads(33)
    ones = torch.ones((), dtype=torch.bfloat16).expand_as(dy)
    assert all(map(torch.equal, results(attention, [q, k, v, ones]), results(attention, [q, k, v, ones.contiguous()])))


@here
def test_what_is_not_finite_stays_with_those_who_see_it() -> None:
    q, k, v, dy = heads(70)
    k[0, 1, 40, 3], v[1, 0, 66, 0], q[1, 1, 5, 7] = torch.nan, torch.inf, torch.nan
    y, dq, *_ = results(attention, [q, k, v, dy])
    assert y[0, 1, 40:].isnan().all()
    assert y[1, 1, 5].isnan().all()
    assert y[0, 0].isfinite().all()
    assert y[:, 1, :32].isfinite().sum() == y[:, 1, :32].numel() - 64
    assert not dq[1, 0, 66:].isfinite().all()
    assert dq[0, 0].isfinite().all()


@here
def test_great_scores_do_not_overflow() -> None:
    q, k, v, dy = heads(300)
    q, k = torch.full_like(q, 16), torch.full_like(k, -8)
    k[:, :, 0] = 8
    y, dq, dk, dv = results(attention, [q, k, v, dy], scale=1.0)
    assert torch.equal(y, v[:, :, :1].expand_as(v))
    assert float((dv[:, :, 0].double() - dy.double().sum(2)).norm() / dy.double().sum(2).norm()) < NEAR
    assert torch.count_nonzero(dv[:, :, 1:]) == 0
    assert all(part.isfinite().all() for part in (dq, dk))


@here
def test_nothing_at_all() -> None:
    parts = [x[:0] for x in heads(5)]
    assert [x.shape for x in results(attention, parts)] == [x.shape for x in (parts[3], *parts[:3])]


@here
def test_without_gradients_it_gives_the_same() -> None:
    q, k, v, _ = heads(50)
    positions = torch.arange(50).expand(2, -1)
    y = attention(q, k, v, positions, Keys(positions, True), scale=0.1)
    trained = attention(q.requires_grad_(), k, v, positions, Keys(positions, True), scale=0.1)
    assert torch.equal(y, trained)
    assert trained.requires_grad


@here
def test_a_second_derivative_is_an_error_that_names_the_way_out() -> None:
    q, k, v, _ = heads(5)
    positions = torch.arange(5).expand(2, -1)
    y = attention(q.requires_grad_(), k, v, positions, Keys(positions, True), scale=0.1)
    (dq,) = torch.autograd.grad(y.sum(), q, create_graph=True)
    with pytest.raises(KernelError, match="choose another"):
        dq.sum().backward()


@here
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, 1.0])])
def test_torch_compile_takes_it_whole_in_training(sinks: Tensor | None) -> None:
    torch.compiler.reset()
    parts = heads(40)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True)
    found, wanted = (results(f, parts, sinks) for f in (compiled, attention))
    assert all(map(torch.equal, found, wanted))


@here
def test_the_ops_keep_what_torch_asks_of_them() -> None:
    *parts, dy = (x.detach().requires_grad_() for x in heads(9))
    for sinks in (None, torch.tensor([0.5, 1.0], requires_grad=True)):
        torch.library.opcheck(torch.ops.blockzoo_cpu.tiled_attention, (*parts, sinks, 0, 0.1))
        plain = [x.detach() for x in parts]
        y, log_sum_exp = FORWARD(*plain, sinks, 0, 0.1)
        arguments = (*plain, None if sinks is None else sinks.detach(), y, log_sum_exp, dy.detach(), 0, 0.1)
        torch.library.opcheck(torch.ops.blockzoo_cpu.tiled_attention_backward, arguments)
        assert len(BACKWARD(*arguments)) == 4


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
    monkeypatch.setattr(tiled_attention, "SDPA", None)  # where it would go otherwise
    dtype = torch.float32 if autocast else torch.bfloat16
    found = _mixed(autocast, dtype, "cpu_tiled_attention")
    wanted = _mixed(False, torch.float32, "reference")
    assert max(errors(found, [x.double() for x in wanted])) < 3e-2


@here
@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, 1.0])])
def test_training_in_float32_keeps_its_bits(sinks: Tensor | None) -> None:
    from blockzoo_torch.grouped import GROUPED

    parts = [x.float() for x in heads(20)]
    other = SDPA if sinks is None else GROUPED
    assert all(map(torch.equal, results(attention, parts, sinks), results(other.function, parts, sinks)))


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


def test_without_amx_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_attention, "tiled", lambda: False)
    assert "AMX" in supports(CPU, Call("attention", "train", torch.bfloat16, {})).reason
    with pytest.raises(KernelError, match="AMX"):
        FORWARD(*heads(3)[:3], None, 0, 1.0)


@here
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_serves_training_here(dtype: torch.dtype) -> None:
    assert supports(CPU, Call("attention", "train", dtype, {"window": 5, "sinks": True, "dropout": 0.0})).ok
