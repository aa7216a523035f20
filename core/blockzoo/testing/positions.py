"""What a position encoding owes beside what every block does.

Axes: B batch, T tokens, H heads, Dh head_dim, D d_model.
"""

from __future__ import annotations

from typing import Any

import torch

from blockzoo.blocks import AdditivePositionConfig, AttentionPositionConfig
from blockzoo.step import Step
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.inputs import BATCH, DIMS, HEAD_DIM, HEADS, LENGTH, draw, padded_step, step_of
from blockzoo.testing.subjects import BlockSubject

SHIFT = 17


def form(subject: BlockSubject) -> None:
    """It does what its form says: rotates queries and keys, biases scores, or adds vectors; shapes and dtypes kept."""
    module, config, step = subject.build(), subject.config, step_of()
    if isinstance(config, AdditivePositionConfig):
        y = module(step.positions)
        expected = (BATCH, LENGTH, DIMS.d_model)
        need(y.shape == expected, f"positions (B, T) give {tuple(y.shape)}, expected {expected}")
        return
    assert isinstance(config, AttentionPositionConfig)
    q, k = draw(BATCH, HEADS, LENGTH, HEAD_DIM), draw(BATCH, 2, LENGTH, HEAD_DIM, seed=1)
    turned, turned_k = module.rotate(q, k, step)
    need(turned.shape == q.shape and turned_k.shape == k.shape, "rotate must keep the shapes of q and k")
    bias = module.bias(step.positions, step.positions)
    if config.form != "rotating":
        need(torch.equal(turned, q) and torch.equal(turned_k, k), f"its form is {config.form}, but it rotates")
    else:
        need(not torch.equal(turned, q), "its form is rotating, but queries stay as they are")
    need((bias is not None) == (config.form == "biasing"), f"its form is {config.form}, but bias() says otherwise")
    if bias is not None:
        fits = bias.dtype == torch.float32 and bias.shape == (BATCH, HEADS, LENGTH, LENGTH)
        need(fits, f"bias() gives {bias.dtype} {tuple(bias.shape)}, expected float32 (B, H, T, S)")


def position_shift(subject: BlockSubject) -> None:
    """Where declared, attention sees only differences of positions."""
    config = subject.config
    if isinstance(config, AdditivePositionConfig):
        raise CheckSkipped("an additive position is absolute")
    assert isinstance(config, AttentionPositionConfig)
    if not config.shift_invariant:
        raise CheckSkipped("declares shift_invariant = False")
    module = subject.build(torch.float64)
    scores = []
    for start in (0, SHIFT):
        step = step_of(start=start)
        q, k = (draw(BATCH, HEADS, LENGTH, HEAD_DIM, seed=s, dtype=torch.float64) for s in (0, 1))
        q, k = module.rotate(q, k, step)
        bias = module.bias(step.positions, step.positions)
        scores.append(q @ k.transpose(-1, -2) + (0 if bias is None else bias))
    need_close(
        scores[1],
        scores[0],
        1e-5,
        f"scores change when all positions move by {SHIFT}: only differences should count"
        " (or say shift_invariant = False)",
    )


def chunks_agree(subject: BlockSubject) -> None:
    """A token gets the same whether its pass begins with it or earlier: nothing depends on the place in the pass."""
    module, half = subject.build(), LENGTH // 2
    later = step_of(length=LENGTH - half, start=half)
    if isinstance(subject.config, AdditivePositionConfig):
        need_close(module(later.positions), module(step_of().positions)[:, half:], 1e-6, "later chunks differ")
        return
    q = draw(BATCH, HEADS, LENGTH, HEAD_DIM)
    whole, _ = module.rotate(q, q, step_of())
    part, _ = module.rotate(q[:, :, half:], q[:, :, half:], later)
    need_close(part, whole[:, :, half:], 1e-6, "a chunk is rotated by its place in the pass, not by step.positions")
    positions = step_of().positions
    bias, later_bias = module.bias(positions, positions), module.bias(later.positions, positions)
    if bias is not None:
        need_close(later_bias, bias[:, :, half:], 1e-6, "a chunk's bias goes by its place in the pass")


def tables_are_its_own(subject: BlockSubject) -> None:
    """What it keeps in step.table is not taken for another config's or dtype's."""
    if isinstance(subject.config, AdditivePositionConfig):
        raise CheckSkipped("an additive position sees no Step")
    others = [sample for sample in type(subject.config).samples() if sample != subject.config]
    shared: Step = step_of()
    for config in (*others, subject.config):
        assert isinstance(config, AttentionPositionConfig)
        for dtype in (torch.float64, torch.float32):
            module: Any = config.build(HEAD_DIM, HEADS)
            q = draw(BATCH, HEADS, LENGTH, HEAD_DIM, dtype=dtype)
            found, alone = (module.rotate(q, q, step)[0] for step in (shared, step_of()))
            need(
                torch.equal(found, alone),
                "beside another sample in one pass it rotates differently: widen its table key",
            )


def padding(subject: BlockSubject) -> None:
    """Position -1 (padding) breaks nothing and leaves the other tokens alone."""
    module = subject.build()
    real = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    real[0, :4] = False
    step = padded_step(real)
    x = draw(BATCH, LENGTH, DIMS.d_model)
    if isinstance(subject.config, AdditivePositionConfig):
        y = module(step.positions)
        need_close(y[0, 4:], module(step_of().positions)[0, : LENGTH - 4], 1e-6, "padding moves the positions after it")
        return
    q = x.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
    turned, _ = module.rotate(q, q, step)
    alone, _ = module.rotate(q[:1, :, 4:], q[:1, :, 4:], step_of(batch=1, length=LENGTH - 4))
    need_close(turned[:1, :, 4:], alone, 1e-6, "padding changes the rotation of the tokens after it")


CHECKS = (form, position_shift, chunks_agree, tables_are_its_own, padding)
