"""Every kernel equals its op's reference, forward and, where it says so, backward, on every example of the op."""

from __future__ import annotations

import pytest
import torch

from blockzoo.errors import KernelError
from blockzoo.kernels import PHASES, Call, Capabilities, Example, Kernel, Op, Slot, bind
from blockzoo.registry import Registry
from blockzoo_blocks.mixers.attention import ATTENTION

DTYPES = [torch.float32, torch.bfloat16]
CPU = torch.device("cpu")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


def pairs(registry: Registry) -> list[tuple[Op, Kernel]]:
    ops = registry.ops()
    return [(ops[name], kernel) for name, kernels in registry.kernels().items() for kernel in kernels]


def floats(example: Example) -> list[torch.Tensor]:
    """The differentiable inputs of an example: leaves of their own."""
    candidates = [*example.args, *example.kwargs.values()]
    return [x for x in candidates if isinstance(x, torch.Tensor) and x.is_floating_point()]


def supported(kernel: Kernel, op: Op, example: Example, dtype: torch.dtype, phase: str) -> bool:
    biased = example.kwargs.get("bias") is not None
    static = {"softcap": example.kwargs.get("softcap"), "dropout": 0.0, "sinks": True, "bias": biased}
    return kernel.supports(Capabilities.of(CPU), Call(op.name, phase, dtype, static)).ok  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["sdpa", "grouped", pytest.param("flex", marks=pytest.mark.slow)])
def test_kernel_equals_reference(registry: Registry, name: str, dtype: torch.dtype) -> None:
    ((op, kernel),) = [(op, kernel) for op, kernel in pairs(registry) if kernel.name == name]
    tried = 0
    for example in op.examples(dtype, CPU):
        if not any(supported(kernel, op, example, dtype, phase) for phase in ("prefill", "decode")):
            continue
        if name == "flex":
            torch.compiler.reset()  # every example is another shape
        before = [x.clone() for x in floats(example)]
        with torch.no_grad():
            expected = op.reference(*example.args, **example.kwargs)
            found = kernel.function(*example.args, **example.kwargs)
        assert relative_error(found, expected) < op.tolerances[dtype], example.name
        for now, then in zip(floats(example), before, strict=True):
            assert torch.equal(now, then), f"{example.name}: an input was changed"
        tried += 1
    assert tried > 10


def test_gradients_equal_reference(registry: Registry) -> None:
    for op, kernel in pairs(registry):
        for example in op.examples(torch.float32, CPU):
            if not kernel.backward or not supported(kernel, op, example, torch.float32, "train"):
                continue
            grads = []
            for function in (op.reference, kernel.function):
                leaves = floats(example)
                for leaf in leaves:
                    leaf.requires_grad_()
                out = function(*example.args, **example.kwargs)
                weight = torch.linspace(-1, 1, out.numel()).view_as(out)
                grads.append(torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True))
            for found, expected in zip(grads[1], grads[0], strict=True):
                assert (found is None) == (expected is None), example.name
                if expected is not None and expected.abs().max() > 0:
                    assert relative_error(found, expected) < 2e-5, (kernel.name, example.name)


def test_a_supports_that_raises_is_a_no_with_its_reason() -> None:
    module = torch.nn.ModuleDict({"attend": Slot(ATTENTION, n_heads=4, n_kv_heads=4, head_dim=8, scale=1.0)})
    broken = Kernel("broken", ATTENTION.reference, lambda capabilities, call: call.static["sink"], backward=True)
    for line in bind(module, {"attention": [broken]}, device=CPU):
        assert (line.kernel, line.lost) == ("reference", (("broken", "its supports() raises KeyError: 'sink'"),))
    with pytest.raises(KernelError, match="raises KeyError: 'sink'"):
        bind(module, {"attention": [broken]}, device=CPU, choose={"attention": "broken"})


def test_a_no_carries_its_reason(registry: Registry) -> None:
    for op, kernel in pairs(registry):
        for phase in PHASES:
            verdict = kernel.supports(
                Capabilities.of(CPU), Call(op.name, phase, torch.float32, {"softcap": 3.0, "dropout": 0.1})
            )
            assert verdict.ok or verdict.reason
