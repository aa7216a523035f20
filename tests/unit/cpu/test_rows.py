"""The C kernels against their ops' references: every weight, edge shapes, both instruction sets, and no compiler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Call, Capabilities
from blockzoo.linear import expert_linear_reference, linear_reference
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config
from blockzoo_cpu import compiling, library, linear
from blockzoo_cpu.compiling import compiler

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
QUANTIZERS = [None, MXFP4Config(), Int8Config()]
# one pair of groups, a tail after 16 groups, an odd number of outputs, gpt-oss's width
SHAPES = [(1, 64, 5), (3, 128, 7), (16, 576, 33), (5, 1088, 1), (2, 2880, 16)]
BOUND = {torch.float32: 1e-6, torch.bfloat16: 1e-2}


@pytest.fixture(params=["avx512", "portable"])
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run with the vector kernels, where this CPU has them, and without."""
    if request.param == "portable":
        monkeypatch.setattr(linear, "wide", lambda: False)
    elif not linear.wide():
        pytest.skip("this CPU has no AVX-512 VNNI")
    return request.param


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def stored(weight: Tensor, quantizer: QuantizerConfig | None, dtype: torch.dtype) -> dict[str, Tensor]:
    return {"weight": weight.to(dtype)} if quantizer is None else quantizer.pack(weight)


def exact(weight: dict[str, Tensor], quantizer: QuantizerConfig | None) -> dict[str, Tensor]:
    """The same weight for a reference in float32."""
    return {"weight": weight["weight"].float()} if quantizer is None else weight


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_equal_the_reference(
    shape: tuple[int, int, int], quantizer: QuantizerConfig | None, dtype: torch.dtype, instructions: str
) -> None:
    n, d_in, d_out = shape
    weight = stored(drawn(d_out, d_in), quantizer, dtype)
    x, bias = drawn(n, d_in).to(dtype), drawn(d_out).to(dtype)
    wanted = linear_reference(exact(weight, quantizer), x.float(), bias.float(), quantizer=quantizer)
    assert error(linear.linear(weight, x, bias, quantizer=quantizer), wanted) < BOUND[dtype]
    assert error(linear.linear(weight, x, None, quantizer=quantizer), wanted - bias.float()) < BOUND[dtype]


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
@pytest.mark.parametrize("counts", [[1, 0, 3, 0, 2], [0, 0, 0, 0, 6], [0, 0, 0, 0, 0]], ids=str)
def test_experts_equal_the_reference(
    counts: list[int], quantizer: QuantizerConfig | None, dtype: torch.dtype, instructions: str
) -> None:
    weight = stored(drawn(5, 40, 128), quantizer, dtype)
    x, bias = drawn(sum(counts), 128).to(dtype), drawn(5, 40).to(dtype)
    wanted = expert_linear_reference(exact(weight, quantizer), x.float(), bias.float(), counts, quantizer=quantizer)
    found = linear.expert_linear(weight, x, bias, counts, quantizer=quantizer)
    assert found.shape == wanted.shape
    if len(x):
        assert error(found, wanted) < BOUND[dtype]


def test_tiny_scales_are_not_flushed(instructions: str) -> None:
    """Scale byte 0 is 2^-127, a denormal; 1 is the smallest normal number."""
    blocks = torch.full((1, 2, 16), 0x22, dtype=torch.uint8)  # ones
    weight = {"blocks": blocks, "scales": torch.tensor([[0, 1]], dtype=torch.uint8)}
    x = torch.full((1, 64), 2.0**60)
    wanted = 32 * 2.0**60 * (2.0**-127 + 2.0**-126)
    assert linear.linear(weight, x, None, quantizer=MXFP4Config()).item() == pytest.approx(wanted, rel=1e-6)


def test_inputs_are_read_wherever_they_lie(instructions: str) -> None:
    weight, x = drawn(7, 64), drawn(64, 3).T
    assert error(linear.linear({"weight": weight}, x, None, quantizer=None), x @ weight.T) < 1e-6


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
def test_one_row_for_all_experts_is_prepared_once(quantizer: QuantizerConfig | None, instructions: str) -> None:
    weight, x = stored(drawn(4, 9, 192), quantizer, torch.bfloat16), drawn(1, 192).bfloat16()
    found = linear.expert_linear(weight, x.expand(3, -1), None, [1, 0, 1, 1], quantizer=quantizer)
    wanted = linear.expert_linear(weight, x.repeat(3, 1), None, [1, 0, 1, 1], quantizer=quantizer)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=lambda q: type(q).__name__)
def test_what_is_not_a_number_stays_so_and_stays_in_its_row(
    quantizer: QuantizerConfig | None, instructions: str
) -> None:
    weight, x = stored(drawn(6, 192), quantizer, torch.bfloat16), drawn(2, 192).bfloat16()
    for bad in (float("nan"), float("inf")):
        x[1, 70] = bad
        found = linear.linear(weight, x, None, quantizer=quantizer)
        assert found[0].isfinite().all()
        assert not found[1].isfinite().any()


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (Call("linear", "prefill", torch.float32, {"quantizer": None, "shape": (4, 64)}), "serves decoding"),
        (Call("linear", "decode", torch.float16, {"quantizer": None, "shape": (4, 64)}), "not float16"),
        (Call("linear", "decode", torch.float32, {"quantizer": Int8Config(group_size=16), "shape": (4, 64)}), "not 16"),
        (Call("linear", "decode", torch.float32, {"quantizer": MXFP4Config(), "shape": (4, 96)}), "not 96"),
    ],
)
def test_a_refusal_says_why(call: Call, reason: str) -> None:
    verdict = linear.supports(Capabilities("cpu"), call)
    assert not verdict.ok
    assert reason in verdict.reason


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that has compiled nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    library.library.cache_clear()
    library.problem.cache_clear()
    yield tmp_path
    library.library.cache_clear()
    library.problem.cache_clear()


CALL = Call("linear", "decode", torch.float32, {"quantizer": None, "shape": (4, 64)})


def test_without_a_compiler_the_reference_serves_and_one_line_says_so(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiling, "COMPILERS", ())
    monkeypatch.delenv("CC", raising=False)
    for _ in range(2):
        verdict = linear.supports(Capabilities("cpu"), CALL)
        assert not verdict.ok
        assert "no C compiler" in verdict.reason
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("blockzoo: warning: no kernels in C, PyTorch's slower ones serve: no C compiler")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo broken as told >&2; exit 1", "can't compile the kernels: broken as told"),
        ('for last; do :; done; echo garbage > "$last"', "can't be loaded"),
        (None, "can't be run"),
    ],
)
def test_a_compiler_that_fails_leaves_nothing_behind(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    own = empty_cache / "bin" / "my cc"
    own.parent.mkdir()
    if script is not None:
        own.write_text(f"#!/bin/sh\n{script}\n")
        own.chmod(0o755)
    monkeypatch.setenv("CC", f"'{own}' -O1")
    verdict = linear.supports(Capabilities("cpu"), CALL)
    assert not verdict.ok
    assert reason in verdict.reason
    assert [path for path in empty_cache.rglob("*") if path.is_file() and path != own] == []


def test_a_cache_that_cannot_be_written_is_told(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache / "file"))
    monkeypatch.setattr(compiling, "FLAGS", ("-O0", "-fPIC", "-std=gnu11"))
    verdict = linear.supports(Capabilities("cpu"), CALL)
    assert "XDG_CACHE_HOME names another place" in verdict.reason


def test_the_library_is_compiled_once_and_anew_where_it_was_cut_short(empty_cache: Path) -> None:
    def found() -> tuple[Path, int]:
        library.library.cache_clear()
        library.library()
        [made] = [path for path in empty_cache.rglob("*") if path.is_file()]
        return made, made.stat().st_ino

    first, second = found(), found()
    assert first == second
    whole = first[0].read_bytes()
    copy = empty_cache / "blockzoo" / "copy"  # what is loaded stays as it is
    copy.write_bytes(whole[:1000])
    copy.replace(first[0])
    again, _ = found()
    assert len(again.read_bytes()) > 1000
