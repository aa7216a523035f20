"""Which linears of a mixer or ffn write to the residual stream, found by what their weights do, and their role.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blockzoo.blocks import Role
from blockzoo.linear import ExpertLinear
from blockzoo.testing.check import CheckSkipped, error_of, need
from blockzoo.testing.inputs import DIMS, draw, inputs, step_of
from blockzoo.testing.subjects import BlockSubject

EXACT = 1e-9  # of the greatest value, float64: what is linear is so but for rounding


def output_role(subject: BlockSubject) -> None:
    """A linear whose output is added to the residual stream has the role RESIDUAL_OUTPUT."""
    module, parameters = subject.build(torch.float64), subject.cost(1).parameters
    linears = [name for name in _linears(module) if name in parameters]  # else `parameters` has told
    found = [name for name in linears if _writes_out(subject, module, name)]
    if not found:
        raise CheckSkipped("no linear stands last: what it gives is normed, gated or shared before it leaves the block")
    said = [name for name in found if parameters[name].role is Role.RESIDUAL_OUTPUT]
    if said and not _are_added(subject, module, found):  # a product of linears: one of them is the output
        return
    other = [name for name in found if name not in said]
    need(
        not other,
        f"'{', '.join(other)}' writes to the residual stream (a row of it moves that feature of the output alone):"
        " say Role.RESIDUAL_OUTPUT in cost(), or models of `init: {residual_output: depth_scaled}` draw it too large",
    )


def _linears(module: nn.Module) -> list[str]:
    """The names of weights of linears into the model's width."""
    linears = {path: inner for path, inner in module.named_modules() if isinstance(inner, (nn.Linear, ExpertLinear))}
    return [f"{path}.weight" for path, inner in linears.items() if inner.weight.shape[-2] == DIMS.d_model]


def _writes_out(subject: BlockSubject, module: Any, name: str) -> bool:
    """Whether a row of a weight moves one feature of the output, the row's own, in proportion."""
    row = 5
    weight = module.get_parameter(name)
    change = torch.zeros_like(weight)
    change[..., row, :] = draw(*weight[..., row, :].shape, seed=3, dtype=weight.dtype) * weight.std()
    once, twice = (_moved(subject, module, {name: factor * change}) for factor in (1, 2))
    elsewhere = torch.cat([once[..., :row], once[..., row + 1 :]], dim=-1)
    alone = float(elsewhere.abs().max()) <= EXACT * float(once.abs().max())
    return alone and bool(once.any()) and error_of(twice, 2 * once) <= EXACT


def _are_added(subject: BlockSubject, module: Any, names: Sequence[str]) -> bool:
    """Whether what several weights do to the output adds up."""
    changes = {name: draw(*module.get_parameter(name).shape, seed=4, dtype=torch.float64) for name in names}
    together = _moved(subject, module, changes)
    alone = torch.stack([_moved(subject, module, {name: change}) for name, change in changes.items()])
    return error_of(alone.sum(dim=0), together) <= EXACT


def _moved(subject: BlockSubject, module: Any, changes: dict[str, Tensor]) -> Tensor:
    """How far the outputs (B, T, D) move with changes of weights."""
    x = inputs(torch.float64)
    with torch.no_grad():
        before = subject.call(module, x, step_of())
        for name, change in changes.items():
            module.get_parameter(name).add_(change)
        after = subject.call(module, x, step_of())
        for name, change in changes.items():
            module.get_parameter(name).sub_(change)
    return after - before


CHECKS = (output_role,)
