"""What memory a model needs and where it goes: weights, cache, activations, loading, runtime; on one device or several.

Weights and cache are exact: the sums of the account's tensors. The rest is said by formula:

- activations: for each token of a pass 4 vectors of d_model (the residual stream, a norm's output, a branch's input and
  output), and what the matrices of the widest branch read and write (of a mixture: those of the experts that a token
  takes); the unpacking of that branch's largest packed matrix, or expert's matrix, which a prompt needs. At the head
  instead the logits of the last position, in the dtype and in float32;
- loading: what is read whole before it goes into its place, beside all weights; on a device other than the
  host it lies in the host's memory and isn't counted. Loading is over before cache and activations come: the larger of
  the two counts;
- runtime: measured, see ``HOST_RUNTIME``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from blockzoo.accounting import account, layer_cost, quantizer_of
from blockzoo.blocks import Cost, Parameter, QuantizerConfig
from blockzoo.config.schema import EmbeddingConfig, HeadConfig, LayerConfig, ModelConfig
from blockzoo.errors import ConfigError, InputError, Problem
from blockzoo.kernels import Call, Capabilities, Kernel, ask
from blockzoo.linear import EXPERT_LINEAR, LINEAR

HOST_RUNTIME = 275 * 10**6
"""Resident bytes of Python with torch, blockzoo and its plugins after a first forward: torch 2.13, Linux x86-64."""
DEVICE_RUNTIME = 600 * 10**6
"""Bytes that a CUDA context and its libraries' workspaces take on a device; by their makers' word, not measured."""
RESIDUAL_VECTORS = 4
UNPACKING = 16
"""Bytes a weight while a packed matrix is unpacked: indices, table entries and products in float32, the result."""
PACKABLE = ("mixer", "ffn", "embedding", "head")
"""What a quantizer can be asked for by name."""
TABLE = "embedding.tokens.weight"
MAPPED_PIECE = 64 * 2**10
"""What Linux maps around a row that is looked up in a mapped file."""


@dataclass(frozen=True)
class Device:
    """A place for layers. ``host``: its memory is also the process's own."""

    name: str
    memory: int
    host: bool = True

    @property
    def runtime(self) -> int:
        return HOST_RUNTIME if self.host else DEVICE_RUNTIME


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


@dataclass(frozen=True)
class Share:
    """What one device holds."""

    device: Device
    parts: tuple[str, ...]
    weights: Mapping[str, int] = field(default_factory=dict)
    cache: int = 0
    activations: int = 0
    loading: int = 0

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        held = sum(self.weights.values())
        return self.device.runtime + held + max(self.loading, self.cache + self.activations)

    @property
    def free(self) -> int:
        """Bytes left over; below 0 what is lacking."""
        return self.device.memory - self.total


# --- what a model takes -----------------------------------------------------------------------------------------------


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
    """Bytes of what the widest branch's matrices read and write for ``rows`` tokens, and of its largest unpacking."""
    widest = 0
    for branch, block in (("mixer", layer.mixer), ("ffn", layer.ffn)):
        matrices = [p for name, p in cost.parameters.items() if name.startswith(f"{branch}.") and p.packable]
        quantizer = None if block is None else block.quantizer
        unpacked = [p.shape[-1] * p.shape[-2] for p in matrices if quantizer and not _read_packed(use, quantizer, p)]
        traffic = sum(map(_traffic, matrices)) * rows * use.dtype.itemsize
        widest = max(widest, traffic + max(unpacked, default=0) * UNPACKING)
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


# --- where it goes ----------------------------------------------------------------------------------------------------


def split(use: Use, devices: Sequence[Device]) -> list[Share]:
    """The parts in their order over the devices in theirs, so that the fullest device is as little full as can be.

    A tied unembedding on another device than the embedding is a second copy of the table.
    """
    low, high = 0.0, max(sum(s.total for s in _filled(use, devices, float("inf"))) / d.memory for d in devices)
    best = _filled(use, devices, high)
    for _ in range(40):
        middle = (low + high) / 2
        shares = _filled(use, devices, middle)
        if all(share.total <= middle * share.device.memory for share in shares):
            best, high = shares, middle
        else:
            low = middle
    return best


def _filled(use: Use, devices: Sequence[Device], fill: float) -> list[Share]:
    """Each device filled up to this share of its memory before the next begins; the last takes the rest."""
    shares = [_empty(use, device) for device in devices]
    at = 0
    for part in use.parts:
        grown = _with(shares[at], part)
        while at + 1 < len(devices) and grown.total > fill * devices[at].memory:
            at += 1
            grown = _with(shares[at], part)
        shares[at] = grown
    return shares


def _empty(use: Use, device: Device) -> Share:
    return Share(device, (), loading=use.read_whole if device.host else 0)


def _with(share: Share, part: Part) -> Share:
    weights = Counter(share.weights)
    weights.update(part.weights)
    if "embedding" not in share.parts:
        weights.update(part.shared)
    return replace(
        share,
        parts=(*share.parts, part.name),
        weights=dict(weights),
        cache=share.cache + part.cache,
        activations=max(share.activations, part.activations),
    )


def fits(use: Use, devices: Sequence[Device]) -> bool:
    return all(share.free >= 0 for share in split(use, devices))


def largest(high: int, good: Callable[[int], bool]) -> int:
    """The largest number from 1 to ``high`` that is good, where all smaller ones are too; 0 if none is."""
    low = 0
    if good(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def largest_context(use: Use, devices: Sequence[Device]) -> int:
    """The longest context that fits, at most the model's; 0 if none does."""
    return largest(use.config.context_length, lambda context: fits(replace(use, context=context), devices))


# --- what would help --------------------------------------------------------------------------------------------------


def quantized(config: ModelConfig, quantizers: Mapping[str, QuantizerConfig | None]) -> ModelConfig:
    """The same model with other storage: ``mixer``, ``ffn``, ``embedding``, ``head``, or ``rest``: all of these that
    have no quantizer yet.
    """
    rest = quantizers.get("rest")

    def chosen(part: str, held: QuantizerConfig | None) -> QuantizerConfig | None:
        return quantizers.get(part, held or rest)

    made: dict[int, LayerConfig] = {}  # equal layers stay one object
    for layer in config.layers:
        if id(layer) not in made:
            blocks = {part: getattr(layer, part) for part in ("mixer", "ffn")}
            made[id(layer)] = layer.model_copy(
                update={
                    part: block.model_copy(update={"quantizer": chosen(part, block.quantizer)})
                    for part, block in blocks.items()
                    if block is not None
                }
            )
    sections: dict[str, EmbeddingConfig | HeadConfig] = {"embedding": config.embedding}
    if not config.embedding.tied:
        sections["head"] = config.head
    packed = {
        part: section.model_copy(update={"quantizer": chosen(part, section.quantizer)})
        for part, section in sections.items()
    }
    layers = tuple(made[id(layer)] for layer in config.layers)
    return config.model_copy(update={"layers": layers, **packed})


@dataclass(frozen=True)
class Change:
    """A change, and what the devices hold with it."""

    words: str
    shares: Sequence[Share]

    @property
    def fits(self) -> bool:
        return all(share.free >= 0 for share in self.shares)


def changes(use: Use, devices: Sequence[Device], rest: QuantizerConfig) -> list[Change]:
    """The single changes that take memory off, each by itself; where none is enough, those of storage together too.

    ``rest``: what floats would be packed by.
    """
    storage: dict[str, Callable[[Use], Use]] = {}
    if use.dtype.itemsize > torch.bfloat16.itemsize:
        storage["bfloat16"] = lambda u: replace(u, dtype=torch.bfloat16)
    if _packs(use, rest):
        name = f"{rest.registered.rpartition(':')[2]} rest"
        storage[name] = lambda u: replace(u, config=quantized(u.config, {"rest": rest}))
    if not use.config.embedding.tied and not use.map_embedding:
        storage["mapped embedding"] = lambda u: replace(u, map_embedding=True)
    found = {words: changed(use) for words, changed in storage.items()}
    if 0 < (context := largest_context(use, devices)) < use.context:
        found[f"context {context}"] = replace(use, context=context)
    if 0 < (batch := largest(use.batch, lambda n: fits(replace(use, batch=n), devices))) < use.batch:
        found[f"batch {batch}"] = replace(use, batch=batch)
    if len(storage) > 1 and not any(fits(changed, devices) for changed in found.values()):
        together = use
        for changed in storage.values():
            together = changed(together)
        found[" and ".join(storage)] = together
    return [Change(words, split(changed, devices)) for words, changed in found.items()]


def _packs(use: Use, rest: QuantizerConfig) -> bool:
    """Whether there is anything left to pack, and the quantizer takes its shapes."""
    packed = replace(use, config=quantized(use.config, {"rest": rest}))
    try:
        return packed.config != use.config and bool(packed.parts)
    except ConfigError:
        return False
