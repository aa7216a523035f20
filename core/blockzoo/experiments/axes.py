"""The axes that arms may be equal on: exact numbers, known before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, get_args

from blockzoo.accounting import Account, account
from blockzoo.blocks import BlockConfig, nested_kinds
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.experiments.config import Axis

AXES: tuple[Axis, ...] = get_args(Axis)
BACKWARD = 3
"""Training FLOPs over forward FLOPs: the backward pass multiplies once for the inputs and once for the weights."""


def on_axis(account: Account, axis: Axis) -> int:
    """The number of one model on an axis that needs no recipe: all but training_flops."""
    match axis:
        case "non_embedding":
            return account.non_embedding
        case "flops_per_token":
            return account.flops_per_token
        case "kv_cache_bytes":
            return account.kv_cache_bytes()
        case "weight_bytes":
            return account.weight_bytes["as_configured"]
        case "total" | "active":
            return account.parameters[axis]
    raise ValueError(f"training FLOPs need a recipe: {axis}")


def number(config: ModelConfig, axis: Axis, *, context: int, block: int, tokens: int) -> int:
    """The number of a model on any axis; ``tokens`` trained on in sequences of ``block``."""
    if axis == "training_flops":
        return training_flops(config, block, tokens)
    return on_axis(account(config, context), axis)


def numbers(config: ModelConfig, *, context: int, block: int, tokens: int) -> dict[str, int]:
    """Axis -> number, all of them."""
    said = account(config, context)
    return {
        axis: training_flops(config, block, tokens) if axis == "training_flops" else on_axis(said, axis)
        for axis in AXES
    }


def training_flops(config: ModelConfig, block: int, tokens: int) -> int:
    """3 x the forward FLOPs of a token, averaged over the block's positions, x tokens; rounded down."""
    return BACKWARD * block_flops(config, block) * tokens // block


def block_flops(config: ModelConfig, block: int) -> int:
    """Forward FLOPs of all tokens of one sequence of ``block``: the first looks back on one token, the last on all.

    Everything but a mixer costs the same at every position.
    """
    total = account(config, 1).flops_per_token * block
    extra: dict[int, int] = {}  # equal layers are one object after loading
    for layer in config.layers:
        mixer = layer.mixer
        if mixer is None:
            continue
        if id(layer) not in extra:
            flops = partial(_mixer_flops, config, layer)
            extra[id(layer)] = _sum(flops, 1, block) - flops(1) * block
        total += extra[id(layer)]
    return total


def _mixer_flops(config: ModelConfig, layer: LayerConfig, context: int) -> int:
    assert layer.mixer is not None
    return layer.mixer.cost(config.dims, layer.position, context).flops


def _sum(flops: Callable[[int], int], low: int, high: int) -> int:
    """The sum over all contexts from low to high. FLOPs are lines with kinks (a window): a line is summed at once,
    where both ends, their neighbours and the middle lie on it."""
    if high - low < 4:
        return sum(map(flops, range(low, high + 1)))
    first, last, middle = flops(low), flops(high), (low + high) // 2
    slope = flops(low + 1) - first
    straight = slope == last - flops(high - 1) and last - first == slope * (high - low)
    if straight and flops(middle) - first == slope * (middle - low):
        return (first + last) * (high - low + 1) // 2
    return _sum(flops, low, middle) + _sum(flops, middle + 1, high)


def shape_of(model: ModelConfig) -> dict[str, Any]:
    """n_layers, d_model, aspect_ratio, and n_heads, d_ff and n_experts: None where layers differ or have none."""
    return {
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "aspect_ratio": round(model.d_model / model.n_layers, 2),
        "n_heads": only_value(model, "mixer", "n_heads"),
        "d_ff": only_value(model, "ffn", "d_ff"),
        "n_experts": only_value(model, "ffn", "n_experts"),
    }


def only_value(model: ModelConfig, slot: str, name: str) -> int | None:
    """The option of that name of a slot's block or of a block inside it; None where layers differ or have none."""
    layers = {id(layer): layer for layer in model.layers}.values()
    found = {next(_options(getattr(layer, slot), name), None) for layer in layers}
    return found.pop() if len(found) == 1 else None


def _options(block: BlockConfig | None, name: str) -> Iterator[int]:
    """Of a block, then of those inside it."""
    if not isinstance(block, BlockConfig):
        return
    if name in type(block).model_fields and isinstance(value := getattr(block, name), int):
        yield value
    for field in nested_kinds(type(block)):
        yield from _options(getattr(block, field), name)
