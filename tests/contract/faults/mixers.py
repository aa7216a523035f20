"""Attention with one fault each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from blockzoo.blocks import AttentionPositionConfig, Cost, Dims, Parameter, Role
from blockzoo.cache import TokenState
from blockzoo.step import PHASES, Keys, Step
from blockzoo_blocks.mixers.attention import attention_reference
from blockzoo_blocks.mixers.gqa import GQAConfig, GroupedQueryAttention
from blockzoo_blocks.norms.rms_norm import RMSNormConfig
from tests.contract.blocks_for_tests import GatedRecurrence, GatedRecurrenceConfig, RecurrentState


class Attention(GQAConfig):
    """The control: grouped-query attention with a window and sinks, without a fault."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4, n_kv_heads=2, sinks=True, window=5)]

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        module = super().build(dims, position)
        module.__class__ = self.module()
        module.attend.bound = dict.fromkeys(PHASES, self.attend)
        return module

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return GroupedQueryAttention

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **options)


class HasKeys(Attention):
    """Without a fault: a config isn't a mapping for having a method of that name."""

    def keys(self, dims: Dims) -> int:
        return dims.d_model


class PositionsMisspelt(Attention):
    """No position that rotates is ever given to it."""

    caught_by: ClassVar[str] = "declarations"
    positions: ClassVar[Any] = frozenset({"none", "rotary", "biasing"})


# --- what a token sees ---


class MaskDropped(Attention):
    caught_by: ClassVar[str] = "causality"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4)]

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, torch.full_like(positions, 99), keys, **options)


class SeesTheNextToken(Attention):
    caught_by: ClassVar[str] = "causality"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions + 1, keys, **options)


class WindowOffByOne(Attention):
    caught_by: ClassVar[str] = "window"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "window": options["window"] + 1})


class WindowIgnored(Attention):
    caught_by: ClassVar[str] = "window"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "window": None})


class WindowUndeclared(Attention):
    caught_by: ClassVar[str] = "mixes"
    reach: ClassVar[None] = None  # type: ignore[assignment]


class SinkIgnored(Attention):
    caught_by: ClassVar[str] = "gradients"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "sinks": None})


class SinkTimesZero(Attention):
    caught_by: ClassVar[str] = "weights_count"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "sinks": 0 * options["sinks"]})


class NormPlacementIgnored(Attention):
    """Built as its default says."""

    caught_by: ClassVar[str] = "options_count"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4, qk_norm=RMSNormConfig(), qk_norm_placement="after")]

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        return GQAConfig(n_heads=4, qk_norm=RMSNormConfig()).build(dims, position)


class ReadsPadding(Attention):
    caught_by: ClassVar[str] = "padding"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, Keys(keys.positions.clamp(min=0), False), **options)


class NothingToSeeIsNaN(Attention):
    """0 / 0 where padding sees nothing."""

    caught_by: ClassVar[str] = "padding"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4)]

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        y = attention_reference(q, k, v, positions, keys, **options)
        return y.masked_fill((positions < 0)[:, None, :, None], float("nan"))


class AbsolutePositionInScores(Attention):
    caught_by: ClassVar[str] = "position_shift"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q * (1 + positions[:, None, :, None]).log(), k, v, positions, keys, **options)


class MixesTheBatch(Attention):
    caught_by: ClassVar[str] = "batch_independence"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q - q.mean(0), k, v, positions, keys, **options)


class DropoutInEvaluation(Attention):
    caught_by: ClassVar[str] = "evaluation"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "dropout": 0.1})


class BranchesOnValues(Attention):
    caught_by: ClassVar[str] = "compiles"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        q = q * 2 if q.sum() > 0 else q + q
        return attention_reference(q, k, v, positions, keys, **options)


class GoesThroughNumpy(Attention):
    """dynamo knows NumPy; an export has no numbers to give it."""

    caught_by: ClassVar[str] = "exports"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        positions = torch.from_numpy(positions.numpy())
        return attention_reference(q, k, v, positions, keys, **options)


# --- positions ---


class TurnsNothing(Attention):
    """Blind to order where its position rotates."""

    caught_by: ClassVar[str] = "position_counts"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Unturned(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                self.position.rotate = lambda q, k, step: (q, k)  # type: ignore[method-assign]
                return super().forward(x, step, state)

        return Unturned


class BiasLeftOut(Attention):
    """Blind to order where its position biases; its Slot says nothing of a bias either."""

    caught_by: ClassVar[str] = "position_counts"

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
        return attention_reference(q, k, v, positions, keys, **{**options, "bias": None})


class HasATurnOfItsOwn(Attention):
    """Rotates, whatever theta says."""

    caught_by: ClassVar[str] = "position_counts"

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        return super().build(dims, type(position).samples()[0])


# --- the cache ---


class CacheNotAdvanced(Attention):
    caught_by: ClassVar[str] = "cache"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(Stuck)


class PrefillForgetsTheCache(Attention):
    """A pass of several tokens sees only itself: right for one prefill, wrong for the second."""

    caught_by: ClassVar[str] = "cache"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(SeesOnlyThePass)


class PositionsRestart(Attention):
    """Rotates by the place in the pass."""

    caught_by: ClassVar[str] = "cache"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Restarting(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                rotate, here = self.position.rotate, torch.arange(x.shape[1]).expand(x.shape[:2])
                self.position.rotate = lambda q, k, step: rotate(q, k, replace(step, positions=here))  # type: ignore
                try:
                    return super().forward(x, step, state)
                finally:
                    del self.position.rotate

        return Restarting


class DropsAKeyHead(Attention):
    """What it hands to its position doesn't fit: the line at fault is the mixer's."""

    caught_by: ClassVar[str] = "in_qwen3"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Narrow(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                self.position.rotate(x[:, None, :, :3], x[:, None, :, :3], step)
                return super().forward(x, step, state)

        return Narrow


class BiasesByThePlace(Attention):
    """Queries' positions are their places in the pass: a softmax is the same where a bias is linear in the distance."""

    caught_by: ClassVar[str] = "cache"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Misplaced(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                bias, here = self.position.bias, torch.arange(x.shape[1]).expand(x.shape[:2])
                self.position.bias = lambda positions, key_positions: bias(here, key_positions)  # type: ignore
                try:
                    return super().forward(x, step, state)
                finally:
                    del self.position.bias

        return Misplaced


class DecodesAtTheLongestRow(Attention):
    """One position for the whole batch: right until rows are of different length."""

    caught_by: ClassVar[str] = "cache_with_padding"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class AtTheLongest(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                if state is not None and x.shape[1] == 1:
                    step = replace(step, positions=step.positions.amax().expand_as(step.positions))
                return super().forward(x, step, state)

        return AtTheLongest


class RemembersPaddingAtTheEnd(GatedRecurrenceConfig):
    """A recurrence that leaves padding out only in front of a row's tokens."""

    caught_by: ClassVar[str] = "cache_with_padding"

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GatedRecurrence:
        class Remembers(GatedRecurrence):
            def forward(self, x: Tensor, step: Step, state: RecurrentState | None = None) -> Tensor:
                behind = (step.positions < 0) & (
                    step.positions.cummax(1).values == step.positions.amax(1, keepdim=True)
                )
                return super().forward(x, replace(step, positions=step.positions.masked_fill(behind, 0)), state)

        return Remembers(dims.d_model, self.width)


class SelectIgnored(Attention):
    caught_by: ClassVar[str] = "cache_rows"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(KeepsOrder)


class ResetIgnored(Attention):
    caught_by: ClassVar[str] = "cache_rows"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(NeverForgets)


class RollsBackTooFar(Attention):
    caught_by: ClassVar[str] = "cache_rolls_back"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4)]

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(ForgetsOneMore)


class RemembersTheGraph(Attention):
    caught_by: ClassVar[str] = "cache_keeps_no_graph"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        return with_state(KeepsTheGraph)


class Stuck(TokenState):
    def extend(self, step: Step, *new: Tensor) -> tuple[tuple[Tensor, ...], Keys]:
        found = super().extend(step, *new)
        self.n_stored -= step.positions.shape[1]
        return found


class SeesOnlyThePass(TokenState):
    def extend(self, step: Step, *new: Tensor) -> tuple[tuple[Tensor, ...], Keys]:
        found = super().extend(step, *new)
        return found if new[0].shape[-2] == 1 else (new, step.keys)


class KeepsOrder(TokenState):
    def select(self, rows: Tensor) -> None:
        super().select(torch.arange(len(rows)) % len(self.positions))


class NeverForgets(TokenState):
    def reset(self) -> None:
        pass


class ForgetsOneMore(TokenState):
    def rollback(self, length: int) -> None:
        super().rollback(length)
        self.positions[:, length - 1] = -1


class KeepsTheGraph(TokenState):
    def extend(self, step: Step, *new: Tensor) -> tuple[tuple[Tensor, ...], Keys]:
        self.latest = {"keys": [new[0][..., -1:, :]]}
        return super().extend(step, *new)


def with_state(kind: type[TokenState]) -> type[GroupedQueryAttention]:
    class WithState(GroupedQueryAttention):
        def new_state(self, *args: Any, **kwargs: Any) -> TokenState:
            state = super().new_state(*args, **kwargs)
            state.__class__ = kind
            return state

    return WithState


# --- in a model ---


class OneMaskForAllWindows(Attention):
    """A table without the window in its key: the first layer's is every layer's."""

    caught_by: ClassVar[str] = "tables_are_its_own"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4), cls(n_heads=4, window=5)]

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Sharing(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                distance = step.positions[:, :, None] - step.positions[:, None]
                reach = x.shape[1] if self.attend.static["window"] is None else self.attend.static["window"]
                mask = step.table("mask", lambda: (distance >= 0) & (distance < reach))
                return super().forward(mask.to(x.dtype) @ x, step, state)

        return Sharing


class OneTableOfAnotherWidth(OneMaskForAllWindows):
    """What fits no other layer, so that it fails there."""

    caught_by: ClassVar[str] = "tables_are_its_own"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4), cls(n_heads=2)]

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Sharing(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                heads = self.attend.static["n_heads"]
                factors = step.table("factors", lambda: torch.ones(heads, dtype=x.dtype))
                return super().forward((x.unflatten(-1, (heads, -1)) * factors[:, None]).flatten(-2), step, state)

        return Sharing


class HandsValuesOn(OneMaskForAllWindows):
    """Without a fault: what later layers get follows from the input."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Sharing(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                own = super().forward(x, step, state)
                return own + step.table("values", lambda: own)

        return Sharing


class SharesWhatLayersDoNot(Attention):
    """Keys in the table of a pass: a second layer gets the first one's, and its own matrix takes no part."""

    caught_by: ClassVar[str] = "in_gpt2"

    @classmethod
    def module(cls) -> type[GroupedQueryAttention]:
        class Sharing(GroupedQueryAttention):
            def forward(self, x: Tensor, step: Step, state: TokenState | None = None) -> Tensor:
                project = self.k.forward
                self.k.forward = lambda x: step.table("keys", lambda: project(x))  # type: ignore[method-assign]
                try:
                    return super().forward(x, step, state)
                finally:
                    del self.k.forward

        return Sharing


# --- what it tells kernels ---


class TellsNoWindow(Attention):
    caught_by: ClassVar[str] = "statics"

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        module = super().build(dims, position)
        del module.attend.static["window"]
        return module


class TellsNoSinks(Attention):
    caught_by: ClassVar[str] = "statics"

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        module = super().build(dims, position)
        module.attend.static["sinks"] = False
        return module


class TellsOtherHeads(Attention):
    caught_by: ClassVar[str] = "statics"

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        module = super().build(dims, position)
        module.attend.static["n_kv_heads"] = self.n_heads
        return module


class TellsNoDropout(Attention):
    """Dropout, which only training has."""

    caught_by: ClassVar[str] = "statics"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_heads=4, dropout=0.1)]

    def build(self, dims: Dims, position: AttentionPositionConfig) -> GroupedQueryAttention:
        module = super().build(dims, position)
        module.attend.static["dropout"] = 0.0
        return module


# --- what it says it costs ---


class CountsHalfTheCache(Attention):
    caught_by: ClassVar[str] = "cache_bytes"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        cost = super().cost(dims, position, context)
        return replace(cost, cache=cost.cache[:1])


class CountsNoScores(Attention):
    caught_by: ClassVar[str] = "flops"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return replace(super().cost(dims, position, context), flops=super().cost(dims, position, 1).flops)


class ForgetsAParameter(Attention):
    caught_by: ClassVar[str] = "parameters"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return changed(super().cost(dims, position, context), "sinks", None)


class WrongShape(Attention):
    caught_by: ClassVar[str] = "parameters"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return changed(super().cost(dims, position, context), "k.weight", Parameter((32, 16), Role.HIDDEN))


class RenamedParameter(Attention):
    caught_by: ClassVar[str] = "state_dict"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        cost = super().cost(dims, position, context)
        return changed(changed(cost, "o.weight", None), "out.weight", cost.parameters["o.weight"])


class RoleMissing(Attention):
    caught_by: ClassVar[str] = "roles"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return changed(super().cost(dims, position, context), "q.weight", Parameter((32, 32), Role.OTHER))


class OutputSaidToBeHidden(Attention):
    """Drawn too large where the residual stream's outputs are scaled by depth."""

    caught_by: ClassVar[str] = "output_role"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return changed(super().cost(dims, position, context), "o.weight", Parameter((32, 32), Role.HIDDEN))


class UnrepeatableInit(Attention):
    caught_by: ClassVar[str] = "initialization"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        drawn = Parameter((4,), Role.SINK, init=lambda tensor, generator: tensor.normal_())
        return changed(super().cost(dims, position, context), "sinks", drawn)


def changed(cost: Cost, name: str, parameter: Parameter | None) -> Cost:
    rest = {n: p for n, p in cost.parameters.items() if n != name}
    return replace(cost, parameters=rest if parameter is None else {**rest, name: parameter})
