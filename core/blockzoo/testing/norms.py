"""What a norm owes beside what every block does: it works over the last axis alone, of any width."""

from __future__ import annotations

import torch

from blockzoo.blocks import NormConfig
from blockzoo.initialization import draw as starting
from blockzoo.testing.check import CheckFailed, CheckSkipped, need, need_close, one_line
from blockzoo.testing.houses import HOUSES, house
from blockzoo.testing.inputs import DIMS, draw, inputs, step_of
from blockzoo.testing.numerics import FEW_ULP
from blockzoo.testing.subjects import BlockSubject

WIDTHS = (8, 24, 27)


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
    """It works at other widths too, odd ones among them: heads are narrower than the model. Or it refuses them."""
    config = subject.config
    assert isinstance(config, NormConfig)
    refused = {dim: reason for dim in WIDTHS if (reason := config.refuses(dim)) is not None}
    for dim in WIDTHS:
        if dim not in refused:
            _works_at(config, dim)
    for dim, reason in refused.items():
        sentence = isinstance(reason, str) and len(reason) > 5
        need(sentence, f"refuses({dim}) gives {reason!r}, not a sentence that says why, or None")
    if refused:
        tried = ", ".join(str(dim) for dim in WIDTHS if dim not in refused) or "none"
        dim, reason = next(iter(refused.items()))
        raise CheckSkipped(f"of the widths {WIDTHS} tried at {tried}: refuses({dim}) says {reason!r}")


def _works_at(config: NormConfig, dim: int) -> None:
    try:
        module = config.build(dim)
        has = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        said = {name: parameter.shape for name, parameter in config.cost(dim).parameters.items()}
        with torch.no_grad():
            y = module(draw(3, dim))
    except Exception as error:
        advice = "make it work there, or have refuses(dim) say why it can't"
        raise CheckFailed(f"at width {dim}: {one_line(error)}: {advice}") from error
    need(has == said, f"at width {dim} the module has {has}, cost() says {said}")
    need(y.shape == (3, dim), f"at width {dim} (3, {dim}) goes in and {tuple(y.shape)} comes out")


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
