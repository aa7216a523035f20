"""Products of prompts against their ops' references: edge shapes, as tiles, as bytes, and unpacked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.errors import KernelError
from blockzoo.kernels import Call, Capabilities, Verdict, ask
from blockzoo.linear import expert_linear_reference, linear_reference
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config
from blockzoo_cpu import prefill
from blockzoo_cpu.compiling import compiler
from blockzoo_cpu.library import Tiles, tiles
from blockzoo_cpu.products import MXFP4
from tests.unit.cpu.tiling import at_most

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
QUANTIZERS = [MXFP4Config(), Int8Config()]
# one group, tails of rows and of outputs, several panels of outputs, gpt-oss's width
SHAPES = [(17, 32, 5), (33, 96, 33), (100, 160, 130), (64, 2880, 48), (1, 64, 32)]
BOUND = {torch.float32: 1e-6, torch.bfloat16: 6e-3}
ROUNDED = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""Activations as bytes, as the op allows."""
F32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture(params=["amx", "avx512", "portable"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run with tiles, where this CPU has them, without (as products of bytes), and without vector kernels."""
    monkeypatch.setattr(prefill, "STRETCH", 2000)  # several stretches a matrix
    if request.param == "amx":
        if tiles() != Tiles.AMX:
            pytest.skip("this CPU has no AMX")
        yield request.param
        return
    if request.param == "avx512" and not prefill.wide():
        pytest.skip("this CPU has no AVX-512 VNNI")
    if request.param == "portable":
        monkeypatch.setattr(prefill, "wide", lambda: False)
    with at_most(Tiles.NONE):
        yield request.param


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_equals_the_reference(
    shape: tuple[int, int, int], quantizer: QuantizerConfig, dtype: torch.dtype, instructions: str
) -> None:
    n, d_in, d_out = shape
    weight, x, bias = quantizer.pack(drawn(d_out, d_in)), drawn(n, d_in).to(dtype), drawn(d_out).to(dtype)
    wanted = linear_reference(weight, x.float(), bias.float(), quantizer=quantizer)
    bound = (ROUNDED if instructions == "avx512" else BOUND)[dtype]
    assert error(prefill.linear(weight, x, bias, quantizer=quantizer), wanted) < bound
    assert error(prefill.linear(weight, x, None, quantizer=quantizer), wanted - bias.float()) < bound


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("counts", [[17, 0, 3, 40, 1], [0, 0, 0, 0, 33], [0, 0, 0, 0, 0], [8, 9, 24, 25, 16]], ids=str)
def test_experts_equal_the_reference(
    counts: list[int], quantizer: QuantizerConfig, dtype: torch.dtype, instructions: str
) -> None:
    weight = quantizer.pack(drawn(5, 40, 96))
    x, bias = drawn(sum(counts), 96).to(dtype), drawn(5, 40).to(dtype)
    wanted = expert_linear_reference(weight, x.float(), bias.float(), counts, quantizer=quantizer)
    found = prefill.expert_linear(weight, x, bias, counts, quantizer=quantizer)
    assert found.shape == wanted.shape
    assert found.dtype == dtype
    if len(x):
        assert error(found, wanted) < (ROUNDED if instructions == "avx512" else BOUND)[dtype]


def test_axes_in_front_and_strides_are_kept(instructions: str) -> None:
    quantizer = Int8Config()
    weight, x = quantizer.pack(drawn(40, 64)), drawn(64, 3, 9).to(BF16).transpose(0, 2)
    wanted = linear_reference(weight, x.float(), None, quantizer=quantizer)
    found = prefill.linear(weight, x, None, quantizer=quantizer)
    assert found.shape == (9, 3, 40)
    assert error(found, wanted) < (ROUNDED if instructions == "avx512" else BOUND)[BF16]


def identity(dtype: torch.dtype) -> Tensor:
    """(32, 32): rows that read a group's weights one by one."""
    return torch.eye(32, dtype=dtype)


@pytest.mark.parametrize("byte", [1, 2, 100, 127, 252])
def test_every_code_at_every_scale(byte: int, instructions: str) -> None:
    """To the last bit where values are normal numbers; AMX takes a denormal for zero, as PyTorch's products do."""
    codes = torch.arange(16, dtype=torch.uint8)
    weight = {"blocks": (codes | codes.flip(0) << 4)[None, None], "scales": torch.tensor([[byte]], dtype=torch.uint8)}
    for dtype in BOUND:
        plain = MXFP4Config().unpack(weight, dtype)[0]
        found = prefill.linear(weight, identity(dtype), None, quantizer=MXFP4Config())[:, 0]
        flushed = dtype == BF16 and instructions == "amx"
        assert torch.equal(found, plain.where(plain.abs() >= torch.finfo(dtype).tiny, 0.0) if flushed else plain)


def test_an_overflow_stays_infinite(instructions: str) -> None:
    blocks = torch.full((1, 1, 16), 0x77, dtype=torch.uint8)  # sixes
    weight = {"blocks": blocks, "scales": torch.tensor([[254]], dtype=torch.uint8)}
    for dtype in BOUND:
        assert prefill.linear(weight, torch.ones(17, 32, dtype=dtype), None, quantizer=MXFP4Config()).isinf().all()


@pytest.mark.parametrize("scale", [1e-30, 3e-3, 1e30])
def test_int8_weights_round_as_unpacking_does(scale: float) -> None:
    if tiles() != Tiles.AMX:
        pytest.skip("this CPU has no AMX")
    weight = {"codes": torch.arange(-16, 16, dtype=torch.int8)[None] * 7, "scales": torch.tensor([[scale]], dtype=BF16)}
    found = prefill.linear(weight, identity(BF16), None, quantizer=Int8Config())[:, 0]
    assert torch.equal(found, Int8Config().unpack(weight, BF16)[0])


def test_not_a_number_in_one_row_stays_there(instructions: str) -> None:
    quantizer = MXFP4Config()
    weight, x = quantizer.pack(drawn(40, 64)), drawn(20, 64).to(BF16)
    clean = prefill.linear(weight, x, None, quantizer=quantizer)
    x[3, 5] = torch.nan
    found = prefill.linear(weight, x, None, quantizer=quantizer)
    assert found[3].isnan().all()
    assert torch.equal(found[4:], clean[4:])


def test_products_of_pytorch_before_and_after_are_right() -> None:
    """Both sides set AMX's tiles up for themselves, in the same threads."""
    quantizer = Int8Config()
    weight, x = quantizer.pack(drawn(96, 128)), drawn(70, 128).to(BF16)
    plain, q = quantizer.unpack(weight, BF16), drawn(1, 4, 40, 64).to(BF16)
    wanted, attended = (
        F.linear(x.float(), plain.float()),
        F.scaled_dot_product_attention(q.float(), q.float(), q.float()),
    )
    for threads in (1, 2, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(3):
                assert error(F.linear(x, plain), wanted) < BOUND[BF16]
                assert error(prefill.linear(weight, x, None, quantizer=quantizer), wanted) < ROUNDED[BF16]
                assert error(F.scaled_dot_product_attention(q, q, q), attended) < 2e-2
                assert error(F.linear(x[:33], plain[:50]), wanted[:33, :50]) < BOUND[BF16]
                assert error(prefill.linear(weight, x[:17], None, quantizer=quantizer), wanted[:17]) < ROUNDED[BF16]
        finally:
            torch.set_num_threads(before)


@pytest.mark.parametrize("counts", [None, [4, 16]], ids=str)
def test_its_fake_tells_the_compiler_the_same_shape(counts: list[int] | None) -> None:
    packed = MXFP4Config().pack(drawn(40, 64) if counts is None else drawn(2, 40, 64))
    parts = [drawn(20, 64), packed["blocks"].flatten(-2), packed["scales"], None]
    real = torch.ops.blockzoo_cpu.packed(*parts, counts, MXFP4)
    fake = torch.ops.blockzoo_cpu.packed(*(None if t is None else t.to("meta") for t in parts), counts, MXFP4)
    assert (fake.shape, fake.dtype) == (real.shape, real.dtype)


def call(phase: str = "prefill", dtype: torch.dtype = BF16, quantizer: QuantizerConfig | None = QUANTIZERS[0]) -> Call:
    return Call("linear", phase, dtype, {"quantizer": quantizer, "shape": (4, 64)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "asked", "reason"),
    [
        ("cuda", call(), "runs on a CPU"),
        ("cpu", call(phase="decode"), "serves prefill"),
        ("cpu", call(phase="train"), "forward only"),
        ("cpu", call(dtype=torch.float16), "not float16"),
        ("cpu", call(dtype=F32, quantizer=None), "reads plain weights in bfloat16"),
        ("cpu", call(quantizer=Int8Config(group_size=16)), "not 16"),
    ],
)
def test_a_refusal_says_why(device: str, asked: Call, reason: str) -> None:
    verdict = ask(prefill.LINEAR_TILES, Capabilities(device), asked)
    assert not verdict.ok
    assert reason in verdict.reason


def test_packed_prefill_is_served() -> None:
    for quantizer in QUANTIZERS:
        for dtype in BOUND:
            assert prefill.supports(Capabilities("cpu"), call(dtype=dtype, quantizer=quantizer)).ok


@pytest.fixture
def amx() -> None:
    if tiles() != Tiles.AMX:
        pytest.skip("this CPU has no AMX")


def test_no_scale_overflows_that_decoding_holds(instructions: str) -> None:
    """Great activations, small weights: scales meet before they meet what they scale."""
    weight = {
        "blocks": torch.full((1, 1, 16), 0x77, dtype=torch.uint8),  # sixes
        "scales": torch.tensor([[100]], dtype=torch.uint8),
    }
    found = prefill.linear(weight, torch.full((17, 32), 1e36, dtype=BF16), None, quantizer=MXFP4Config())
    assert error(found, torch.full((17, 1), 32 * 6 * 1e36 * 2.0**-27)) < ROUNDED[BF16]


def test_every_int8_code(instructions: str) -> None:
    codes = torch.arange(-128, 128, dtype=torch.int8).view(8, 32)
    weight = {"codes": codes, "scales": torch.full((8, 1), 0.5, dtype=BF16)}
    found = prefill.linear(weight, identity(BF16), None, quantizer=Int8Config())
    assert torch.equal(found, (codes * 0.5).T.to(BF16))


def test_infinity_in_one_row_stays_there(instructions: str) -> None:
    """As bytes it is no number, as in decoding."""
    weight, x = Int8Config().pack(drawn(40, 64)), drawn(20, 64).to(BF16)
    clean = prefill.linear(weight, x, None, quantizer=Int8Config())
    x[3, 5] = torch.inf
    found = prefill.linear(weight, x, None, quantizer=Int8Config())
    assert not found[3].isfinite().any()
    assert torch.equal(found[4:], clean[4:])


def test_plain_weights_without_amx_are_an_error_of_the_op() -> None:
    with at_most(Tiles.VECTORS), pytest.raises(KernelError, match="AMX"):
        torch.ops.blockzoo_cpu.packed(drawn(20, 64).to(BF16), drawn(5, 64).to(BF16), None, None, None, 1)


@pytest.mark.usefixtures("amx")
@pytest.mark.parametrize("shape", [*SHAPES, (384, 64, 70), (385, 64, 70)], ids=str)
def test_plain_weights_equal_the_reference(shape: tuple[int, int, int]) -> None:
    n, d_in, d_out = shape
    weight, x, bias = {"weight": drawn(d_out, d_in).to(BF16)}, drawn(n, d_in).to(BF16), drawn(d_out).to(BF16)
    wanted = F.linear(x.float(), weight["weight"].float(), bias.float())
    assert error(prefill.linear(weight, x, bias, quantizer=None), wanted) < BOUND[BF16]
    assert error(prefill.linear(weight, x, None, quantizer=None), wanted - bias.float()) < BOUND[BF16]


@pytest.mark.usefixtures("amx")
def test_plain_experts_equal_the_reference() -> None:
    weight, counts = {"weight": drawn(5, 40, 96).to(BF16)}, [17, 0, 3, 40, 1]
    x, bias = drawn(61, 96).to(BF16), drawn(5, 40).to(BF16)
    plain = {"weight": weight["weight"].float()}
    wanted = expert_linear_reference(plain, x.float(), bias.float(), counts, quantizer=None)
    assert error(prefill.expert_linear(weight, x, bias, counts, quantizer=None), wanted) < BOUND[BF16]


def test_plain_weights_of_another_dtype_than_the_rows_are_pytorchs_error() -> None:
    weight, x = {"weight": drawn(5, 40, 96).to(BF16)}, drawn(20, 96)
    with pytest.raises(RuntimeError, match="dtype"):
        prefill.linear({"weight": weight["weight"][0]}, x, None, quantizer=None)
    with pytest.raises(RuntimeError, match="dtype"):
        prefill.expert_linear(weight, x, None, [20, 0, 0, 0, 0], quantizer=None)


@pytest.mark.usefixtures("amx")
def test_which_plain_weights_are_read() -> None:
    def verdict(dtype: torch.dtype, shape: tuple[int, ...]) -> Verdict:
        call = Call("linear", "prefill", dtype, {"shape": shape})
        return ask(prefill.LINEAR_TILES, Capabilities.of(torch.device("cpu")), call)

    assert verdict(BF16, (5, 64)).ok
    for dtype, shape in ((F32, (5, 64)), (BF16, (5, 65))):
        assert "multiple of 32 inputs" in verdict(dtype, shape).reason
