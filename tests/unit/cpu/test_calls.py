"""Calls of C kernels: alone and many at once they give the same bits, on any number of threads; adding and copying."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.recording import Noted
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config
from blockzoo_cpu import library, linear, mixing
from blockzoo_cpu.activations import GELU_TANH, GELU_TANH_BACKWARD
from blockzoo_cpu.attention import ATTEND
from blockzoo_cpu.blocked_attention import BLOCKED
from blockzoo_cpu.calls import OPERATIONS, Operation
from blockzoo_cpu.causal_attention import CausalAttention
from blockzoo_cpu.compiling import FOLDER, compiler
from blockzoo_cpu.linear import ROWS
from blockzoo_cpu.player import PLAYER, told
from blockzoo_cpu.pointwise import GATE_SPAN, LAYER_ROWS, NORM_ROWS, TURN_HEADS
from blockzoo_cpu.products import stored
from blockzoo_cpu.routing import CHOOSE, WEIGH
from blockzoo_cpu.tiled_attention import TILED

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
F32, BF16 = torch.float32, torch.bfloat16
DTYPES = [F32, BF16]
STRUCTS = {
    "rows": ("rows.c", "Rows"),
    "attend": ("attention.c", "Attention"),
    "rms_norm": ("pointwise.c", "Norm"),
    "layer_norm": ("pointwise.c", "Layer"),
    "rotary": ("pointwise.c", "Rotary"),
    "gate": ("pointwise.c", "Gated"),
    "gelu_tanh": ("activations.c", "Gelu"),
    "gelu_tanh_backward": ("activations.c", "Gelu"),
    "choose_experts": ("routing.c", "Choice"),
    "weigh_experts": ("routing.c", "Weighing"),
    "mix_experts": ("mixing.c", "Mix"),
    "add": ("steps.c", "Sum"),
    "copy": ("steps.c", "Copy"),
    "tiled_attention": ("causal_attention.h", "CausalAttention"),
    "tiled_attention_backward": ("causal_attention.h", "CausalAttentionBackward"),
    "blocked_attention": ("causal_attention.h", "CausalAttention"),
    "blocked_attention_backward": ("causal_attention.h", "CausalAttentionBackward"),
}


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def drawn(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def same_bits(found: Tensor, wanted: Tensor) -> bool:
    return torch.equal(found.contiguous().view(torch.uint8), wanted.contiguous().view(torch.uint8))


def results(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def noted(function: Any, args: Sequence[Any], out: Any, later: Sequence[Any] | None = None, **kwargs: Any) -> Noted:
    return Noted(
        function.__name__, function, tuple(args), kwargs, results(out), tuple(args if later is None else later)
    )


def of_rows(dtype: torch.dtype, quantizer: QuantizerConfig | None) -> list[tuple[Any, ...]]:
    """A product that is one thread's, one that is shared, experts out of order and repeated, and one row for all."""
    made = []
    for d_out in (5, 70):
        weight, x, bias = drawn(4, d_out, 192), drawn(3, 192, dtype=dtype), drawn(4, d_out, dtype=dtype)
        packed = {"weight": weight.to(dtype)} if quantizer is None else quantizer.pack(weight)
        kind, weights, scales = stored(packed, quantizer)
        chosen = torch.tensor([3, 0, 3])
        made.append((x, weights[1], None if scales is None else scales[1], bias[1], None, kind))
        made.append((x, weights, scales, bias, chosen, kind))
        made.append((x[:1].expand(3, -1), weights, scales, None, chosen, kind))
    return made


def of_heads(dtype: torch.dtype) -> list[tuple[Any, ...]]:
    """By index, by position, and one pair of a row and a key head with keys for several threads."""
    positions = torch.arange(300).expand(2, -1)
    made: list[tuple[Any, ...]] = []
    for batch, kv_heads, keys in ((2, 2, 9), (2, 2, 300), (1, 1, 2100)):
        q, sinks = drawn(batch, 4, 1, 16, dtype=dtype), drawn(4, dtype=dtype)
        k, v = drawn(batch, kv_heads, keys, 16, dtype=dtype), drawn(batch, kv_heads, keys, 24, dtype=dtype)
        made.append((q, k, v, None, None, sinks, 7, 0.25, 0.0))
        if keys == 300:
            made.append((q, k, v, torch.tensor([[299], [150]]), positions, None, 0, 0.25, 30.0))
    return made


def of_training(op: CausalAttention, dtype: torch.dtype, tokens: int) -> list[tuple[Operation[Any], tuple[Any, ...]]]:
    """Queries of two heads of keys, forward and backward, with a window and sinks."""
    q, dy = drawn(2, 4, tokens, 32, dtype=dtype), drawn(2, 4, tokens, 48, dtype=dtype)
    k, v, sinks = drawn(2, 2, tokens, 32, dtype=dtype), drawn(2, 2, tokens, 48, dtype=dtype), drawn(4)
    y, log_sum_exp = op.forward(q, k, v, sinks, 50, 0.2)
    return [(op.forward, (q, k, v, sinks, 50, 0.2)), (op.backward, (q, k, v, sinks, y, log_sum_exp, dy, 50, 0.2))]


def every_call() -> list[tuple[Operation[Any], tuple[Any, ...]]]:
    """Each operation that this CPU has: too little for several threads, and enough."""
    made: list[tuple[Operation[Any], tuple[Any, ...]]] = []
    for dtype in DTYPES:
        for quantizer in (None, MXFP4Config(), Int8Config()):
            made += [(ROWS, args) for args in of_rows(dtype, quantizer)]
        made += [(ATTEND, args) for args in of_heads(dtype)]
        for rows, dim in ((3, 50), (701, 100), (1, 70000)):
            x, weight, bias = (drawn(*shape, dtype=dtype) for shape in ((rows, dim), (dim,), (dim,)))
            made += [(NORM_ROWS, (x, weight, 1e-6, True, 0.0)), (NORM_ROWS, (x, weight, 1e-6, False, 1.0))]
            made += [(LAYER_ROWS, (x, weight, bias, 1e-5)), (LAYER_ROWS, (x, None, None, 1e-5))]
            angle = drawn(1, 1, rows, 20, dtype=dtype)
            made.append((GATE_SPAN, (x, x.flip(0).contiguous(), 0, 1.702, 7.0, 1.0)))
            made += [(TURN_HEADS, (x.view(1, 1, rows, dim), angle, angle, False))]
        for rows in (3, 300):
            logits = drawn(rows, 32, dtype=dtype)
            chosen = CHOOSE(logits, 4)
            made += [(CHOOSE, (logits, 4)), *((WEIGH, (logits, chosen, 0, recipe, 2.5)) for recipe in range(3))]
        for experts, dim in ((2, 40), (4, 20000)):
            made.append((mixing.MIX, (drawn(3, experts, dim, dtype=dtype), drawn(3, experts))))
    for n in (17, 20003):
        x = drawn(n, dtype=BF16)
        made += [(GELU_TANH, (x,)), (GELU_TANH_BACKWARD, (x, x.flip(0)))]
    for tokens in (9, 200):
        made += of_training(BLOCKED, F32, tokens) if library.wide() else []
        made += of_training(TILED, BF16, tokens) if library.tiles() else []
    return made


def test_every_operation_is_tried() -> None:
    elsewhere = {"add", "copy"}
    elsewhere |= set() if library.tiles() else {TILED.forward.name, TILED.backward.name}
    elsewhere |= set() if library.wide() else {BLOCKED.forward.name, BLOCKED.backward.name}
    assert {operation.name for operation, _ in every_call()} | elsewhere == set(OPERATIONS) == set(STRUCTS)


def test_calls_at_once_give_the_bits_of_calls_one_by_one(threads: int) -> None:
    made = every_call()
    wanted = [operation(*args) for operation, args in made]
    outs = [tuple(map(torch.empty_like, results(y))) for y in wanted]
    calls = [noted(operation, args, out) for (operation, args), out in zip(made, outs, strict=True)]
    assert all(PLAYER.takes(call) for call in calls)
    play = PLAYER.prepare(calls)
    for _ in range(3):
        for out in (part for made in outs for part in made):
            out.view(torch.uint8).fill_(0xFF)  # NaN, or -1
        play(0)
        for call, one in zip(calls, wanted, strict=True):
            assert all(map(same_bits, call.outs, results(one))), call.name


def test_a_call_reads_what_the_one_before_wrote(threads: int) -> None:
    """Products, norms and sums in turn: one thread's calls between those of all."""
    weight, gain, x = drawn(192, 192) / 14, drawn(192), drawn(3, 192)
    wanted, calls = x, []
    for _ in range(20):
        normed = NORM_ROWS(wanted, gain, 1e-6, True, 0.0)
        times = ROWS(normed, weight, None, None, None, 0)
        calls.append(noted(NORM_ROWS, (wanted, gain, 1e-6, True, 0.0), normed))
        calls.append(noted(ROWS, (normed, weight, None, None, None, 0), times))
        calls.append(noted(torch.add, (wanted, times), wanted + times))
        wanted = calls[-1].outs[0]
    expected = wanted.clone()
    for call in calls:
        call.outs[0].fill_(torch.nan)
    PLAYER.prepare(calls)(0)
    assert same_bits(wanted, expected)


def test_what_moves_moves_by_the_same_amount_each_step() -> None:
    cache, new = torch.zeros(2, 2, 9, 16), drawn(2, 2, 1, 16)
    q, out = drawn(2, 4, 1, 16), torch.empty(2, 4, 1, 16)
    write = noted(torch.Tensor.copy_, (cache[:, :, 2:3], new), cache[:, :, 2:3], (cache[:, :, 3:4], new))
    rest = (None, None, None, 0, 0.25, 0.0)
    read, later = ((q, cache[:, :, :n], cache[:, :, :n], *rest) for n in (3, 4))
    PLAYER.prepare([write, noted(ATTEND, read, out, later)])(4)
    assert same_bits(cache[:, :, 6:7], new)
    assert torch.count_nonzero(cache) == torch.count_nonzero(new)
    assert same_bits(out, ATTEND(q, cache[:, :, :7], cache[:, :, :7], *rest))


def test_an_argument_that_must_be_copied_first_is_not_taken() -> None:
    x = drawn(4, 3).T
    assert not PLAYER.takes(noted(LAYER_ROWS, (x, None, None, 1e-5), torch.empty(3, 4)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 17, 65536, 200003])
def test_add_is_pytorchs(n: int, dtype: torch.dtype, threads: int) -> None:
    a, b = drawn(n, dtype=dtype), drawn(n + 1, dtype=dtype)[:n]
    ends = [torch.inf, -torch.inf, torch.nan, -0.0, 1e-40, 3.3e38, 1.0]
    a[: len(ends) ** 2] = torch.tensor(ends).repeat(len(ends))[:n]
    b[: len(ends) ** 2] = torch.tensor(ends).repeat_interleave(len(ends))[:n]
    y, wanted = torch.empty_like(a), a + b
    PLAYER.prepare([noted(torch.add, (a, b), y)])(0)
    assert torch.equal(y.isnan(), wanted.isnan())
    assert same_bits(y[~y.isnan()], wanted[~y.isnan()])


def turned(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    """Outer axes the other way round in memory, and a gap after each row."""
    *outer, last = shape
    held = drawn(*outer[::-1], last + 3, dtype=dtype)[..., :last]
    return held.permute(*reversed(range(len(outer))), len(outer))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.bool])
@pytest.mark.parametrize(
    "shape", [(1,), (7,), (50000,), (5, 9), (0, 4), (3, 0), (3, 5, 70), (2, 3, 4, 5), (2, 33, 21, 64)], ids=str
)
def test_copies_are_pytorchs(shape: tuple[int, ...], dtype: torch.dtype, threads: int) -> None:
    source, to = turned(*shape, dtype=dtype), torch.zeros_like(turned(*shape, dtype=dtype))
    if dtype.is_floating_point and source.numel():
        source[(0,) * source.dim()] = torch.nan
    kept = torch.empty(shape, dtype=dtype)
    calls = [noted(torch.clone, (source,), kept), noted(torch.Tensor.copy_, (to, kept), to)]
    assert [told(call, call.args) is not None for call in calls] == [True, True]
    PLAYER.prepare(calls)(0)
    assert same_bits(kept, source)
    assert same_bits(to, source)


def test_a_copy_touches_nothing_else() -> None:
    whole, part = torch.zeros(6, 5, 40), drawn(6, 2, 30)
    to = whole[:, 1:3, 4:34]
    PLAYER.prepare([noted(torch.Tensor.copy_, (to, part), to)])(0)
    assert same_bits(to, part)
    assert torch.count_nonzero(whole) == torch.count_nonzero(part)


X = torch.ones(3, 4)


@pytest.mark.parametrize(
    "call",
    [
        noted(torch.add, (X, X.bfloat16()), X),
        noted(torch.add, (X, X[0]), X),
        noted(torch.add, (X[:1], X), X),
        noted(torch.add, (X, 2.0), X),
        noted(torch.add, (X, X), X, alpha=2),
        noted(torch.add, (X.long(), X.long()), X.long()),
        noted(torch.add, (X.double(), X.double()), X.double()),
        noted(torch.add, (X.T, X.T), X.T.contiguous()),
        noted(torch.Tensor.copy_, (X, X.bfloat16()), X),
        noted(torch.Tensor.copy_, (X, X[0]), X),
        noted(torch.Tensor.copy_, (X, torch.ones(4, 3).T), X),
        noted(torch.Tensor.copy_, (X.T, torch.ones(4, 3)), X.T),
        noted(torch.clone, (torch.ones(()),), torch.ones(())),
        noted(torch.clone, (torch.ones(1, 1, 1, 1, 2),), torch.ones(1, 1, 1, 1, 2)),
        noted(torch.mul, (X, X), X),
    ],
    ids=lambda call: f"{call.name} {[getattr(a, 'dtype', a) for a in call.args]}",
)
def test_what_pytorch_must_do_is_refused(call: Noted) -> None:
    assert told(call, call.args) is None
    assert not PLAYER.takes(call)


def test_a_struct_has_the_size_that_c_gives_it() -> None:
    y = torch.empty(3)
    steps = [noted(torch.add, (y, y), y), noted(torch.clone, (y,), y)]
    sizes = {name: len(packed) for name, packed in (told(call, call.args) or ("", b"") for call in steps)}
    operations = [operation for operation, _ in every_call()]
    operations += [TILED.forward, TILED.backward, BLOCKED.forward, BLOCKED.backward]
    sizes |= {operation.name: operation.members.size for operation in operations}
    for file in {file for file, _ in STRUCTS.values()}:
        of_file = {name: sizes[name] for name, (where, _) in STRUCTS.items() if where == file}
        checks = [f'_Static_assert(sizeof({STRUCTS[name][1]}) == {size}, "{name}");' for name, size in of_file.items()]
        done = subprocess.run(
            [*compiler(), "-std=gnu11", "-fsyntax-only", f"-I{FOLDER}", "-x", "c", "-"],
            input="\n".join([f'#include "{file}"', *checks]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_more_memory_than_there_is_is_an_error() -> None:
    """One row for 2^50, and no outputs: only the rows' order wants memory, 4 PiB of it."""
    args = (torch.ones(1, 64).expand(2**50, -1), torch.empty(0, 64), None, None, None, 0)
    with pytest.raises(MemoryError, match="rows"):
        ROWS(*args)
    with pytest.raises(MemoryError, match="step of decoding"):
        PLAYER.prepare([noted(ROWS, args, torch.empty(2**50, 0))])(0)


@pytest.mark.parametrize("wrong", [-1, 3, 2**40])
def test_an_expert_that_is_not_there_gives_nan_and_reads_nothing(wrong: int) -> None:
    weight = {"weight": drawn(3, 24, 32)}
    y = linear.chosen_linear(weight, drawn(4, 32), None, torch.tensor([0, wrong, 2, wrong]), quantizer=None)
    assert y[[1, 3]].isnan().all()
    assert not y[[0, 2]].isnan().any()
