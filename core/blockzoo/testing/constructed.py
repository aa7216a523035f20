"""What a module's constructor sets against what ``cost`` draws: only the latter reaches a model.

A value is deliberate that two constructions under different seeds agree on: a constant, a ramp. What torch draws by
itself differs between them, and what nobody filled is NaN here. Zeros or ones beside an ``init`` in ``cost`` are
storage, as ``torch.empty`` would be: the ``init`` says what is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blockzoo.blocks import Parameter, Role
from blockzoo.testing.check import need
from blockzoo.testing.subjects import BlockSubject

WITHIN = 1e-6  # of the greatest value: float32's rounding
DRAWN = {Role.GAIN: 1.0, Role.BIAS: 0.0, Role.SINK: 0.0}  # the roles that draw nothing


def need_no_other_values(subject: BlockSubject) -> None:
    """No parameter or buffer is deliberately set by the constructor to what ``cost`` does not say."""
    one, other = (_constructed(subject.make, seed) for seed in (1, 2))
    cost = subject.cost(1)
    for name, parameter in {**cost.parameters, **cost.buffers}.items():
        value = one.get(name)
        if value is None or tuple(value.shape) != parameter.shape or not torch.equal(value, other[name]):
            continue  # NaN is equal to nothing
        if parameter.init is not None and any(bool((value == storage).all()) for storage in (0, 1)):
            continue
        drawn = _drawn(parameter)
        need(
            drawn is not None and torch.allclose(value, drawn, rtol=WITHIN, atol=WITHIN),
            f"the constructor sets '{name}' to {_words(value)}, cost() {_said(parameter, drawn)}: a model has what"
            f" cost() says, so say it there, Parameter({parameter.shape}, Role.{parameter.role.name},"
            f" init={_remedy(value)}), or allocate it by torch.empty",
        )


def _constructed(make: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """The floats of a module as its constructor leaves them on the CPU, by name."""
    torch.manual_seed(seed)
    with _unfilled_is_nan():
        module = make()
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: t.detach().float() for name, t in tensors.items() if t.is_floating_point() and t.numel()}


@contextmanager
def _unfilled_is_nan() -> Iterator[None]:
    """torch fills what it allocates, where it must be deterministic."""
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


def _drawn(parameter: Parameter) -> Tensor | None:
    """What a model gets; None where its role draws at random."""
    if parameter.init is not None:
        tensor = torch.empty(parameter.shape)
        parameter.init(tensor, torch.Generator().manual_seed(0))
        return tensor
    return torch.full(parameter.shape, DRAWN[parameter.role]) if parameter.role in DRAWN else None


def _words(value: Tensor) -> str:
    first = value.flatten()[0]
    return f"{first:g}" if bool((value == first).all()) else f"{first:g}, {value.flatten()[1]:g}, ..."


def _said(parameter: Parameter, drawn: Tensor | None) -> str:
    if drawn is None:
        return f"draws it from N(0, std), as role {parameter.role.name} without an init"
    return f"fills it with {_words(drawn)}"


def _remedy(value: Tensor) -> str:
    first = value.flatten()[0]
    return f"filled({first:g})" if bool((value == first).all()) else "..."
