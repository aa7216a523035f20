"""What a token mixer owes beside what every block does: causality, padding, windows.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blockzoo.blocks import MixerConfig
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.inputs import BATCH, LENGTH, draw, inputs, padded_step, step_of
from blockzoo.testing.numerics import FEW_ULP
from blockzoo.testing.samples import kin_of, repositioned
from blockzoo.testing.subjects import BlockSubject

CACHED = 1e-5  # of the greatest value, float32: the order of sums may differ


def config_of(subject: BlockSubject) -> MixerConfig:
    assert isinstance(subject.config, MixerConfig)
    return subject.config


def full_pass(subject: BlockSubject, module: Any, x: Tensor) -> Tensor:
    return subject.call(module, x, step_of(*x.shape[:2]))


def causality(subject: BlockSubject) -> None:
    """No output depends on a later token, by value and by gradient."""
    module, x, cut = subject.build(), inputs(), LENGTH // 2
    changed = torch.cat([x[:, :cut], 5 * draw(*x[:, cut:].shape, seed=7)], dim=1)
    with torch.no_grad():
        before, after = (full_pass(subject, module, y)[:, :cut] for y in (x, changed))
    what = f"the outputs of tokens 0..{cut - 1} change with later tokens: mask what stands after the query"
    if config_of(subject).row_independent:
        need(torch.equal(before, after), f"{what} (bit for bit, as row_independent = True says)")
    need_close(after, before, FEW_ULP, what)
    for token in (0, cut, LENGTH - 2):
        seen = _seen_by(subject, module, token)
        later = [t for t in range(token + 1, LENGTH) if seen[t] > 0]
        need(not later, f"token {token} has a gradient from later tokens {later}: mask what stands after the query")


def _seen_by(subject: BlockSubject, module: Any, token: int) -> list[float]:
    """The greatest gradient from each token of the input to the output at ``token``."""
    x = inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(full_pass(subject, module, x)[:, token].square().sum(), x)
    return gradient.abs().amax(dim=(0, 2)).tolist()


def mixes(subject: BlockSubject) -> None:
    """The last token sees the first one that is within reach."""
    reach = config_of(subject).reach
    first = 0 if reach is None else max(0, LENGTH - reach)
    seen = _seen_by(subject, subject.build(), LENGTH - 1)
    need(seen[first] > 0, f"the last of {LENGTH} tokens does not see token {first}: it should, with a reach of {reach}")


def window(subject: BlockSubject) -> None:
    """A token of a mixer with a window sees just the last ``reach`` tokens, itself included."""
    reach = config_of(subject).reach
    if reach is None:
        raise CheckSkipped("declares no window: reach is None")
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = full_pass(subject, module, x)
        for t in range(LENGTH):
            first = max(0, t + 1 - reach)
            alone = subject.call(module, x[:, first : t + 1], step_of(length=t + 1 - first, start=first))[:, -1]
            need_close(
                alone,
                full[:, t],
                CACHED,
                f"token {t} differs from what it is when shown only its window, tokens {first}..{t} (reach {reach})",
            )


def padding(subject: BlockSubject) -> None:
    """Padding (position -1), left, right or between, changes no other token, whatever stands in it."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = full_pass(subject, module, x)
        for name, columns in (("left", range(3, LENGTH)), ("right", range(LENGTH - 3)), ("inner", [0, 1, 4, 5, 6, 9])):
            real = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
            real[0, list(columns)] = True
            real[1] = True
            for content in (0.0, 50.0):
                batch = torch.where(real[..., None], x, content)
                batch[0, list(columns)] = x[0, : len(list(columns))]
                y = subject.call(module, batch, padded_step(real))
                need(y.isfinite().all(), f"{name} padding gives NaN or infinity, which spreads in the next layer")
                what = f"{name} padding changes"
                need_close(y[0, list(columns)], full[0, : len(list(columns))], CACHED, f"{what} the row's other tokens")
                need_close(y[1], full[1], CACHED, f"{what} another row")


def position_shift(subject: BlockSubject) -> None:
    """Where declared, moving all positions by one distance changes nothing."""
    config, position = config_of(subject), subject.position
    if not config.shift_invariant:
        raise CheckSkipped("declares shift_invariant = False")
    if position is not None and not position.shift_invariant:
        raise CheckSkipped(f"{type(position).__name__} declares shift_invariant = False")
    module, x = subject.build(torch.float64), inputs(torch.float64)
    with torch.no_grad():
        here, there = (subject.call(module, x, step_of(start=start)) for start in (0, 17))
    what = "moving all positions by 17 changes the outputs: only differences should count"
    need_close(there, here, 1e-5, f"{what} (or say shift_invariant = False)")


HEEDED = {
    "rotating": "turn queries and keys by q, k = self.position.rotate(q, k, step)",
    "biasing": "add bias=self.position.bias(step.positions, keys.positions) to the call of attention, or to the scores",
}
"""What a mixer does with a position, by form."""


def position_counts(subject: BlockSubject) -> None:
    """Of each form of position that it takes, another one (another theta, other slopes) changes its outputs."""
    assert subject.position is not None
    form = subject.position.form
    if form == "none":
        raise CheckSkipped("takes no position: positions is {'none'}")
    alike = (one for one in kin_of(subject) if one.position == subject.position)
    need(
        _heeds_position(subject) or any(map(_heeds_position, alike)),
        f"takes positions of form '{form}', but any two of them give the same outputs, so it doesn't see the tokens'"
        f" order: {HEEDED[form]}; or take '{form}' out of `positions`",
    )


def _heeds_position(subject: BlockSubject) -> bool:
    """Whether its outputs, weights equal, are others with some other position of the same form."""
    with torch.no_grad():
        here = full_pass(subject, subject.build(), inputs())
        others = (full_pass(other, other.build(), inputs()) for other in repositioned(subject))
        return any(not torch.equal(here, there) for there in others)


CHECKS = (causality, mixes, window, padding, position_shift, position_counts)
