"""What each part of a model takes: its weights as they are stored, its cache, its activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from blockzoo.accounting import account, layer_cost, quantizer_of
from blockzoo.blocks import Cost, Parameter, QuantizerConfig
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import ConfigError, InputError, Problem
from blockzoo.kernels import Call, Capabilities, Kernel, ask
from blockzoo.linear import EXPERT_LINEAR, LINEAR

RESIDUAL_VECTORS = 4
UNPACKING = 16
"""Bytes a weight while a packed matrix is unpacked: indices, table entries and products in float32, the result."""
TABLE = "embedding.tokens.weight"
MAPPED_PIECE = 64 * 2**10
"""What Linux maps around a row that is looked up in a mapped file."""


@dataclass(frozen=True)
class Use:
    """How a model is to be run: what the bytes follow from.

    ``prompt``: tokens that go through the model at once. ``map_embedding``: rows of the embedding table are looked up
    in a mapped file. ``read_whole``: bytes of the largest tensor that loading reads before it goes into its place.
    ``kernels``: those that are there, by op: a packed matrix that one of them reads as it lies is never unpacked.
    """

    config: ModelConfig
    context: int
    batch: int = 1
    prompt: int = 512
    dtype: torch.dtype = torch.bfloat16
    map_embedding: bool = False
    read_whole: int = 0
    kernels: Mapping[str, Sequence[Kernel]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.context <= self.config.context_length:
            raise InputError(
                f"context {self.context} is outside 1..{self.config.context_length}, what '{self.config.name}' can take"
            )
        if self.batch < 1:
            raise InputError(f"batch {self.batch}: must be at least 1")
        if self.prompt < 1:
            raise InputError(f"prompt {self.prompt}: must be at least 1")
        if self.map_embedding:
            check_mapped_table(self.config)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Embedding, layers and head, in their order."""
        return tuple(_parts(self))


def check_mapped_table(config: ModelConfig) -> None:
    """Raise InputError where mapping the embedding table alone is pointless."""
    if config.embedding.tied:
        raise InputError(
            f"the embedding of '{config.name}' is its unembedding too, which is read whole for every token:"
            " mapping it saves nothing"
        )


@dataclass(frozen=True)
class Part:
    """What goes to one device as a whole. ``weights``: bytes by storage (``bfloat16``, ``mxfp4``); ``shared``: those of
    the embedding that it uses too, where it is the tied unembedding.
    """

    name: str
    weights: Mapping[str, int]
    cache: int
    activations: int
    shared: Mapping[str, int] = field(default_factory=dict)


def stored_bytes(config: ModelConfig, dtype: torch.dtype) -> dict[str, tuple[str, int]]:
    """Of each parameter and buffer: how it is stored, and its bytes. Raises ConfigError where a quantizer refuses."""
    cost = account(config, context=1).cost
    found: dict[str, tuple[str, int]] = {}
    problems: dict[str, Problem] = {}
    floats = str(dtype).removeprefix("torch.")
    for name, parameter in cost.parameters.items():
        quantizer = quantizer_of(config, name, parameter)
        if quantizer is None:
            found[name] = floats, parameter.numel * dtype.itemsize
            continue
        if refusal := quantizer.refuses(parameter.shape):
            problems.setdefault(refusal, Problem(name, refusal))
        tensors = quantizer.tensors(parameter.shape).values()
        found[name] = quantizer.registered.rpartition(":")[2], sum(tensor.nbytes(dtype) for tensor in tensors)
    if problems:
        raise ConfigError(list(problems.values()))
    found.update({name: (floats, buffer.numel * dtype.itemsize) for name, buffer in cost.buffers.items()})
    return found


def _parts(use: Use) -> Iterator[Part]:
    config, itemsize = use.config, use.dtype.itemsize
    rows = use.batch * min(use.prompt, use.context)
    every = stored_bytes(config, use.dtype)
    table = every[TABLE]
    if use.map_embedding:
        every[TABLE] = "mapped", min(table[1], use.batch * use.context * MAPPED_PIECE)
    stored: dict[str, Counter[str]] = {}
    for name, (storage, nbytes) in every.items():
        stored.setdefault(_part_of(name), Counter())[storage] += nbytes
    vectors = RESIDUAL_VECTORS * config.d_model * rows * itemsize
    yield Part("embedding", stored.get("embedding", {}), 0, vectors)
    made: dict[int, tuple[int, int]] = {}  # equal layers are one object
    for index, layer in enumerate(config.layers):
        if id(layer) not in made:
            cost = layer_cost(config, layer, use.context)
            cache = use.batch * sum(tensor.nbytes(use.dtype) for tensor in cost.cache)
            made[id(layer)] = cache, vectors + _branches(use, cost, layer, rows)
        yield Part(f"layers.{index}", stored.get(f"layers.{index}", {}), *made[id(layer)])
    logits = use.batch * config.vocab_size * (itemsize + torch.float32.itemsize)
    shared = dict([table]) if config.embedding.tied else {}
    yield Part("head", stored.get("head", {}), 0, logits, shared)


def _part_of(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def _branches(use: Use, cost: Cost, layer: LayerConfig, rows: int) -> int:
    """Bytes of what the widest branch's matrices read and write for ``rows`` tokens, of what is arranged anew for the
    product that takes packed weights as they are, and of the largest unpacking.
    """
    widest = 0
    for branch, block in (("mixer", layer.mixer), ("ffn", layer.ffn)):
        matrices = [p for name, p in cost.parameters.items() if name.startswith(f"{branch}.") and p.packable]
        quantizer = None if block is None else block.quantizer
        packed = [p for p in matrices if quantizer and _read_packed(use, quantizer, p)]
        unpacked = [p.shape[-1] * p.shape[-2] for p in matrices if quantizer and p not in packed]
        arranged = [p.active_numel // p.shape[-2] for p in packed]
        values = sum(map(_traffic, matrices)) + max(arranged, default=0)
        widest = max(widest, values * rows * use.dtype.itemsize + max(unpacked, default=0) * UNPACKING)
    return widest


def _read_packed(use: Use, quantizer: QuantizerConfig, matrix: Parameter) -> bool:
    """Whether a kernel of prompts multiplies by this matrix as it is packed, on a CPU."""
    op = LINEAR if len(matrix.shape) == 2 else EXPERT_LINEAR
    call = Call(op.name, "prefill", use.dtype, {"quantizer": quantizer, "shape": tuple(matrix.shape)})
    cpu = Capabilities.of(torch.device("cpu"))
    return any(ask(kernel, cpu, call).ok for kernel in use.kernels.get(op.name, ()) if kernel.priority > 0)


def _traffic(matrix: Parameter) -> int:
    """Values that a matrix reads and writes for one token; of stacked experts, those that the token takes."""
    d_out, d_in = matrix.shape[-2:]
    return matrix.active_numel // (d_out * d_in) * (d_out + d_in)
