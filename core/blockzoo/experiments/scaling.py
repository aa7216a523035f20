"""Making the blocks of a loaded model larger or smaller, by what they say of their fields (``BlockConfig.scales``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from blockzoo.blocks import BlockConfig, Cost, QuantizableConfig, Scale, nested_kinds
from blockzoo.config.norms import norm_refusal
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import ConfigError, PluginError, Problem

Change = Callable[[Scale, int], int]
"""What a field's value becomes, by how it scales."""


def rescaled(config: ModelConfig, change: Change, d_model: int | None = None) -> ModelConfig:
    """A model whose scaled fields went through ``change``, in all layers and all blocks inside blocks.

    Raises ConfigError where a block refuses what comes out.
    """
    made: dict[int, Any] = {}  # equal layers are one object, and stay so

    def convert(part: Any) -> Any:
        if not isinstance(part, BaseModel):
            return part
        if id(part) not in made:
            wanted = {name: (value, change(scale, value)) for name, scale, value in scaled_fields(part)}
            changes: dict[str, Any] = {name: new for name, (old, new) in wanted.items() if new != old}
            for name in nested_kinds(type(part)):  # type: ignore[arg-type]  # sections refer to blocks the same way
                old = getattr(part, name)
                new = tuple(map(convert, old)) if isinstance(old, (list, tuple)) else convert(old)
                if new != old:
                    changes[name] = new
            made[id(part)] = _with(part, changes) if changes else part
        return made[id(part)]

    update = {"embedding": convert(config.embedding), "head": convert(config.head)}
    layers = tuple(convert(layer) for layer in config.layers)
    found = config.model_copy(update={**update, "layers": layers, "d_model": d_model or config.d_model})
    for complaint in complaints(found):
        raise ConfigError([Problem("", complaint)])
    return found


def scaled_fields(part: BaseModel) -> Iterator[tuple[str, Scale, int]]:
    """(field, how it scales, value) of one block, those at None left out. Raises PluginError for a wrong ``scales``."""
    if not isinstance(part, BlockConfig):
        return
    scales = type(part).scales
    if not isinstance(scales, Mapping):
        found = f"{type(part).__name__}.scales is a {type(scales).__name__}"
        raise PluginError(f"{found}: it must be a class variable that holds a mapping")
    for name, scale in scales.items():
        value = getattr(part, name) if name in type(part).model_fields else "no field"
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise PluginError(f"{type(part).__name__}.scales: '{name}' is {value}; only whole numbers scale")
        yield name, scale, value


def scaled_values(config: ModelConfig, scale: Scale) -> set[int]:
    """The values of all fields of a model that scale so."""
    return {value for part in parts_of(config) for _, way, value in scaled_fields(part) if way == scale}


def parts_of(config: ModelConfig) -> Iterator[BaseModel]:
    """Embedding, head, layers, and every block in them and in each other, each once."""
    seen: set[int] = set()
    pending: list[Any] = [config.embedding, config.head, *config.layers]
    while pending:
        part = pending.pop()
        if id(part) in seen or not isinstance(part, BaseModel):
            continue
        seen.add(id(part))
        yield part
        for name in nested_kinds(type(part)):  # type: ignore[arg-type]  # sections refer to blocks the same way
            inner = getattr(part, name)
            pending += inner if isinstance(inner, (list, tuple)) else [inner]


def complaints(config: ModelConfig) -> Iterator[str]:
    """What blocks say of a config that wasn't read from YAML: between fields, of dims, norms, positions, quantizers."""
    dims = config.dims
    for section, norm in (("embedding", config.embedding.norm), ("head", config.head.norm)):
        if norm is not None and (reason := norm.refuses(config.d_model)):
            yield f"{section}.norm: {reason}"
    for layer in {id(layer): layer for layer in config.layers}.values():
        for name in LayerConfig.model_fields:
            block = getattr(layer, name)
            if block is not None:
                yield from (f"{name}.{field}: {message}" for field, message in block.check(dims))
        if refusal := norm_refusal(layer, config.d_model):
            yield f"norm: {refusal}"
        if layer.mixer is not None:
            reasons = list(layer.mixer.check_position(dims, layer.position))
            yield from reasons
            if not reasons:
                yield from _unpackable(layer.mixer, layer.mixer.cost(dims, layer.position, 1))
        if layer.ffn is not None:
            yield from _unpackable(layer.ffn, layer.ffn.cost(dims))


def _unpackable(block: QuantizableConfig, cost: Cost) -> Iterator[str]:
    if block.quantizer is not None:
        refusals = (block.quantizer.refuses(p.shape) for p in cost.parameters.values() if p.packable)
        yield from (refusal for refusal in refusals if refusal)


def _with(part: BaseModel, changes: dict[str, Any]) -> BaseModel:
    """A copy with other values, validated; what wasn't said stays unsaid."""
    said = {name: getattr(part, name) for name in part.model_fields_set} | changes
    try:
        return type(part).model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ConfigError([Problem("", f"{place}: {first['msg']}")]) from error
