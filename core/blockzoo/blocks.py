"""The kinds of block, and what each must do.

A block is a frozen pydantic config and a plain ``nn.Module`` that its ``build`` returns. The config also says, before
anything is built, what the block costs and what role each of its parameters plays. A block sees ``Dims`` and the
blocks it is composed of: never the whole config, the model's name or its own layer index.

Axes: B batch, T tokens, D d_model, H query heads, S stored keys, Dh head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from blockzoo.cache import State
from blockzoo.cost import Cost, Initializer, Parameter, Role, StateTensor, filled, linear_cost
from blockzoo.errors import InputError
from blockzoo.step import Step

__all__ = [
    "BASES",
    "KINDS",
    "AdditivePositionConfig",
    "AttentionPosition",
    "AttentionPositionConfig",
    "Aux",
    "BlockConfig",
    "Cost",
    "Dims",
    "FFNConfig",
    "Initializer",
    "LinearFactory",
    "Mixer",
    "MixerConfig",
    "NormConfig",
    "Parameter",
    "PositionConfig",
    "PositionForm",
    "QuantizableConfig",
    "QuantizerConfig",
    "ResidualConfig",
    "Role",
    "Scale",
    "StateTensor",
    "filled",
    "linear_cost",
    "nested_kinds",
]

Scale = Literal["width", "d_ff", "experts"]

KINDS = ("norm", "mixer", "ffn", "position", "residual", "quantizer")


@dataclass(frozen=True)
class Dims:
    """What every block may know of the model around it."""

    d_model: int
    n_layers: int
    context_length: int


class BlockConfig(BaseModel):
    """What all blocks' configs share: frozen, unknown keys refused, every field described.

    A field whose annotation is one of the kinds below (``qk_norm: NormConfig | None``) is a reference to a block of
    that kind: YAML gives it as a mapping with a ``type`` of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="never")

    kind: ClassVar[str]
    label: ClassVar[str] = ""
    """What figures call it: ``Grouped-query attention``. Default: the name that it is registered under."""
    registered: ClassVar[str] = ""
    """What it is registered as, ``plugin:name``: the registry sets it, messages say it."""
    compile_safe: ClassVar[bool] = True
    """Whether the module compiles without a graph break. False where the host must see values (an expert's count)."""
    recordable: ClassVar[bool] = False
    """Whether steps of decoding may be replayed without its code: its outputs follow from inputs and weights alone, by
    calls that are the same at every length. No counters, random numbers, buffers that it writes or weights that it
    derives from others, nothing that is decided by how long the text is."""
    scales: ClassVar[Mapping[str, Scale]] = {}
    """Which fields grow when a model is made larger, for ``blockzoo solve`` and the solver of experiments: field ->
    ``width`` (in proportion to d_model: counts of heads, ranks of latents), ``d_ff`` or ``experts``. Whole numbers, or
    None where the default follows from others. Blocks inside the block say theirs themselves."""

    @classmethod
    def samples(cls) -> Sequence[Self]:
        """Small instances for ``Dims(d_model=32, n_layers=2, context_length=64)``, which the conformance suite tries:
        one for each option worth a test. A block with required options must say some.
        """
        return [cls()]

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        """What is wrong between fields or with these dims: (field, message) pairs. The field may be a dotted path."""
        yield from ()

    def explicit(self, dims: Dims) -> Self:
        """The same block with every default that follows from ``dims`` or other fields written out: equal if it
        computes the same.
        """
        return self


class QuantizerConfig(BlockConfig):
    """How one weight is stored: packed tensors that stand for a float matrix ``(..., out, in)``.

    ``weight_bits`` is the storage for one weight of wide rows: scales of groups count, a scale for each row does not
    (it is in ``tensors``, which sizes are taken from). Rows are packed independently along ``in``.
    """

    kind: ClassVar[str] = "quantizer"

    @property
    def weight_bits(self) -> float:
        raise NotImplementedError

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        """Why a weight of this shape can't be packed, or None."""
        return None

    def tensors(self, shape: tuple[int, ...]) -> dict[str, StateTensor]:
        """Name, shape and dtype of the packed tensors for a weight of this shape."""
        raise NotImplementedError

    def pack(self, weight: Tensor) -> dict[str, Tensor]:
        """Round to the nearest representable weight. Raises ValueError for NaN or infinity."""
        raise NotImplementedError

    def unpack(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """The weight that packed tensors stand for, in ``dtype``."""
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], std: float, generator: torch.Generator) -> dict[str, Tensor]:
        """The packed tensors of random weights of about this standard deviation, for checkpoints at full size.

        A format whose bytes can be drawn themselves saves the packing of billions of weights.
        """
        return self.pack(torch.empty(shape).normal_(0.0, std, generator=generator))

    def error_bound(self, weight: Tensor) -> Tensor | None:
        """How far the format may be off from each of these weights, or None where no such bound is promised."""
        return None

    def invalid(self, part: str, tensor: Tensor) -> str | None:
        """Why a stored tensor of this name holds no weights, or None. NaN in a float one is looked for elsewhere."""
        return None


class NormConfig(BlockConfig):
    """norm: ``(..., dim) -> (..., dim)``, dtype kept."""

    kind: ClassVar[str] = "norm"

    def refuses(self, dim: int) -> str | None:
        """Why vectors of this width can't be normed, or None. It may be the width of a head, or of all heads."""
        return None

    def build(self, dim: int) -> nn.Module:
        raise NotImplementedError

    def cost(self, dim: int) -> Cost:
        raise NotImplementedError


PositionForm = Literal["none", "rotating", "biasing", "additive"]


class PositionConfig(BlockConfig):
    """A position encoding. ``form`` says where it acts: on queries and keys, on scores, or on the embedding."""

    kind: ClassVar[str] = "position"
    form: ClassVar[PositionForm]


class AdditivePositionConfig(PositionConfig):
    """A position vector added to the embedding: the module maps positions (B, T) to (B, T, D)."""

    form: ClassVar[PositionForm] = "additive"

    def build(self, dims: Dims) -> nn.Module:
        raise NotImplementedError

    def cost(self, dims: Dims) -> Cost:
        raise NotImplementedError


class AttentionPosition(Protocol):
    """What the module of an attention position does; one that rotates has no bias, and the other way round."""

    def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """q (B, H, T, Dh) and k (B, Hk, T, Dh), turned by their positions; dtypes kept."""
        ...

    def bias(self, positions: Tensor, key_positions: Tensor) -> Tensor | None:
        """What is added to the scores of queries at (B, T) and keys at (B, S): (B, H, T, S) float32, or None."""
        ...


class AttentionPositionConfig(PositionConfig):
    """A position encoding inside attention; the mixer builds it for its own head_dim and heads."""

    shift_invariant: ClassVar[bool] = True
    """Whether attention sees only differences of positions: moving all of them by one distance changes nothing."""

    def refuses(self, head_dim: int) -> str | None:
        """Why heads of this width can't have it, or None."""
        return None

    def build(self, head_dim: int, n_heads: int) -> nn.Module:
        """A module that is an ``AttentionPosition``."""
        raise NotImplementedError

    def cost(self, head_dim: int, n_heads: int) -> Cost:
        return Cost()


class QuantizableConfig(BlockConfig):
    """A block whose linear and expert weights may be stored packed."""

    quantizer: QuantizerConfig | None = Field(
        None, description="how this block's weights are stored; default: the layer's or the model's quantizer"
    )


class MixerConfig(QuantizableConfig):
    """A token mixer: ``(x (B, T, D), step, state) -> (B, T, D)``, causal by its own contract.

    Padding (``step.positions`` -1) may stand anywhere in a row and must not be seen: attention masks it by position, a
    recurrence must leave its state alone there (sorting padding to the end of a row makes the rest consecutive).

    ``positions`` declares which forms of position it takes. An inherited position of another form is dropped, an
    explicit one is an error.
    """

    kind: ClassVar[str] = "mixer"
    positions: ClassVar[frozenset[PositionForm]] = frozenset({"none"})
    row_independent: ClassVar[bool] = False
    """Whether a token's output is bit-equal whatever later tokens are; else it is so within a few ulp."""
    counts_decode: ClassVar[bool] = True
    """Whether decoding runs exactly the matrix products that ``cost`` counts; False where it does avoidable more."""

    @property
    def reach(self) -> int | None:
        """How many tokens a token sees, itself included (a window); None for all before. Held to exactly."""
        return None

    @property
    def shift_invariant(self) -> bool:
        """Whether moving all positions by one distance changes nothing, given a position of which that is true."""
        return True

    def check_position(self, dims: Dims, position: AttentionPositionConfig) -> Iterator[str]:
        """What is wrong with this position in this mixer, beside its form: a head that can't be rotated."""
        yield from ()

    def build(self, dims: Dims, position: AttentionPositionConfig) -> nn.Module:
        """A module with ``forward(x, step, state=None)`` and ``new_state(batch_size, max_length, device, dtype)``."""
        raise NotImplementedError

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        """``context``: how many tokens the decoded token looks back on, itself included."""
        raise NotImplementedError


class Mixer(Protocol):
    """What the module of a mixer does."""

    def forward(self, x: Tensor, step: Step, state: State | None = None) -> Tensor: ...

    def new_state(self, batch_size: int, max_length: int, device: torch.device, dtype: torch.dtype) -> State: ...


Aux = dict[str, Tensor]
"""What a layer reports beside its output, by name; empty for dense ones. ``balance_loss`` is added to the training
loss; ``expert_load`` (n_experts,) is the fraction of routed tokens each expert took.
"""

LinearFactory = Callable[..., nn.Module]
"""``(d_in, d_out, bias=...) -> module``: ``nn.Linear``, or a stack of experts' matrices in its place."""


class FFNConfig(QuantizableConfig):
    """A feed-forward block: ``(x (..., D)) -> (y (..., D), aux)``.

    One with ``stackable = True`` writes all its weights through ``linear`` and passes ``*which`` of
    ``forward(x, *which)`` on to every one of them: that is what lets a mixture of experts stack it.
    """

    kind: ClassVar[str] = "ffn"
    stackable: ClassVar[bool] = False

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        raise NotImplementedError

    def cost(self, dims: Dims) -> Cost:
        raise NotImplementedError


class ResidualConfig(BlockConfig):
    """How a layer joins norms, mixer and ffn: ``(x, step, state) -> (x, aux)``. It is the layer's module."""

    kind: ClassVar[str] = "residual"
    parallel: ClassVar[bool] = False
    """Whether mixer and ffn read the same input, rather than one after the other. Figures ask."""

    def norms(self, has_mixer: bool, has_ffn: bool) -> tuple[str, ...]:
        """The names of the norms that the module makes, each over d_model: ``mixer_norm`` and ``ffn_norm`` before a
        branch, ``mixer_post_norm`` and ``ffn_post_norm`` after it, ``norm`` where both branches share one.
        """
        raise NotImplementedError

    def build(
        self, dims: Dims, mixer: nn.Module | None, ffn: nn.Module | None, norm: Callable[[], nn.Module]
    ) -> nn.Module:
        """``mixer`` and ``ffn`` become submodules of these names, norms of the names that ``norms`` gives."""
        raise NotImplementedError

    def cost(self, dims: Dims, has_mixer: bool, has_ffn: bool) -> Cost:
        """Parameters of its own, beside norms, mixer and ffn, around these branches."""
        return Cost()

    def scaled(self, factor: float) -> Self:
        """The same block with each branch times ``factor`` before it is added: CompleteP divides them by the depth
        multiple. Raises InputError where the block can't.
        """
        raise InputError(
            f"the residual {type(self).__name__} doesn't say how to scale its branches, which CompleteP divides by the"
            " depth multiple: its author adds scaled(factor) to it, or train without train.parametrization"
        )


BASES: dict[str, type[BlockConfig]] = {
    "norm": NormConfig,
    "mixer": MixerConfig,
    "ffn": FFNConfig,
    "position": PositionConfig,
    "residual": ResidualConfig,
    "quantizer": QuantizerConfig,
}


def nested_kinds(config: type[BlockConfig]) -> dict[str, type[BlockConfig]]:
    """The fields of a config class that are references to other blocks: field -> base class of the kind wanted."""
    found: dict[str, type[BlockConfig]] = {}
    for name, info in config.model_fields.items():
        candidates: list[Any] = [info.annotation, *getattr(info.annotation, "__args__", ())]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BlockConfig) and hasattr(candidate, "kind"):
                found[name] = candidate
    return found
