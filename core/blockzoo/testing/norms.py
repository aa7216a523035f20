"""What a norm owes beside what every block does: it works over the last axis alone, of any width."""

from __future__ import annotations

import torch

from blockzoo.blocks import NormConfig
from blockzoo.initialization import draw as starting
from blockzoo.testing.check import need, need_close
from blockzoo.testing.houses import HOUSES, house
from blockzoo.testing.numerics import FEW_ULP
from blockzoo.testing.subjects import DIMS, BlockSubject, draw, inputs, step_of


def any_leading_shape(subject: BlockSubject) -> None:
    """Shape (..., D) is kept for any leading axes, and each vector is normed by itself."""
    module, d = subject.build(), DIMS.d_model
    with torch.no_grad():
        for shape in ((d,), (3, d), (2, 4, 3, d)):
            y = module(draw(*shape))
            need(y.shape == shape, f"{shape} goes in and {tuple(y.shape)} comes out")
        x = draw(6, d)
        alone = torch.stack([module(row) for row in x])
        need_close(alone, module(x), FEW_ULP, "a vector's norm depends on the other vectors: work over the last axis")


def any_width(subject: BlockSubject) -> None:
    """It builds for other widths too: heads are narrower than the model."""
    assert isinstance(subject.config, NormConfig)
    for dim in (8, 24):
        has = {name: tuple(parameter.shape) for name, parameter in subject.config.build(dim).named_parameters()}
        said = {name: parameter.shape for name, parameter in subject.config.cost(dim).parameters.items()}
        need(has == said, f"at width {dim} the module has {has}, cost() says {said}")


def changes_something(subject: BlockSubject) -> None:
    """The output follows the input."""
    module = subject.build()
    with torch.no_grad():
        same = torch.equal(
            subject.call(module, inputs(seed=1), step_of()), subject.call(module, inputs(seed=2), step_of())
        )
    need(not same, "gives one output for two different inputs")


def starts_with_a_signal(subject: BlockSubject) -> None:
    """As a model is initialized, its output for plain inputs isn't zero everywhere: nothing could learn behind it."""
    module, model = subject.build(), house(next(iter(HOUSES)), subject.config, subject.registry)
    cost = subject.cost(1)
    fresh = {name: starting(model, name, parameter, 0) for name, parameter in cost.parameters.items()}
    with torch.no_grad():
        module.load_state_dict(fresh, strict=False)
        if subject.call(module, inputs(), step_of()).any():
            return
        zeros = [name for name, start in fresh.items() if not start.any()]
    roles = ", ".join(f"'{name}' (role {cost.parameters[name].role})" for name in zeros)
    need(
        False,
        f"before any training it puts out zeros alone: {roles or 'it'} begins at 0; a factor is GAIN, which begins at"
        " 1, or says an init",
    )


CHECKS = (any_leading_shape, any_width, changes_something, starts_with_a_signal)
