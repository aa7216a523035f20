"""What the arithmetic of any block owes: dtypes, gradients, rows by themselves, compilers, bad inputs.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from blockzoo.step import Step
from blockzoo.testing.check import CheckSkipped, need, need_close, quiet
from blockzoo.testing.inputs import draw, inputs, step_of
from blockzoo.testing.subjects import BlockSubject

FEW_ULP = 1e-6  # of the greatest value, float32
BFLOAT16_BUDGET = 0.03  # error of the output, both root mean squares


def dtypes(subject: BlockSubject) -> None:
    """Outputs have the input's dtype, in float32, bfloat16 and float64."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        with torch.no_grad():
            y = subject.call(subject.build(dtype), inputs(dtype), step_of())
        need(y.dtype == dtype, f"{dtype} goes in and {y.dtype} comes out: cast the result back to the input's dtype")


def leaves_inputs_alone(subject: BlockSubject) -> None:
    """The input is not written to."""
    x = inputs()
    with torch.no_grad():
        subject.call(subject.build(), x, step_of())
    need(torch.equal(x, inputs()), "changes its input in place: the caller still needs it")


def bfloat16(subject: BlockSubject) -> None:
    """In bfloat16 the output stays within a budget of what float32 gives with the same weights."""
    narrow, wide = subject.build(torch.bfloat16), subject.build()
    wide.load_state_dict(narrow.state_dict())
    x = inputs(torch.bfloat16)
    with torch.no_grad():
        found = subject.call(narrow, x, step_of()).float()
        expected = subject.call(wide, x.float(), step_of())
    error = float((found - expected).norm() / expected.norm())
    need(
        error < BFLOAT16_BUDGET,
        f"bfloat16 is {error:.0%} off float32, at most {BFLOAT16_BUDGET:.0%}: keep sums, norms and softmax in float32",
    )


def extremes(subject: BlockSubject) -> None:
    """Zero, tiny and large inputs give finite outputs and gradients."""
    for name, scale in (("zero", 0.0), ("tiny (1e-20)", 1e-20), ("large (1e4)", 1e4)):
        for dtype in (torch.float32, torch.bfloat16):
            module, x = subject.build(dtype), (inputs() * scale).to(dtype).requires_grad_()
            y = subject.call(module, x, step_of())
            need(y.isfinite().all(), f"{name} inputs in {dtype} give an output that is not finite")
            gradients = torch.autograd.grad(y.sum(), [x, *_trained(module)], allow_unused=True)
            finite = all(bool(g.isfinite().all()) for g in gradients if g is not None)
            need(finite, f"{name} inputs in {dtype} give a gradient that is not finite")


def gradients(subject: BlockSubject) -> None:
    """The gradients of the input and of every parameter equal finite differences, in float64."""
    module = subject.build(torch.float64)
    x = inputs(torch.float64).requires_grad_()
    named = {"the input": x, **{f"'{name}'": p for name, p in module.named_parameters()}}
    weight = draw(*subject.call(module, x, step_of()).shape, seed=9, dtype=torch.float64)

    def value() -> Tensor:
        return (subject.call(module, x, step_of()) * weight).sum()

    found = torch.autograd.grad(value(), list(named.values()), allow_unused=True)
    scale = max(float(g.norm()) for g in found if g is not None)
    for (name, tensor), gradient in zip(named.items(), found, strict=True):
        if gradient is None:
            need(False, f"{name} gets no gradient: it takes no part in the output, or is detached on the way")
        direction = draw(*tensor.shape, seed=3, dtype=torch.float64)
        direction /= direction.norm()
        slope = float((gradient * direction).sum())
        # the second pair is for blocks that compute in float32 whatever comes in
        for step, within in ((1e-6, 1e-5), (3e-3, 1e-2)):
            measured = _slope(value, tensor, direction, step)
            error = abs(measured - slope) / max(abs(slope), abs(measured), 1e-3 * scale)
            if error < within:
                break
        else:
            need(False, f"the gradient of {name} is {error:.1%} off finite differences: its backward is wrong")


@torch.no_grad()
def _slope(value: Any, tensor: Tensor, direction: Tensor, step: float) -> float:
    before = tensor.clone()
    high = value_at(value, tensor, before + step * direction)
    low = value_at(value, tensor, before - step * direction)
    tensor.copy_(before)
    return (high - low) / (2 * step)


def value_at(value: Any, tensor: Tensor, where: Tensor) -> float:
    """``value()`` with a tensor moved."""
    tensor.copy_(where)
    return float(value())


def _trained(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def evaluation(subject: BlockSubject) -> None:
    """In evaluation mode equal inputs give equal outputs and change no buffer; training mode runs and has gradients."""
    module = subject.build()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        outputs = [subject.call(module, inputs(), step_of()) for _ in range(2)]
    need(torch.equal(*outputs), "gives different outputs for equal inputs in evaluation mode: is dropout always on?")
    changed = [name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])]
    need(not changed, f"evaluation changes {changed}")
    y = subject.call(module.train(), inputs().requires_grad_(), step_of())
    need(y.isfinite().all() and y.requires_grad, "training mode gives an output without a gradient, or not finite")


def batch_independence(subject: BlockSubject) -> None:
    """A row's output is the same alone, and wherever in the batch it stands."""
    module, x = subject.build(), inputs(batch=4)
    with torch.no_grad():
        together = subject.call(module, x, step_of(batch=4))
        turned = subject.call(module, x.flip(0), step_of(batch=4)).flip(0)
        alone = torch.cat([subject.call(module, row[None], step_of(batch=1)) for row in x])
    need_close(turned, together, FEW_ULP, "a row's output depends on its place in the batch")
    need_close(alone, together, 2e-6, "a row's output depends on the other rows: something is mixed across the batch")


def compiles(subject: BlockSubject) -> None:
    """torch.compile takes it whole (fullgraph, the eager backend) and gives the same outputs."""
    _skip_unless_compile_safe(subject)
    module = subject.build()
    torch.compiler.reset()
    compiled = torch.compile(_Alone(subject, module), backend="eager", fullgraph=True)
    positions = step_of().positions
    with torch.no_grad():
        expected = subject.call(module, inputs(), step_of())  # first: what is wrong without a compiler is none of its
        try:
            with quiet():
                found = compiled(inputs(), positions)
        except Exception as error:
            _broken("torch.compile breaks the graph", error)
        need_close(found, expected, FEW_ULP, "compiled, it gives other outputs")


def exports(subject: BlockSubject) -> None:
    """torch.export takes it and gives the same outputs."""
    _skip_unless_compile_safe(subject)
    module = subject.build()
    positions = step_of().positions
    with torch.no_grad():
        expected = subject.call(module, inputs(seed=4), step_of())
        try:
            with quiet():
                program = torch.export.export(_Alone(subject, module), (inputs(), positions))
        except Exception as error:
            _broken("torch.export can't trace it", error)
        found = program.module()(inputs(seed=4), positions)
        need_close(found, expected, FEW_ULP, "exported, it gives other outputs")


class _Alone(nn.Module):
    """A block as compilers want it: tensors in, a tensor out."""

    def __init__(self, subject: BlockSubject, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.subject_call = subject.call

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.subject_call(self.module, x, Step(positions, positions, "prefill", consecutive=True, start=0))


def _skip_unless_compile_safe(subject: BlockSubject) -> None:
    if not subject.config.compile_safe:
        raise CheckSkipped("declares compile_safe = False")


def _broken(what: str, error: Exception) -> None:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    need(False, f"{what} ({first[:160]}): use tensor operations only in forward, or declare compile_safe = False")


CHECKS = (
    dtypes,
    leaves_inputs_alone,
    bfloat16,
    extremes,
    gradients,
    evaluation,
    batch_independence,
    compiles,
    exports,
)
