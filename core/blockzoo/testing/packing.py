"""What packed bytes show of a quantizer: whether each group has a scale of its own, and two of them apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blockzoo.blocks import QuantizerConfig
from blockzoo.testing.check import CheckSkipped, need
from blockzoo.testing.edges import MOST, TINY
from blockzoo.testing.houses import WIDTH, times_wider
from blockzoo.testing.inputs import draw
from blockzoo.testing.quantizers import REFUSED, config_of, of_unequal_groups, refusal, weights_of
from blockzoo.testing.subjects import BlockSubject

SIZES = (1.0, 1e-3, 1e-6, 1e-12)
"""Of the groups of a row: floats of eight bits alone don't reach from the first to the last."""


def groups_alone(subject: BlockSubject) -> None:
    """Where a row's groups have a number each, small weights beside large ones in a row keep their precision by it."""
    config = config_of(subject)
    run = WIDTH * times_wider(config)  # whole groups
    if refusal(config, (8, len(SIZES) * run)) is not None:
        raise CheckSkipped(f"refuses rows of {len(SIZES) * run} weights")
    weight = draw(8, len(SIZES) * run) * torch.tensor(SIZES).repeat_interleave(run)
    packed = config.pack(weight)
    off = config.unpack(packed, torch.float32) - weight
    norms, errors = (tensor.unflatten(-1, (-1, run)).norm(dim=(0, 2)) for tensor in (weight, off))
    large, small = (errors / norms).tolist()[:: len(SIZES) - 1]
    other = config.pack(3 * weight)
    for name, tensor in packed.items():
        constant = _bytes_of(tensor) == _bytes_of(other[name])  # found from no weight, as a format's zero point may be
        need(
            small <= 1.5 * large or constant or not _same_along_rows(tensor),
            f"'{name}' holds one number {tensor[0].numel()} times in a row, whatever its groups are: weights near"
            f" {SIZES[-1]:g} beside others near 1 come back {small:.0%} off: find each group's number from that group",
        )


def _same_along_rows(tensor: Tensor) -> bool:
    """Whether each row (the first axis) has several numbers that are all one."""
    rows = tensor.flatten(1)
    return rows.shape[1] > 1 and _bytes_of(rows) == _bytes_of(rows[:, :1].expand_as(rows))


def pack_alike(one: QuantizerConfig, other: QuantizerConfig) -> bool:
    """Whether two quantizers refuse, store and give back the same of all weights tried, byte by byte."""
    if one.weight_bits != other.weight_bits:
        return False
    if any((refusal(one, (4, width)) is None) != (refusal(other, (4, width)) is None) for width in REFUSED):
        return False
    return all(_shown(one, weight) == _shown(other, weight) for weight in _weights(one))


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _weights(config: QuantizerConfig) -> Iterator[Tensor]:
    """Those that the other checks pack, and some at the edges of float32."""
    weights = weights_of(config)
    yield from weights
    yield from of_unequal_groups(config)
    plain = weights[0] / weights[0].abs().max()
    for size in (0.0, MOST, *TINY):
        yield plain * size


def _shown(config: QuantizerConfig, weight: Tensor) -> object:
    """What becomes of a weight: that it is refused, or what is stored and what comes back."""
    shape = tuple(weight.shape)
    if refusal(config, shape) is not None:
        return "refused"
    said = {name: (tensor.shape, tensor.dtype) for name, tensor in config.tensors(shape).items()}
    try:
        packed = config.pack(weight)
    except ValueError:
        return said
    stored = {name: _bytes_of(tensor) for name, tensor in packed.items()}
    return said, stored, _bytes_of(config.unpack(packed, torch.float32))


CHECKS = (groups_alone,)
