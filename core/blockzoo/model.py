"""The decoder: tokens -> embedding -> layers -> final norm -> logits. It knows no block, only what configs build.

Axes: B batch, T tokens, D d_model, V vocab_size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from blockzoo.blocks import Aux
from blockzoo.cache import ModelCache, State, make_cache
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.ends import Embedding, Head
from blockzoo.errors import InputError, KernelError, PluginError
from blockzoo.faults import asked, no_reports, title
from blockzoo.kernels import Binding, Kernel, bind
from blockzoo.linear import CHOSEN_LINEAR, EXPERT_LINEAR, LINEAR, chosen_for_matrices, give_slots
from blockzoo.step import Phase, Step
from blockzoo.storage import keep_what_is_freed

if TYPE_CHECKING:
    from blockzoo.recording.player import Player


def build_layer(layer: LayerConfig, config: ModelConfig, place: str) -> nn.Module:
    """The module of one layer, from complete configs. ``place``: what messages call the layer."""
    dims = config.dims
    position = asked(f"{place}.position", layer.position.explicit, dims)
    mixer = None if layer.mixer is None else asked(f"{place}.mixer", layer.mixer.build, dims, position)
    ffn = None if layer.ffn is None else asked(f"{place}.ffn", layer.ffn.build, dims)

    def norm() -> nn.Module:
        return asked(f"{place}.norm", layer.norm.build, config.d_model)

    return asked(f"{place}.residual", layer.residual.build, dims, mixer, ffn, norm=norm)


class Decoder(nn.Module):
    """A decoder-only language model.

    ``model(tokens)``: (B, T) int64 -> logits (B, T, V). ``config`` is the ModelConfig it was built from, ``bindings``
    says which kernel serves each op, layer and phase.
    """

    def __init__(self, config: ModelConfig, *, trainable: bool = False) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.embedding, config, trainable)
        self.layers = nn.ModuleList(
            build_layer(layer, config, f"layers.{index}") for index, layer in enumerate(config.layers)
        )
        self.head = Head(config.head, config)
        self.trainable = trainable
        self.key_prefix: str | None = None  # that of the checkpoint it was loaded from: saving writes the same keys
        self.kept: Mapping[str, Mapping[str, Any]] = {}  # by file, what that checkpoint says beside the model
        self.bindings: list[Binding] = []
        self.players: list[Player] = []
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
        self.check(tokens, positions)
        step = self._step(tokens, positions, cache)
        logits, reports = self.compute(tokens, step, cache, last_only, return_aux)
        return (logits, _with_totals(reports)) if return_aux else logits

    def compute(
        self, tokens: Tensor, step: Step, cache: ModelCache | None, last_only: bool, return_aux: bool = False
    ) -> tuple[Tensor, Aux]:
        """What ``forward`` computes of tokens that are checked, and of the Step that is theirs: logits and reports."""
        x = self.embedding(tokens, step.positions, self.dtype)
        states: list[State | None] = [None] * len(self.layers) if cache is None else cache.states
        reports: Aux = {}
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            x, aux = layer(x, step, state)
            if not isinstance(aux, dict):  # two rows of a bare tensor unpack as a pair
                raise PluginError(self._no_reports(index))
            if return_aux:
                reports.update({f"layers.{index}.{name}": value for name, value in aux.items()})
        if cache is not None:
            cache.advance(step)
        return self.head(_last(x, step) if last_only else x, self.embedding.tokens), reports

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
        named = chosen_for_matrices(self._kernels, self._chosen)
        if self.trainable and named:
            raise KernelError("kernels for linear and expert_linear do not train: build with trainable=False")
        if not self.trainable:
            give_slots(self, named)
        self._bound_to = self.device
        if self.device.type == "cpu":
            keep_what_is_freed()
        # where it trains a linear has no slot: it is the reference already
        slotless = {LINEAR.name, EXPERT_LINEAR.name, CHOSEN_LINEAR.name} if self.trainable else set()
        choose = {op: name for op, name in self._chosen.items() if op not in slotless}
        self.bindings = bind(self, self._kernels, device=self.device, choose=choose)
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

    def _no_reports(self, index: int) -> str:
        layer = self.config.layers[index]
        return no_reports(f"{title(layer.ffn or layer.residual)} at layers.{index}")

    def check(self, tokens: Tensor, positions: Tensor | None = None) -> None:
        """Raise InputError for tokens and positions that ``forward`` doesn't take."""
        if tokens.dim() != 2 or tokens.dtype != torch.int64 or tokens.numel() == 0:
            raise InputError(f"tokens must be (B, T) int64 and not empty, found {tuple(tokens.shape)} {tokens.dtype}")
        if positions is not None and (positions.shape != tokens.shape or positions.dtype != torch.int64):
            raise InputError(f"positions must be int64 and shaped like tokens, found {tuple(positions.shape)}")
        if tokens.shape[1] > self.config.context_length:
            raise InputError(f"{tokens.shape[1]} tokens are more than the context of {self.config.context_length}")
        if torch.compiler.is_compiling() or tokens.device.type != "cpu":
            return  # looking at values would wait for the device
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise InputError(f"token id {wrong} is outside the vocabulary of {self.config.vocab_size}")
        if positions is not None and int(positions.max()) >= self.config.context_length:
            raise InputError(
                f"position {int(positions.max())} is outside the context of {self.config.context_length} tokens"
            )
        if positions is not None and int(positions.min()) < -1:
            raise InputError(f"position {int(positions.min())} is negative; padding is -1")


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
