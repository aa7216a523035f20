"""The decoder: tokens -> embedding -> layers -> final norm -> logits. It knows no block, only what configs build.

Axes: B batch, T tokens, D d_model, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from math import sqrt
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from blockzoo.accounting import buffers_of, parameters_of
from blockzoo.blocks import Aux
from blockzoo.cache import ModelCache, State, make_cache
from blockzoo.config.schema import EmbeddingConfig, HeadConfig, LayerConfig, ModelConfig
from blockzoo.errors import InputError, KernelError, PluginError
from blockzoo.initialization import draw
from blockzoo.kernels import REFERENCE, Binding, Kernel, bind
from blockzoo.linear import (
    EXPERT_LINEAR,
    LINEAR,
    FakeQuantTable,
    StoredLinear,
    StoredTable,
    Table,
    replace_linears,
    stored,
)
from blockzoo.quantization import packed_names, quantize
from blockzoo.registry import Registry
from blockzoo.step import Phase, Step


class Embedding(nn.Module):
    """tokens (B, T) and positions (B, T) -> (B, T, D)."""

    def __init__(self, recipe: EmbeddingConfig, config: ModelConfig, trainable: bool) -> None:
        super().__init__()
        self.tokens: Table | StoredTable = Table(config.vocab_size, config.d_model)
        if recipe.quantizer is not None and trainable:
            self.tokens = FakeQuantTable(self.tokens, recipe.quantizer)
        elif recipe.quantizer is not None:
            shape = (config.vocab_size, config.d_model)
            self.tokens = StoredTable(shape, None, recipe.quantizer)
        self.position = None if recipe.position is None else recipe.position.build(config.dims)
        self.norm = nn.Identity() if recipe.norm is None else recipe.norm.build(config.d_model)
        self.dropout = nn.Dropout(recipe.dropout)
        self.scale = sqrt(config.d_model) if recipe.scale == "sqrt_d_model" else recipe.scale

    def forward(self, tokens: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.tokens.rows(tokens, dtype)
        if self.scale != 1.0:
            x = x * torch.tensor(self.scale, dtype=x.dtype, device=x.device)
        if self.position is not None:
            x = x + self.position(positions).to(x.dtype)
        return self.dropout(self.norm(x))


class Head(nn.Module):
    """(B, T, D) -> logits (B, T, V). ``table`` is the embedding's, where the two are tied."""

    def __init__(self, recipe: HeadConfig, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.Identity() if recipe.norm is None else recipe.norm.build(config.d_model)
        self.unembedding = None if config.embedding.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if recipe.bias else None
        self.logit_scale = recipe.logit_scale
        self.logit_softcap = recipe.logit_softcap

    def forward(self, x: Tensor, table: nn.Module) -> Tensor:
        logits = (table if self.unembedding is None else self.unembedding)(self.norm(x))
        if self.bias is not None:
            logits = logits + self.bias
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        if self.logit_softcap is not None:
            logits = torch.tanh(logits / self.logit_softcap) * self.logit_softcap
        return logits


def build_layer(layer: LayerConfig, config: ModelConfig) -> nn.Module:
    """The module of one layer, from complete configs."""
    dims = config.dims
    mixer = None if layer.mixer is None else layer.mixer.build(dims, layer.position)
    ffn = None if layer.ffn is None else layer.ffn.build(dims)
    return layer.residual.build(dims, mixer, ffn, norm=lambda: layer.norm.build(config.d_model))


class Decoder(nn.Module):
    """A decoder-only language model.

    ``model(tokens)``: (B, T) int64 -> logits (B, T, V). ``config`` is the ModelConfig it was built from, ``bindings``
    says which kernel serves each op, layer and phase.
    """

    def __init__(self, config: ModelConfig, *, trainable: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.embedding, config, trainable)
        self.layers = nn.ModuleList(build_layer(layer, config) for layer in config.layers)
        self.head = Head(config.head, config)
        self.trainable = trainable
        self.key_prefix: str | None = None  # that of the checkpoint it was loaded from: saving writes the same keys
        self.bindings: list[Binding] = []
        self._kernels: Mapping[str, list[Kernel]] = {}
        self._chosen: Mapping[str, str] = {}
        self._bound_to: torch.device | None = None

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: ModelCache | None = None,
        last_only: bool = False,
        return_aux: Literal[False] = False,
    ) -> Tensor: ...

    @overload
    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: ModelCache | None = None,
        last_only: bool = False,
        return_aux: Literal[True],
    ) -> tuple[Tensor, Aux]: ...

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        cache: ModelCache | None = None,
        last_only: bool = False,
        return_aux: bool = False,
    ) -> Tensor | tuple[Tensor, Aux]:
        """Logits (B, T, V), or (B, 1, V) of each row's last token with ``last_only``.

        ``positions`` (B, T) int64, -1 where padding; default: consecutive, from the cache's lengths on. A ``cache``
        is appended to. With ``return_aux`` also what the layers report: ``balance_loss``, summed over layers, and
        everything by layer as ``layers.N.name``. Raises InputError for a token id outside the vocabulary or a
        position outside the context.
        """
        self._check(tokens, positions)
        step = self._step(tokens, positions, cache)
        x = self.embedding(tokens, step.positions, self.dtype)
        states: list[State | None] = [None] * len(self.layers) if cache is None else cache.states
        reports: Aux = {}
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            x, aux = layer(x, step, state)
            reports.update({f"layers.{index}.{name}": value for name, value in aux.items()})
        if cache is not None:
            cache.advance(step)
        logits = self.head(_last(x, step) if last_only else x, self.embedding.tokens)
        return (logits, _with_totals(reports)) if return_aux else logits

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations: that of the float parameters."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device

    def new_cache(
        self, batch_size: int = 1, max_length: int | None = None, dtype: torch.dtype | None = None
    ) -> ModelCache:
        """An empty cache for ``batch_size`` rows of at most ``max_length`` tokens (default: the context length)."""
        max_length = self.config.context_length if max_length is None else max_length
        if not 0 < max_length <= self.config.context_length:
            raise InputError(f"max_length {max_length} is outside 1..{self.config.context_length}, the context length")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, found {batch_size}")
        mixers = [getattr(layer, "mixer", None) for layer in self.layers]
        return make_cache(mixers, batch_size, max_length, self.device, self.dtype if dtype is None else dtype)

    def bind(self, kernels: Mapping[str, str] | None = None) -> list[Binding]:
        """Choose kernels for the device that the model stands on; ``kernels`` names one for an op (``{"attention":
        "sdpa"}``).

        Raises KernelError, with the reasons, where a named one can't run.
        """
        self._chosen = dict(kernels or {})
        if any(self._chosen.get(op.name, REFERENCE) != REFERENCE for op in (LINEAR, EXPERT_LINEAR)):
            if self.trainable:
                raise KernelError("kernels for linear and expert_linear do not train: build with trainable=False")
            replace_linears(self, stored)
        self._bound_to = self.device
        self.bindings = bind(self, self._kernels, device=self.device, choose=self._chosen)
        return self.bindings

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Decoder:
        super()._apply(fn, recurse)
        if self._bound_to is not None:  # moving or casting a model means binding again
            self.bind(self._chosen)
        return self

    def _step(self, tokens: Tensor, positions: Tensor | None, cache: ModelCache | None) -> Step:
        batch_size, n_tokens = tokens.shape
        phase: Phase = "prefill"
        if torch.is_grad_enabled():
            phase = "train"
        elif cache is not None and n_tokens == 1:
            phase = "decode"
        if cache is not None:
            return cache.step((batch_size, n_tokens), positions, phase)
        if positions is None:
            line = torch.arange(n_tokens, device=tokens.device).expand(batch_size, n_tokens)
            return Step(line, line, phase, consecutive=True, start=0)
        slots = torch.where(positions >= 0, (positions >= 0).cumsum(1) - 1, -1)
        return Step(positions, slots, phase, consecutive=False)

    def _check(self, tokens: Tensor, positions: Tensor | None) -> None:
        if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
            raise InputError(f"tokens must be (B, T) int64 and not empty, found {tuple(tokens.shape)} {tokens.dtype}")
        if positions is not None and (positions.shape != tokens.shape or positions.dtype != torch.int64):
            raise InputError(f"positions must be int64 and shaped like tokens, found {tuple(positions.shape)}")
        if tokens.shape[1] > self.config.context_length:
            raise InputError(f"{tokens.shape[1]} tokens are more than the context of {self.config.context_length}")
        if torch.compiler.is_compiling() or tokens.device.type != "cpu":
            return  # looking at values would wait for the device
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        if positions is not None and int(positions.max()) >= self.config.context_length:
            raise InputError(
                f"position {int(positions.max())} is outside the context of {self.config.context_length} tokens"
            )
        if positions is not None and int(positions.min()) < -1:
            raise InputError(f"position {int(positions.min())} is negative; padding is -1")


def empty(
    config: ModelConfig,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    trainable: bool = False,
) -> Decoder:
    """A model whose weights are allocated and not filled, and which is not bound yet: for loading a checkpoint into.

    Until ``bind``, the tensors of ``state_dict()`` are the live storage. Raises ConfigError where a quantizer refuses
    a shape.
    """
    parameters, buffers = parameters_of(config), buffers_of(config)
    packed = packed_names(config, parameters)
    with torch.device("meta"):
        model = Decoder(config, trainable=trainable)
    _check_names(model, config, set(parameters), set(buffers), set(packed) if not trainable else set())
    quantize(model, packed, trainable=trainable)
    model.to(dtype)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
    model._kernels = registry.kernels()
    return model.eval()


def build(
    config: ModelConfig,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    trainable: bool = False,
    kernels: Mapping[str, str] | None = None,
) -> Decoder:
    """A model with freshly drawn weights, in evaluation mode, bound to ``device``; "meta" allocates nothing.

    ``trainable``: quantized weights keep float masters and train through straight-through rounding; otherwise they
    are held packed only.
    """
    model = empty(config, registry=registry, device=device, dtype=dtype, trainable=trainable)
    if model.device.type != "meta":
        _initialize(model, seed)
    model.bind(kernels)
    return model


@torch.no_grad()
def _initialize(model: Decoder, seed: int) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stored = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, StoredLinear)}
    for name, parameter in {**parameters_of(model.config), **buffers_of(model.config)}.items():
        value = draw(model.config, name, parameter, seed)
        if name in stored:
            module = stored[name]
            assert module.quantizer is not None
            packed = module.quantizer.pack(value)
            module.set_canonical({part: tensor.to(model.device) for part, tensor in packed.items()})
        else:
            tensors[name].copy_(value)


def _check_names(
    model: Decoder, config: ModelConfig, parameters: set[str], buffers: set[str], stored: set[str]
) -> None:
    """A block whose ``cost`` names other parameters than its module has is a defect of its plugin: say which."""
    built = {name for name, _ in model.named_parameters()}
    held = {name for name, _ in model.named_buffers() if not name.startswith("embedding.tokens.")}
    if "embedding.tokens.weight" in stored:
        built.add("embedding.tokens.weight")
    for have, said, what in ((built, parameters, "parameters"), (held, buffers, "buffers")):
        if have != said:
            raise PluginError(
                f"model '{config.name}': cost() and the built modules disagree on {what}:"
                f" only in the modules {sorted(have - said)[:5]}, only in cost {sorted(said - have)[:5]}"
            )


def _last(x: Tensor, step: Step) -> Tensor:
    """x (B, T, D) -> (B, 1, D): each row's last token that is no padding."""
    if step.consecutive:
        return x[:, -1:]
    index = torch.arange(x.shape[1], device=x.device).masked_fill(step.positions < 0, 0).amax(dim=1)
    return x.gather(1, index[:, None, None].expand(-1, 1, x.shape[-1]))


def _with_totals(reports: Aux) -> Aux:
    totals: dict[str, Any] = {}
    for name, value in reports.items():
        if name.endswith(".balance_loss"):
            totals["balance_loss"] = totals.get("balance_loss", 0.0) + value
    return {**reports, **totals}
