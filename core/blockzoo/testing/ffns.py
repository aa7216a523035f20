"""What a feed-forward block owes beside what every block does.

Axes: N tokens, E experts, D d_model.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import ValidationError
from torch import Tensor

from blockzoo.blocks import FFNConfig, Role
from blockzoo.linear import ExpertLinear
from blockzoo.testing.check import CheckFailed, CheckSkipped, need, need_close, one_line
from blockzoo.testing.inputs import DIMS, draw, inputs
from blockzoo.testing.products import need_flops
from blockzoo.testing.samples import with_reports
from blockzoo.testing.subjects import BlockSubject

EXPERTS = 3
MATRICES = (Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.ROUTER)


def flops(subject: BlockSubject) -> None:
    """One token runs exactly the matrix products that cost() counts."""
    with need_flops(subject.cost(1).flops, "one token"):
        subject.build()(inputs(batch=1, length=1))


def active_parameters(subject: BlockSubject) -> None:
    """What cost() calls active, of the matrices, is no more than its products read for a token."""
    cost = subject.cost(1)
    matrices = [p for p in cost.parameters.values() if p.role in MATRICES and len(p.shape) > 1]
    active = sum(parameter.active_numel for parameter in matrices)
    need(
        2 * active <= cost.flops,
        f"cost() says that a token uses {active} elements of the matrices, and its {cost.flops} FLOPs read"
        f" {cost.flops // 2}: say Parameter(..., active=) where a token uses a part",
    )


def tokens_alone(subject: BlockSubject) -> None:
    """A token's output is the same without the tokens beside it, whatever the leading axes."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        together, _ = with_reports(module, x)
        flat, _ = with_reports(module, x.flatten(0, 1))
        alone = torch.stack([module(token)[0] for token in x.flatten(0, 1)[:, None]]).flatten(0, 1)
    need(together.shape == x.shape, f"{tuple(x.shape)} goes in and {tuple(together.shape)} comes out")
    need_close(flat, together.flatten(0, 1), 2e-6, "(N, D) and (B, T, D) give different outputs")
    need_close(alone, flat, 2e-6, "a token's output depends on the tokens beside it: that is a mixer's work")


def reports(subject: BlockSubject) -> None:
    """Beside the output it returns a dict of tensors; a balance_loss is one finite number with a gradient."""
    module = subject.build().train()
    _, aux = with_reports(module, inputs())
    for name, value in aux.items():
        need(isinstance(value, Tensor) and value.isfinite().all(), f"'{name}' is not a finite tensor")
    if "balance_loss" in aux:
        loss = aux["balance_loss"]
        need(loss.dim() == 0 and loss.requires_grad, "balance_loss must be a scalar with a gradient")
    if "expert_load" in aux:
        need_close(aux["expert_load"].sum(), torch.tensor(1.0), 1e-5, "expert_load does not add up to 1")


def stacks(subject: BlockSubject) -> None:
    """A stackable one, built from a stack of experts' matrices, computes what each expert would alone."""
    assert isinstance(subject.config, FFNConfig)
    config, without = stackable(subject.config)
    stack = config.build(DIMS, linear=partial(ExpertLinear, EXPERTS)).eval()
    made = {
        f"{path}.{name}" for path, m in stack.named_modules() if isinstance(m, ExpertLinear) for name in m.state_dict()
    }
    own = sorted(stack.state_dict().keys() - made)
    unstacked = f"{own} are not made by linear(): such a block can't be stacked; make them by it or drop stackable"
    need(not own, f"{unstacked}{without}")
    singles = [config.build(DIMS).eval() for _ in range(EXPERTS)]
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(stack.named_parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed) * 0.2)
            for expert, single in enumerate(singles):
                single.get_parameter(name).copy_(parameter[expert])
        x, counts = draw(6, DIMS.d_model), [2, 0, 4]
        message = f"stacked experts differ from single ones: pass *which on to every matrix{without}"
        try:
            found, _ = stack(x, counts)
        except TypeError as error:  # one is called without
            raise CheckFailed(f"{message} ({one_line(error)})") from error
        parts = zip(singles, x.split(counts), strict=True)
        expected = torch.cat([single(rows)[0] for single, rows in parts])
    need_close(found, expected, 1e-5, message)


def stackable(config: FFNConfig) -> tuple[FFNConfig, str]:
    """A sample, or, where an option keeps it from stacking, the same without that one, and words that say so: its other
    options may stand in no other sample. Raises CheckSkipped where it can't be stacked.
    """
    if config.stackable:
        return config, ""
    for name in sorted(config.model_fields_set):
        rest = {field: getattr(config, field) for field in config.model_fields_set if field != name}
        try:
            other = type(config).model_validate(rest)
        except ValidationError:  # one that it needs
            continue
        if other.stackable and not any(other.check(DIMS)):
            return other, f" (tried without '{name}')"
    raise CheckSkipped("declares stackable = False")


CHECKS = (flops, active_parameters, tokens_alone, reports, stacks)
