"""What a model costs, exact and without building it: parameters, bytes, cache, FLOPs.

Names are those of the state dict of the model with no quantizer applied. FLOPs count a forward pass of one token
decoded at a context, two for each multiply-add of a matrix product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from blockzoo.blocks import Cost, Parameter, QuantizerConfig, Role, linear_cost
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.faults import asked

GROUPS = ("embedding", "unembedding", "mixer", "ffn", "other")


@dataclass(frozen=True)
class Account:
    """The account of one model at one context."""

    config: ModelConfig
    context: int
    cost: Cost

    @property
    def parameters(self) -> dict[str, int]:
        """total, active, and total by group. Tied weights count once, as embedding; active leaves out the embedding
        lookup and counts the unembedding, tied or not."""
        groups: Counter[str] = Counter(dict.fromkeys(GROUPS, 0))
        active = 0
        for name, parameter in self.cost.parameters.items():
            groups[group_of(name)] += parameter.numel
            if parameter.role is not Role.EMBEDDING:
                active += parameter.active_numel
        if self.config.embedding.tied:
            active += self.config.vocab_size * self.config.d_model
        return {"total": sum(groups.values()), "active": active, **{group: groups[group] for group in GROUPS}}

    @property
    def non_embedding(self) -> int:
        """Parameters outside embedding and unembedding."""
        parameters = self.parameters
        return parameters["total"] - parameters["embedding"] - parameters["unembedding"]

    @property
    def weight_bytes(self) -> dict[str, int]:
        """Bytes of all weights in one dtype, and as configured: packed where a quantizer is, bfloat16 elsewhere."""
        total = self.parameters["total"]
        buffers = sum(buffer.numel for buffer in self.cost.buffers.values())
        plain = {str(d).removeprefix("torch."): (total + buffers) * d.itemsize for d in (torch.float32, torch.bfloat16)}
        configured = sum(
            sum(tensor.nbytes(torch.bfloat16) for tensor in quantizer.tensors(parameter.shape).values())
            if (quantizer := quantizer_of(self.config, name, parameter))
            else parameter.numel * torch.bfloat16.itemsize
            for name, parameter in self.cost.parameters.items()
        )
        return {**plain, "as_configured": configured + buffers * torch.bfloat16.itemsize}

    def kv_cache_bytes(self, dtype: torch.dtype = torch.bfloat16) -> int:
        """What one sequence of ``context`` tokens keeps."""
        return sum(tensor.nbytes(dtype) for tensor in self.cost.cache)

    @property
    def flops_per_token(self) -> int:
        return self.cost.flops


def account(config: ModelConfig, context: int | None = None) -> Account:
    """The account of a model; ``context`` defaults to its context_length."""
    context = config.context_length if context is None else context
    parts = list(_parts(config, context))
    total = Cost(  # in one go: adding up thousands of layers one by one would copy all names each time
        {name: parameter for part in parts for name, parameter in part.parameters.items()},
        sum(part.flops for part in parts),
        tuple(tensor for part in parts for tensor in part.cache),
        {name: buffer for part in parts for name, buffer in part.buffers.items()},
    )
    return Account(config, context, total)


def parameters_of(config: ModelConfig) -> dict[str, Parameter]:
    """Every parameter by its name in the state dict: shape, role, init."""
    return dict(account(config, context=1).cost.parameters)


def group_of(name: str) -> str:
    """The group that a parameter is counted under."""
    parts = name.split(".")
    if parts[0] == "embedding" and parts[1] in ("tokens", "position"):
        return "embedding"
    if parts[:2] == ["head", "unembedding"]:
        return "unembedding"
    if parts[0] == "layers" and parts[2] in ("mixer", "ffn"):
        return parts[2]
    return "other"


def quantizer_of(config: ModelConfig, name: str, parameter: Parameter) -> QuantizerConfig | None:
    """The quantizer of this parameter: of matrices in a quantized mixer or ffn, of embedding and head where asked."""
    parts = name.split(".")
    if parts[0] == "layers" and parameter.packable:
        layer = config.layers[int(parts[1])]
        block = {"mixer": layer.mixer, "ffn": layer.ffn}.get(parts[2])
        return block.quantizer if block is not None else None
    if name == "embedding.tokens.weight":
        return config.embedding.quantizer
    if name == "head.unembedding.weight":
        return config.head.quantizer
    return None


def layer_cost(config: ModelConfig, layer: LayerConfig, context: int, place: str = "layer") -> Cost:
    """The cost of one layer, names relative to it. ``place``: what messages call the layer."""
    dims = config.dims
    branches = layer.mixer is not None, layer.ffn is not None
    cost = asked(f"{place}.residual", layer.residual.cost, dims, *branches)
    for name in layer.residual.norms(*branches):
        cost += asked(f"{place}.{name}", layer.norm.cost, config.d_model).under(name)
    if layer.mixer is not None:
        cost += asked(f"{place}.mixer", layer.mixer.cost, dims, layer.position, context).under("mixer")
    if layer.ffn is not None:
        cost += asked(f"{place}.ffn", layer.ffn.cost, dims).under("ffn")
    return cost


def _parts(config: ModelConfig, context: int) -> Iterator[Cost]:
    yield Cost({"embedding.tokens.weight": Parameter((config.vocab_size, config.d_model), Role.EMBEDDING)})
    if config.embedding.position is not None:
        place = "embedding.position"
        yield asked(place, config.embedding.position.cost, config.dims).under(place)
    if config.embedding.norm is not None:
        yield asked("embedding.norm", config.embedding.norm.cost, config.d_model).under("embedding.norm")
    costs: dict[int, Cost] = {}  # equal layers are one object after expansion
    for index, layer in enumerate(config.layers):
        if id(layer) not in costs:
            costs[id(layer)] = layer_cost(config, layer, context, f"layers.{index}")
        yield costs[id(layer)].under(f"layers.{index}")
    if config.head.norm is not None:
        yield asked("head.norm", config.head.norm.cost, config.d_model).under("head.norm")
    if config.embedding.tied:
        yield Cost(flops=2 * config.vocab_size * config.d_model)
    else:
        head = linear_cost(config.d_model, config.vocab_size, bias=False, role=Role.OUTPUT)
        yield head.under("head.unembedding")
    if config.head.bias:
        yield Cost({"head.bias": Parameter((config.vocab_size,), Role.BIAS)})
