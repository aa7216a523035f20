"""What a quantizer owes: bytes as claimed, the nearest representable weight, rows by themselves.

Axes: E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.blocks import QuantizerConfig
from blockzoo.linear import StoredLinear, expert_linear_reference, linear_reference
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.houses import WIDTH, times_wider
from blockzoo.testing.inputs import draw
from blockzoo.testing.subjects import BlockSubject

WIDE = 2**13
"""Times a row of the weights tried, where bytes that a row's end is padded by no longer count."""
PADDING = 256
"""Bits of a row that may be such."""
REFUSED = (1, 3, 16, 32, 48, 64, 100, 128)
"""Widths that some quantizer refuses."""


def config_of(subject: BlockSubject) -> QuantizerConfig:
    assert isinstance(subject.config, QuantizerConfig)
    return subject.config


def refusal(config: QuantizerConfig, shape: tuple[int, ...]) -> str | None:
    """What refuses() says of a shape, once it is a sentence or None."""
    reason = config.refuses(shape)
    if reason is not None:
        sentence = isinstance(reason, str) and bool(reason.strip())
        need(sentence, f"refuses({shape}) gives {reason!r}, not a sentence that says why, or None")
    return reason


def weights_of(config: QuantizerConfig) -> list[Tensor]:
    """Weights of every shape that it takes: normal, of unequal rows, with outliers."""
    width = WIDTH * times_wider(config)
    tried = ((16, 2 * width), (3, 8, 4 * width))
    shapes = [shape for shape in tried if refusal(config, shape) is None]
    need(shapes, f"refuses all of {tried}: {refusal(config, tried[0])}")
    found = []
    for shape in shapes:
        weight = draw(*shape) * 0.02
        outliers = torch.where(draw(*shape, seed=1) > 2.5, 50.0, 1.0)
        found += [weight, weight * torch.logspace(-6, 4, shape[-2])[:, None], weight * outliers]
    return found


def of_one_sign(config: QuantizerConfig) -> Iterator[Tensor]:
    """Weights from 1 to 2, from -2 to -1, and all equal: a range that doesn't reach to 0 gives a zero point that no
    code has.
    """
    width = 2 * WIDTH * times_wider(config)
    weight = 1 + torch.rand(16, width, generator=torch.Generator().manual_seed(4))
    for one in (weight, -weight, torch.full_like(weight, 5.0), torch.full_like(weight, -5.0)):
        if refusal(config, tuple(one.shape)) is None:
            yield one


def packed_rows(config: QuantizerConfig, weight: Tensor) -> dict[str, Tensor]:
    """The packed tensors, once each has the weight's axes before the inputs: experts and rows, in the same places."""
    packed = config.pack(weight)
    for name, tensor in packed.items():
        for axis, what in zip(range(weight.dim() - 2, -1, -1), ("row", "expert"), strict=False):
            found, owed = sum(tensor.shape[axis : axis + 1]), weight.shape[axis]  # 0 where it lacks the axis
            need(
                found == owed,
                f"'{name}' has {found} {what}{'s'[: found != 1]} for {owed} {what}s of the weight: {what}s are packed"
                f" independently, repeat what {what}s share",
            )
    return packed


def need_rows_apart(config: QuantizerConfig) -> None:
    """That of every weight tried; a model would fail by an index of its own."""
    for weight in weights_of(config):
        packed_rows(config, weight)


def come_back(config: QuantizerConfig, weight: Tensor) -> Tensor:
    return config.unpack(config.pack(weight), torch.float32)


def exact_on_its_own_values(subject: BlockSubject) -> None:
    """What was unpacked once packs and unpacks to itself, bit for bit, small weights too."""
    config = config_of(subject)
    weights = weights_of(config)
    for weight in (*weights, _small(weights[0]), *of_unequal_groups(config)):
        once = come_back(config, weight)
        twice = come_back(config, once)
        for place in (once != twice).nonzero()[:1]:
            *_, row, column = place.tolist()
            pair = f"{float(once[tuple(place)]):g} becomes {float(twice[tuple(place)]):g}"
            need(False, f"a weight that it can represent does not come back: {pair} (row {row}, input {column})")


def _small(weight: Tensor) -> Tensor:
    """Rows of which each is twice the one before, or so: 2^-24 (float16's smallest number) times up to 2^17, where a
    scale of float16 has few bits.
    """
    sizes = torch.logspace(-24, -7, len(weight), base=2)[:, None]
    return weight / weight.abs().amax(dim=-1, keepdim=True) * sizes


def of_unequal_groups(config: QuantizerConfig) -> Iterator[Tensor]:
    """Wide rows in which each run of weights is of a size of its own, over four orders of magnitude: where scales of
    groups are quantized themselves, those of small groups have few bits.
    """
    for run in (16, WIDTH * times_wider(config)):
        shape = (64, 16 * WIDTH * times_wider(config))
        if refusal(config, shape) is None:
            sizes = 10 ** (4 * torch.rand(64, shape[1] // run, generator=torch.Generator().manual_seed(2)) - 4)
            yield draw(*shape, seed=3) * sizes.repeat_interleave(run, dim=-1)


def error_bound(subject: BlockSubject) -> None:
    """No weight is further off than the format's bound, in groups of one sign or of equal weights too."""
    config = config_of(subject)
    for weight in (*weights_of(config), *of_one_sign(config)):
        bound = config.error_bound(weight)
        if bound is None:
            raise CheckSkipped("promises no error_bound")
        off = (come_back(config, weight) - weight).abs()
        excess = (off - bound * (1 + 1e-5)).flatten()
        worst = int(excess.argmax())
        found, allowed, value = (float(t.flatten()[worst]) for t in (off, bound, weight))
        need(excess[worst] <= 0, f"a weight of {value:g} is off by {found:.2g}, the format's bound is {allowed:.2g}")


def precision(subject: BlockSubject) -> None:
    """On normal weights the error is no greater than its error_bound, or else so many bits, allow."""
    config = config_of(subject)
    weight = weights_of(config)[0]
    error, bound = float((come_back(config, weight) - weight).norm() / weight.norm()), config.error_bound(weight)
    if bound is None:
        allowed, by = 4 * 2.0**-config.weight_bits, f"for {config.weight_bits:g} bits"
        hint = ": bits of scales cost as much as bits of codes, exponents as mantissas; say the format's error_bound"
    else:
        allowed, by, hint = min(float(bound.norm() / weight.norm()), 1.0), "by its error_bound", ""
    # a bound may be the error itself: norms of the two are rounded apart
    need(error <= allowed * (1 + 1e-4), f"normal weights are {error:.1%} off, {by} at most {allowed:.1%}{hint}")


def packed_size(subject: BlockSubject) -> None:
    """pack() gives the tensors that tensors() says, and in wide rows they take weight_bits a weight."""
    config = config_of(subject)
    for weight in weights_of(config):
        packed, said = packed_rows(config, weight), config.tensors(tuple(weight.shape))
        need(packed.keys() == said.keys(), f"pack() gives {sorted(packed)}, tensors() says {sorted(said)}")
        for name, tensor in packed.items():
            found, expected = (tensor.dtype, tuple(tensor.shape)), (said[name].dtype, said[name].shape)
            need(found == expected, f"pack() gives '{name}' as {found}, tensors() says {expected}")
    bits, width = _bits_of_wide_rows(config, tuple(weights_of(config)[0].shape))
    need(
        abs(bits - config.weight_bits) <= 1e-6 * bits + PADDING / width,
        f"takes {bits:g} bits a weight in rows of {width} inputs, weight_bits says {config.weight_bits:g}: what each"
        " row has once counts in tensors() alone",
    )


def _bits_of_wide_rows(config: QuantizerConfig, shape: tuple[int, ...]) -> tuple[float, int]:
    """Storage for a weight as rows grow, and their width: of this and twice as wide ones, what is the same for both is
    each row's own.
    """

    def bits(shape: tuple[int, ...]) -> float:
        tensors = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in config.tensors(shape).values()]
        return 8 * sum(tensor.nbytes for tensor in tensors) / prod(shape)

    for times in (WIDE, 1):
        wide, wider = ((*shape[:-1], n * times * shape[-1]) for n in (1, 2))
        if refusal(config, wide) is None and refusal(config, wider) is None:
            return 2 * bits(wider) - bits(wide), wider[-1]
    return bits(shape), shape[-1]


def matrix_products(subject: BlockSubject) -> None:
    """A product with the packed weight equals one with the unpacked, for linears and experts."""
    config = config_of(subject)
    for weight in weights_of(config):
        packed, plain = packed_rows(config, weight), come_back(config, weight)
        x = draw(6, weight.shape[-1])
        if weight.dim() == 2:
            stored = StoredLinear(tuple(weight.shape), None, config)
            stored.set_canonical(packed)
            expected = F.linear(x, plain)
            need_close(linear_reference(packed, x, None, quantizer=config), expected, 1e-6, "packed product differs")
            need_close(stored(x), expected, 1e-6, "a stored linear differs from the unpacked weight")
        else:
            counts = [1, 0, 5]
            found = expert_linear_reference(packed, x, None, counts, quantizer=config)
            parts = zip(x.split(counts), plain, strict=True)
            expected = torch.cat([F.linear(rows, one) for rows, one in parts])
            need_close(found, expected, 1e-6, "one expert's packed weight differs from its part of the whole")


def rows_alone(subject: BlockSubject) -> None:
    """Rows are packed independently: some of them pack and unpack to the same bytes as in the whole."""
    config = config_of(subject)
    rows = torch.tensor([5, 0, 5])
    for weight in weights_of(config):
        if weight.dim() == 2:
            whole, some = packed_rows(config, weight), packed_rows(config, weight[rows])
            for name, tensor in whole.items():
                need(torch.equal(tensor[rows], some[name]), f"'{name}' of a row depends on the other rows")
            picked = config.unpack({name: tensor[rows] for name, tensor in whole.items()}, torch.float32)
            need(torch.equal(picked, come_back(config, weight)[rows]), "rows picked while packed unpack differently")


def unpacks_to_any_dtype(subject: BlockSubject) -> None:
    """unpack() gives the dtype asked for: float32's values, rounded."""
    config = config_of(subject)
    packed = config.pack(weights_of(config)[0])
    wide = config.unpack(packed, torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        found = config.unpack(packed, dtype)
        need(found.dtype == dtype, f"unpack(..., {dtype}) gives {found.dtype}")
        need(torch.equal(found, wide.to(dtype)), f"unpack(..., {dtype}) differs from float32's values in that dtype")


def pack_takes_any_dtype(subject: BlockSubject) -> None:
    """pack() takes bfloat16 masters and leaves them as they were."""
    config = config_of(subject)
    weight = weights_of(config)[0].to(torch.bfloat16)
    before = weight.clone()
    narrow, wide = config.pack(weight), config.pack(weight.float())
    need(torch.equal(weight, before), "pack() changes the weight that it is given")
    for name, tensor in narrow.items():
        need(torch.equal(tensor, wide[name]), f"'{name}' differs between a bfloat16 weight and the same in float32")


def refusals(subject: BlockSubject) -> None:
    """A shape it says nothing against packs; a refusal is a sentence."""
    config = config_of(subject)
    for width in (*REFUSED, WIDTH * times_wider(config)):
        reason = refusal(config, (4, width))
        if reason is None:
            try:
                come_back(config, draw(4, width))
            except Exception as error:
                need(False, f"refuses() has nothing against (4, {width}), but packing it fails: {error}")


CHECKS = (
    rows_alone,  # first: what mixes rows fails the others too
    exact_on_its_own_values,
    error_bound,
    precision,
    packed_size,
    matrix_products,
    unpacks_to_any_dtype,
    pack_takes_any_dtype,
    refusals,
)
