"""Attention of many queries in C, forward and backward, of each dtype, against the op's reference in double."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.errors import KernelError
from blockzoo.step import Keys
from blockzoo_cpu import library
from blockzoo_cpu.blocked_attention import BLOCKED
from blockzoo_cpu.causal_attention import CausalAttention
from blockzoo_cpu.compiling import compiler
from blockzoo_cpu.library import Tiles, tiles
from blockzoo_cpu.tiled_attention import TILED
from blockzoo_cpu.tiled_attention import attention as tiled_attention
from blockzoo_torch.sdpa import SDPA
from tests.unit.cpu.attending import errors, exact, heads, results
from tests.unit.cpu.tiling import at_most

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")


@dataclass(frozen=True)
class Served:
    attention: Callable[..., Tensor]
    op: CausalAttention
    dtype: torch.dtype
    near: float
    """Of the norm. bfloat16 rounds weights, gradients of scores and results: of terms that may cancel."""

    @property
    def heads(self) -> Callable[..., list[Tensor]]:
        return partial(heads, dtype=self.dtype)


def blocked(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
    """Whatever the number of tokens."""
    return BLOCKED(q, k, v, **{"window": None, "sinks": None, **options})


@pytest.fixture(params=["amx", "vectors", "blocked"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    if request.param == "blocked":
        if not library.wide():
            pytest.skip("no AVX-512 on this machine")
        yield Served(blocked, BLOCKED, torch.float32, 1e-5)
        return
    kind = Tiles[request.param.upper()]
    if tiles() < kind:
        pytest.skip(f"no {kind.name} on this machine")
    with at_most(kind):
        yield Served(tiled_attention, TILED, torch.bfloat16, 2e-2)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", [{}, {"window": 7}, {"sinks": True}, {"window": 100, "sinks": True, "scale": 0.3}])
@pytest.mark.parametrize(
    ("n_heads", "kv_heads", "width", "value_width"), [(2, 2, 64, 64), (4, 2, 96, 32), (8, 1, 20, 40)]
)
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 255, 256])
def test_it_equals_the_reference(
    served: Served, tokens: int, n_heads: int, kv_heads: int, width: int, value_width: int, options: dict[str, Any]
) -> None:
    parts, said = served.heads(tokens, n_heads, kv_heads, width, value_width), dict(options)
    if "sinks" in said:
        said["sinks"] = torch.linspace(-1, 2, n_heads)
    found, wanted = results(served.attention, parts, **said), exact(parts, **said)
    assert max(errors(found, wanted)) < served.near, errors(found, wanted)


@pytest.mark.parametrize("tokens", [16, 256, 700])
def test_it_is_as_near_as_pytorchs_fused_attention(served: Served, tokens: int) -> None:
    parts = served.heads(tokens)
    wanted = exact(parts)
    ours, theirs = (errors(results(f, parts), wanted) for f in (served.attention, SDPA.function))
    assert all(a < 1.3 * b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


@pytest.mark.parametrize(("kv_heads", "options"), [(2, {}), (1, {"window": 300, "sinks": torch.tensor([0.5, 2.0])})])
def test_many_blocks_of_keys_and_queries(served: Served, kv_heads: int, options: dict[str, Any]) -> None:
    parts = served.heads(700, 2, kv_heads)
    assert max(errors(results(served.attention, parts, **options), exact(parts, **options))) < served.near


def test_the_bits_are_the_same_on_any_number_of_threads(served: Served, threads: Callable[[int], None]) -> None:
    parts, options = served.heads(300, 4), {"window": 200, "sinks": torch.linspace(-1, 2, 4)}
    made = []
    for n in (1, 2, 3):
        threads(n)
        made.append(results(served.attention, parts, **options))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_heads_are_read_where_they_lie_and_gradients_lie_so_too(served: Served) -> None:
    parts = served.heads(40, 4, 2)
    plain = results(served.attention, [x.contiguous() for x in parts])
    *leaves, dy = (x.detach() for x in parts)
    lain = results(served.attention, [*leaves, dy])
    whole = torch.cat([x.transpose(1, 2).flatten(2) for x in leaves], dim=-1)  # one projection, cut in three
    cut = [x.unflatten(-1, (-1, 64)).transpose(1, 2) for x in whole.split([256, 128, 128], dim=-1)]
    features_apart = [x.mT.contiguous().mT for x in leaves]
    for other in (
        lain,
        results(served.attention, [*cut, dy]),
        results(served.attention, [*features_apart, dy.mT.contiguous().mT]),
    ):
        assert all(torch.equal(a, b) for a, b in zip(other, plain, strict=True))
    assert lain[0].transpose(1, 2).is_contiguous()
    assert all(a.stride() == b.stride() for a, b in zip(lain[1:], leaves, strict=True))


def test_a_gradient_of_stride_zero(served: Served) -> None:
    q, k, v, dy = served.heads(33)
    ones = torch.ones((), dtype=served.dtype).expand_as(dy)
    assert all(
        map(
            torch.equal,
            results(served.attention, [q, k, v, ones]),
            results(served.attention, [q, k, v, ones.contiguous()]),
        )
    )


def test_what_is_not_finite_stays_with_those_who_see_it(served: Served) -> None:
    q, k, v, dy = served.heads(70)
    k[0, 1, 40, 3], v[1, 0, 66, 0], q[1, 1, 5, 7] = torch.nan, torch.inf, torch.nan
    y, dq, *_ = results(served.attention, [q, k, v, dy])
    assert y[0, 1, 40:].isnan().all()
    assert y[1, 1, 5].isnan().all()
    assert y[0, 0].isfinite().all()
    assert y[:, 1, :32].isfinite().sum() == y[:, 1, :32].numel() - 64
    assert not dq[1, 0, 66:].isfinite().all()
    assert dq[0, 0].isfinite().all()


def test_great_scores_do_not_overflow(served: Served) -> None:
    q, k, v, dy = served.heads(300)
    q, k = torch.full_like(q, 16), torch.full_like(k, -8)
    k[:, :, 0] = 8
    y, dq, dk, dv = results(served.attention, [q, k, v, dy], scale=1.0)
    assert torch.equal(y, v[:, :, :1].expand_as(v))
    assert float((dv[:, :, 0].double() - dy.double().sum(2)).norm() / dy.double().sum(2).norm()) < served.near
    assert torch.count_nonzero(dv[:, :, 1:]) == 0
    assert all(part.isfinite().all() for part in (dq, dk))


def test_nothing_at_all(served: Served) -> None:
    parts = [x[:0] for x in served.heads(5)]
    assert [x.shape for x in results(served.attention, parts)] == [x.shape for x in (parts[3], *parts[:3])]


def test_without_gradients_it_gives_the_same(served: Served) -> None:
    q, k, v, _ = served.heads(50)
    positions = torch.arange(50).expand(2, -1)
    y = served.attention(q, k, v, positions, Keys(positions, True), scale=0.1)
    trained = served.attention(q.requires_grad_(), k, v, positions, Keys(positions, True), scale=0.1)
    assert torch.equal(y, trained)
    assert trained.requires_grad


def test_a_second_derivative_is_an_error_that_names_the_way_out(served: Served) -> None:
    q, k, v, _ = served.heads(5)
    positions = torch.arange(5).expand(2, -1)
    y = served.attention(q.requires_grad_(), k, v, positions, Keys(positions, True), scale=0.1)
    (dq,) = torch.autograd.grad(y.sum(), q, create_graph=True)
    with pytest.raises(KernelError, match="choose another"):
        dq.sum().backward()


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, 1.0])])
def test_torch_compile_takes_it_whole_in_training(served: Served, sinks: Tensor | None) -> None:
    torch.compiler.reset()
    parts = served.heads(40)
    compiled = torch.compile(served.attention, backend="aot_eager", fullgraph=True)
    found, wanted = (results(f, parts, sinks) for f in (compiled, served.attention))
    assert all(map(torch.equal, found, wanted))


def test_the_ops_keep_what_torch_asks_of_them(served: Served) -> None:
    *parts, dy = (x.detach().requires_grad_() for x in served.heads(9))
    for sinks in (None, torch.tensor([0.5, 1.0], requires_grad=True)):
        torch.library.opcheck(getattr(torch.ops.blockzoo_cpu, served.op.forward.name), (*parts, sinks, 0, 0.1))
        plain = [x.detach() for x in parts]
        y, log_sum_exp = served.op.forward(*plain, sinks, 0, 0.1)
        arguments = (*plain, None if sinks is None else sinks.detach(), y, log_sum_exp, dy.detach(), 0, 0.1)
        torch.library.opcheck(getattr(torch.ops.blockzoo_cpu, served.op.backward.name), arguments)
        assert len(served.op.backward(*arguments)) == 4
