"""What a residual owes beside what every block does: it runs both branches and passes on what they report."""

from __future__ import annotations

import torch
from torch import nn

from blockzoo.blocks import ResidualConfig
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.inputs import BATCH, DIMS, LENGTH, inputs, step_of
from blockzoo.testing.subjects import BlockSubject
from blockzoo.testing.toys import ToyMixer, ToyNorm


def norm_names(subject: BlockSubject) -> None:
    """The norms it makes are those that norms() names."""
    assert isinstance(subject.config, ResidualConfig)
    module = subject.build()
    has = (_branch(module, "mixer") is not None, _branch(module, "ffn") is not None)
    own = set(subject.config.cost(DIMS, *has).parameters)
    branches = ("mixer.", "ffn.")
    built = {n.rpartition(".")[0] for n, _ in module.named_parameters() if not n.startswith(branches) and n not in own}
    said = set(subject.config.norms(*has))
    need(built == said, f"makes the norms {sorted(built)}, norms() says {sorted(said)}")


def passes_reports_on(subject: BlockSubject) -> None:
    """What the ffn reports beside its output comes out."""
    module = subject.build()
    with torch.no_grad():
        out = module(inputs(), step_of())
    need(isinstance(out, tuple) and len(out) == 2, "forward must return (x, aux)")
    if _branch(module, "ffn") is not None:
        need("seen" in out[1], "drops what the ffn reports: return its aux beside x")
    need(out[0].shape == inputs().shape, f"{tuple(inputs().shape)} goes in and {tuple(out[0].shape)} comes out")


def passes_state_on(subject: BlockSubject) -> None:
    """The mixer gets the state: token by token equals all at once."""
    module = subject.build()
    mixer = _branch(module, "mixer")
    if mixer is None:
        raise CheckSkipped("has no mixer")
    assert isinstance(mixer, ToyMixer)
    state = mixer.new_state(BATCH, LENGTH, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        full = subject.call(module, inputs(), step_of())
        parts = [module(inputs()[:, t : t + 1], step_of(length=1, start=t), state)[0] for t in range(LENGTH)]
    need_close(torch.cat(parts, dim=1), full, 1e-5, "with a cache the output differs: hand `state` to the mixer")


def both_branches_count(subject: BlockSubject) -> None:
    """Every parameter of mixer and ffn, and the input itself, reach the output."""
    module, x = subject.build(), inputs().requires_grad_()
    names = [name for name, _ in module.named_parameters()]
    y = subject.call(module, x, step_of())
    found = torch.autograd.grad(y.square().sum(), [x, *module.parameters()], allow_unused=True)
    dead = [n for n, g in zip(["the input", *names], found, strict=True) if g is None or not bool(g.abs().max() > 0)]
    need(not dead, f"{', '.join(dead)} without a part in the output: a branch is left out")


def scales_its_branches(subject: BlockSubject) -> None:
    """scaled(factor), where there is one, multiplies: 1 changes nothing, a half something, and 2 undoes that."""
    config = subject.config
    assert isinstance(config, ResidualConfig)
    if type(config).scaled is ResidualConfig.scaled:
        raise CheckSkipped("has no scaled(factor): CompleteP can't train it at another depth than it was tuned at")
    module = subject.build()

    def output(scaled: ResidualConfig) -> torch.Tensor:
        branches = (_branch(module, "mixer"), _branch(module, "ffn"))
        other = scaled.build(DIMS, *branches, norm=lambda: ToyNorm(DIMS.d_model))
        other.load_state_dict(module.state_dict())
        return subject.call(other.eval(), inputs(), step_of())

    with torch.no_grad():
        same, half, back = (output(c) for c in (config.scaled(1.0), config.scaled(0.5), config.scaled(0.5).scaled(2.0)))
        plain = output(config)
    need_close(same, plain, 1e-6, "scaled(1.0) computes something else")
    need(not torch.equal(half, plain), "scaled(0.5) changes nothing: multiply each branch by the factor")
    need_close(back, plain, 1e-6, "scaled(0.5).scaled(2.0) is not the block: multiply by the factor, don't replace it")


def _branch(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_children()).get(name)


CHECKS = (norm_names, passes_reports_on, passes_state_on, both_branches_count, scales_its_branches)
