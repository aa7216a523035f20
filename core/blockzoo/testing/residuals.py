"""What a residual owes beside what every block does: it runs both branches and passes on what they report."""

from __future__ import annotations

import torch
from torch import nn

from blockzoo.blocks import ResidualConfig
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.subjects import BATCH, DIMS, LENGTH, BlockSubject, inputs, step_of
from blockzoo.testing.toys import ToyMixer


def norm_names(subject: BlockSubject) -> None:
    """The norms it makes are those that norms() names."""
    assert isinstance(subject.config, ResidualConfig)
    module = subject.build()
    has = (_branch(module, "mixer") is not None, _branch(module, "ffn") is not None)
    own = set(subject.config.cost(DIMS).parameters)
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


def _branch(module: nn.Module, name: str) -> nn.Module | None:
    return dict(module.named_children()).get(name)


CHECKS = (norm_names, passes_reports_on, passes_state_on, both_branches_count)
