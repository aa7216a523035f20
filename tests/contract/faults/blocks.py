"""Norms, feed-forward blocks, residuals and positions with one fault each."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from blockzoo.blocks import (
    Aux,
    Cost,
    Dims,
    FFNConfig,
    LinearFactory,
    NormConfig,
    Parameter,
    ResidualConfig,
    Role,
    linear_cost,
)
from blockzoo.cache import State
from blockzoo.step import Step
from blockzoo_blocks.ffn.moe import MoEConfig
from blockzoo_blocks.positions.rope import Rope, RopeConfig, rotation_table
from blockzoo_blocks.residuals.pre_norm import PreNorm, PreNormConfig

# --- norms ---


class Norm(NormConfig):
    """The control: root mean square, without a fault."""

    caught_by: ClassVar[str] = ""

    def build(self, dim: int) -> nn.Module:
        return NormModule(dim, self.formula)

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.GAIN)})

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.double() if x.dtype == torch.float64 else x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight).to(x.dtype)


class NormModule(nn.Module):
    def __init__(self, dim: int, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(x, self.weight)


class ScaleInTheWrongDtype(Norm):
    caught_by: ClassVar[str] = "dtypes"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return Norm.formula(x, weight) * weight.float()


class NormsTheBatch(Norm):
    caught_by: ClassVar[str] = "batch_independence"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean() + 1e-6) * weight


class NormsTheTokens(Norm):
    caught_by: ClassVar[str] = "any_leading_shape"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=(-2, -1) if x.dim() > 1 else -1, keepdim=True) + 1e-6) * weight


class NaNAtLargeInputs(Norm):
    caught_by: ClassVar[str] = "extremes"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x.exp() / x.exp().sum(-1, keepdim=True) * weight


class NoEpsilon(Norm):
    caught_by: ClassVar[str] = "extremes"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x / x.square().mean(-1, keepdim=True).sqrt() * weight


class WritesToItsInput(Norm):
    caught_by: ClassVar[str] = "leaves_inputs_alone"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return Norm.formula(x.div_(2), weight)


class DetachedGain(Norm):
    caught_by: ClassVar[str] = "gradients"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return Norm.formula(x, weight.detach())


class WrongBackward(Norm):
    """The statistics are taken for constants."""

    caught_by: ClassVar[str] = "gradients"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.detach().square().mean(-1, keepdim=True) + 1e-6) * weight


class OneWidthOnly(Norm):
    caught_by: ClassVar[str] = "any_width"

    def build(self, dim: int) -> nn.Module:
        return NormModule(32, self.formula)


class NormsPairs(Norm):
    """Fits an even width, and trips over an odd one that it didn't refuse."""

    caught_by: ClassVar[str] = "any_width"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        pairs = x.unflatten(-1, (-1, 2))
        wide = pairs.double() if x.dtype == torch.float64 else pairs.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
        return (normed.flatten(-2) * weight).to(x.dtype)


class NormsPairsAndSaysSo(NormsPairs):
    """No fault."""

    caught_by: ClassVar[str] = ""

    def refuses(self, dim: int) -> str | None:
        return f"it norms pairs, found {dim} features" if dim % 2 else None


class RefusesWithoutAReason(NormsPairs):
    caught_by: ClassVar[str] = "any_width"

    def refuses(self, dim: int) -> Any:
        return True if dim % 2 else None


class RefusesItsOwnSample(Norm):
    caught_by: ClassVar[str] = "parameters"

    def refuses(self, dim: int) -> str | None:
        return f"it is for 48 features, found {dim}"


class IgnoresItsInput(Norm):
    caught_by: ClassVar[str] = "changes_something"

    @staticmethod
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return Norm.formula(torch.ones_like(x), weight)


class GainSaidToBeAMatrix(Norm):
    """Weight decay, and a quantizer, would take it."""

    caught_by: ClassVar[str] = "roles"

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.HIDDEN)})


class MoreActiveThanThereIs(Norm):
    caught_by: ClassVar[str] = "roles"

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.GAIN, active=2 * dim)})


class InitLeavesHalf(Norm):
    caught_by: ClassVar[str] = "initialization"

    def cost(self, dim: int) -> Cost:
        half = Parameter((dim,), Role.GAIN, init=lambda tensor, generator: tensor[: dim // 2].fill_(1.0))
        return Cost({"weight": half})


class SetsItsGainItself(Norm):
    """0.5 in the constructor, which no model ever sees."""

    caught_by: ClassVar[str] = "initialization"

    def build(self, dim: int) -> nn.Module:
        module = super().build(dim)
        module.weight = nn.Parameter(torch.full((dim,), 0.5))
        return module


class OpensItsGateItself(Norm):
    """Zeros where ``cost`` has nothing to say but a role that draws."""

    caught_by: ClassVar[str] = "initialization"

    def build(self, dim: int) -> nn.Module:
        module = super().build(dim)
        module.weight = nn.Parameter(torch.zeros(dim))
        return module

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.OTHER)})


class SetsARamp(Norm):
    """Another ramp in the constructor than in ``cost``."""

    caught_by: ClassVar[str] = "initialization"

    def build(self, dim: int) -> nn.Module:
        module = super().build(dim)
        module.weight = nn.Parameter(torch.linspace(0.5, 1.0, dim))
        return module

    def cost(self, dim: int) -> Cost:
        ramp = Parameter((dim,), Role.OTHER, init=lambda t, generator: t.copy_(torch.linspace(1.0, 2.0, dim)))
        return Cost({"weight": ramp})


class HoldsALock(Norm):
    caught_by: ClassVar[str] = "module_copies"

    def build(self, dim: int) -> nn.Module:
        module = super().build(dim)
        module.lock = threading.Lock()
        return module


class DrawsWhenBuilt(Norm):
    caught_by: ClassVar[str] = "depends_on_weights_alone"

    def build(self, dim: int) -> nn.Module:
        scale = random.random()
        return NormModule(dim, lambda x, weight: Norm.formula(x, weight) * scale)


class TensorAttribute(Norm):
    caught_by: ClassVar[str] = "builds_on_meta"

    def build(self, dim: int) -> nn.Module:
        module = super().build(dim)
        module.table = torch.arange(dim)
        return module


class AllocatesWhenBuilt(Norm):
    caught_by: ClassVar[str] = "builds_on_meta"

    def build(self, dim: int) -> nn.Module:
        torch.zeros(1000, device="cpu")
        return super().build(dim)


class GrowsAnOptionThatItLacks(Norm):
    """``scales`` of a misspelt option."""

    caught_by: ClassVar[str] = "declarations"
    scales: ClassVar[Any] = {"epz": "width"}
    eps: float = Field(1e-6, description="added to the mean square")


class GrowsBySomethingUnknown(GrowsAnOptionThatItLacks):
    caught_by: ClassVar[str] = "declarations"
    scales: ClassVar[Any] = {"eps": "heads"}


class ComputesWhatGrows(GrowsAnOptionThatItLacks):
    """A property where a class is asked."""

    caught_by: ClassVar[str] = "declarations"

    @property
    def scales(self) -> Any:  # type: ignore[override]
        return {"eps": "width"}


class FactorThatIsABias(Norm):
    """A bias begins at 0."""

    caught_by: ClassVar[str] = "starts_with_a_signal"

    def cost(self, dim: int) -> Cost:
        return Cost({"weight": Parameter((dim,), Role.BIAS)})


class UndescribedOption(Norm):
    """An option that nobody explains."""

    caught_by: ClassVar[str] = "described"
    eps: float = 1e-6


class UntypedOption(Norm):
    caught_by: ClassVar[str] = "config_errors"
    eps: Any = Field(1e-6, description="anything at all")


class ThawedConfig(Norm):
    caught_by: ClassVar[str] = "frozen"
    model_config = ConfigDict(frozen=False)


class RewritesItsOption(Norm):
    caught_by: ClassVar[str] = "config_round_trip"
    eps: float = Field(1e-6, description="halved whenever it is read")

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(eps=1e-6)]

    @field_validator("eps")
    @classmethod
    def halved(cls, eps: float) -> float:
        return eps / 2


def local_class() -> type[Norm]:
    class CannotBePickled(Norm):
        """Defined inside a function."""

        caught_by: ClassVar[str] = "copies"

    return CannotBePickled


CannotBePickled = local_class()

# --- feed-forward blocks ---


class FFN(FFNConfig):
    """The control: one stackable matrix, without a fault."""

    caught_by: ClassVar[str] = ""
    stackable: ClassVar[bool] = True

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        return FFNModule(linear(dims.d_model, dims.d_model, bias=True), self.formula)

    def cost(self, dims: Dims) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=True, role=Role.RESIDUAL_OUTPUT).under("down")

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
        return down(x, *which)


class FFNModule(nn.Module):
    def __init__(self, down: nn.Module, formula: Callable[..., Tensor]) -> None:
        super().__init__()
        self.down = down
        self.formula = formula

    def forward(self, x: Tensor, *which: object) -> tuple[Tensor, Aux]:
        return self.formula(self.down, x, *which), {}


class TakesAnActivation(FFN):
    """The control of the two below."""

    caught_by: ClassVar[str] = ""
    activation: str = Field("none", pattern="^(none|relu)$", description="before the matrix")

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return [cls(), cls(activation="relu")]

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
            return down(self.activate(x), *which)

        return FFNModule(linear(dims.d_model, dims.d_model, bias=True), formula)

    def activate(self, x: Tensor) -> Tensor:
        return x.relu() if self.activation == "relu" else x


class ForgetsTheActivation(TakesAnActivation):
    caught_by: ClassVar[str] = ""  # of its own test: the control lacks the option

    def activate(self, x: Tensor) -> Tensor:
        x.relu()
        return x


class Around(BaseModel):
    """A section: no block, so its options are the block's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    factor: float = Field(1.0, description="on the input")
    shift: float = Field(0.0, description="added to the input")


class ForgetsPartOfASection(FFN):
    caught_by: ClassVar[str] = ""
    around: Around | None = Field(None, description="what is done to the input")

    @classmethod
    def samples(cls) -> Sequence[Self]:
        return [cls(), cls(around=Around(factor=2.0, shift=1.0))]

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        factor = 1.0 if self.around is None else self.around.factor

        def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
            return down(x * factor, *which)

        return FFNModule(linear(dims.d_model, dims.d_model, bias=True), formula)


class ActivatesInTraining(TakesAnActivation):
    caught_by: ClassVar[str] = ""

    def activate(self, x: Tensor) -> Tensor:
        return x.relu() if self.activation == "relu" and torch.is_grad_enabled() else x


class AnotherWayToTheSame(TakesAnActivation):
    """In two parts: what it saves is memory."""

    caught_by: ClassVar[str] = ""

    def activate(self, x: Tensor) -> Tensor:
        return torch.cat(x.chunk(2, dim=-1), dim=-1) if self.activation == "relu" else x


class BiasTimesZero(FFN):
    caught_by: ClassVar[str] = "weights_count"

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
        bias: Any = down.bias
        return x @ down.weight.mT + 0 * bias  # type: ignore[operator, union-attr]


class BlowsUpInBfloat16(FFN):
    """A large angle, taken in the activations' dtype."""

    caught_by: ClassVar[str] = "bfloat16"

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
        return (100 * down(x, *which)).sin()


class Mixture(MoEConfig):
    """Without a fault: two of eight experts a token."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(n_experts=8, top_k=2, expert=FFN())]


class UsesAllOfIt(Mixture):
    caught_by: ClassVar[str] = "active_parameters"

    def cost(self, dims: Dims) -> Cost:
        cost = super().cost(dims)
        return replace(cost, parameters={name: replace(p, active=None) for name, p in cost.parameters.items()})


class MixesTokens(FFN):
    caught_by: ClassVar[str] = "tokens_alone"

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
        return down(x, *which) + x.mean(dim=-2, keepdim=True)


class StacksAnotherOrder(FFN):
    caught_by: ClassVar[str] = "stacks"

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: Any) -> Tensor:
        return down(x, *(list(reversed(counts)) for counts in which))


class BiasSaidToBeAGain(FFN):
    caught_by: ClassVar[str] = "roles"

    def cost(self, dims: Dims) -> Cost:
        cost = super().cost(dims)
        return replace(cost, parameters={**cost.parameters, "down.bias": Parameter((dims.d_model,), Role.GAIN)})


class TwoOutputs(FFN):
    """Two matrices whose outputs are added, of which one is said to write to the residual stream."""

    caught_by: ClassVar[str] = "output_role"

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        module = super().build(dims, linear)
        module.other = linear(dims.d_model, dims.d_model, bias=False)
        module.formula = lambda down, x, *which: self.joined(down(x, *which), module.other(x, *which))
        return module

    def cost(self, dims: Dims) -> Cost:
        return super().cost(dims) + linear_cost(dims.d_model, dims.d_model, bias=False).under("other")

    @staticmethod
    def joined(y: Tensor, other: Tensor) -> Tensor:
        return y + other


class LinearGate(TwoOutputs):
    """Without a fault: of two matrices that are multiplied one is the output."""

    caught_by: ClassVar[str] = ""

    @staticmethod
    def joined(y: Tensor, other: Tensor) -> Tensor:
        return y * other


class NormedOutput(FFN):
    """Without a fault: no linear stands last."""

    caught_by: ClassVar[str] = ""

    @staticmethod
    def formula(down: nn.Module, x: Tensor, *which: object) -> Tensor:
        return nn.functional.normalize(down(x, *which), dim=-1)


class ReportsNumbers(FFN):
    """A Python number where a tensor is due."""

    caught_by: ClassVar[str] = "reports"

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        class Module(FFNModule):
            def forward(self, x: Tensor, *which: object) -> tuple[Tensor, Aux]:
                return super().forward(x, *which)[0], {"balance_loss": 0.5}  # type: ignore[dict-item]

        return Module(linear(dims.d_model, dims.d_model, bias=True), self.formula)


class StacksInPart(FFN):
    """The only sample of an option that isn't passed on can't be stacked, for another one."""

    caught_by: ClassVar[str] = ""  # of its own test: the control lacks the options
    twice: bool = Field(False, description="apply the matrix twice")
    gain: bool = Field(False, description="an own parameter, which makes it unfit for stacking")

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(), cls(twice=True, gain=True)]

    @property
    def stackable(self) -> bool:  # type: ignore[override]
        return not self.gain

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        module = super().build(dims, linear)
        if self.twice:
            module.formula = lambda down, x, *which: down(down(x, *which))
        return module


class BareTensor(FFN):
    """y where (y, aux) is due."""

    caught_by: ClassVar[str] = "reports"

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        class Module(FFNModule):
            def forward(self, x: Tensor, *which: object) -> Any:
                return super().forward(x, *which)[0]

        return Module(linear(dims.d_model, dims.d_model, bias=True), self.formula)


class CountsOneMultiplyAdd(FFN):
    caught_by: ClassVar[str] = "flops"

    def cost(self, dims: Dims) -> Cost:
        return Cost(super().cost(dims).parameters, flops=dims.d_model**2)


# --- residuals ---


class Residual(PreNormConfig):
    """The control: pre-norm, without a fault."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls()]

    def build(self, *args: Any, **kwargs: Any) -> PreNorm:
        module = super().build(*args, **kwargs)
        module.__class__ = self.module()
        return module

    @classmethod
    def module(cls) -> type[PreNorm]:
        return PreNorm


class DropsReports(Residual):
    caught_by: ClassVar[str] = "passes_reports_on"

    @classmethod
    def module(cls) -> type[PreNorm]:
        class Module(PreNorm):
            def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
                return super().forward(x, step, state)[0], {}

        return Module


class DropsTheState(Residual):
    caught_by: ClassVar[str] = "passes_state_on"

    @classmethod
    def module(cls) -> type[PreNorm]:
        class Module(PreNorm):
            def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
                return super().forward(x, step, None)

        return Module


class LeavesTheFFNOut(Residual):
    caught_by: ClassVar[str] = "both_branches_count"

    @classmethod
    def module(cls) -> type[PreNorm]:
        class Module(PreNorm):
            def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
                if self.mixer is None:
                    return super().forward(x, step, state)
                return self.join(x, self.mixer(self.mixer_norm(x), step, state)), {"seen": x.sum()}

        return Module


class OneNormTooMany(Residual):
    caught_by: ClassVar[str] = "norm_names"

    def norms(self, has_mixer: bool, has_ffn: bool) -> tuple[str, ...]:
        return (*super().norms(has_mixer, has_ffn), "last_norm")


class OneFactorForAll(Residual):
    caught_by: ClassVar[str] = "tables_are_its_own"

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(), cls(multiplier=0.5)]

    @classmethod
    def module(cls) -> type[PreNorm]:
        class Module(PreNorm):
            def forward(self, x: Tensor, step: Step, state: State | None = None) -> tuple[Tensor, Aux]:
                self.multiplier = step.table("multiplier", lambda: self.multiplier)
                return super().forward(x, step, state)

        return Module


class ForgetsTheFactor(Residual):
    caught_by: ClassVar[str] = "scales_its_branches"

    def scaled(self, factor: float) -> Self:
        return self


class ReplacesTheFactor(Residual):
    caught_by: ClassVar[str] = "scales_its_branches"

    def scaled(self, factor: float) -> Self:
        return self.model_copy(update={"multiplier": factor})


assert issubclass(Residual, ResidualConfig)

# --- positions ---


class Position(RopeConfig):
    """The control: rope, without a fault."""

    caught_by: ClassVar[str] = ""

    @classmethod
    def samples(cls) -> Sequence[Any]:
        return [cls(), cls(theta=100.0)]


class FormMisspelt(Position):
    caught_by: ClassVar[str] = "declarations"
    form: ClassVar[Any] = "rotary"


class RotatesByPlace(Position):
    caught_by: ClassVar[str] = "chunks_agree"

    def build(self, head_dim: int, n_heads: int) -> Rope:
        class Module(Rope):
            def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
                return super().rotate(q, k, Step(step.slots - step.slots[:, :1], step.slots, step.phase, True))

        return Module(self, head_dim)


class CountsPadding(Position):
    """Tokens after padding stand as far on as there is padding before them."""

    caught_by: ClassVar[str] = "padding"

    def build(self, head_dim: int, n_heads: int) -> Rope:
        class Module(Rope):
            def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
                moved = step.positions + (step.positions < 0).sum(dim=1, keepdim=True)
                return super().rotate(q, k, replace(step, positions=moved))

        return Module(self, head_dim)


class OneTableForAll(Position):
    caught_by: ClassVar[str] = "tables_are_its_own"

    def build(self, head_dim: int, n_heads: int) -> Rope:
        class Module(Rope):
            def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
                def make() -> tuple[Tensor, Tensor]:
                    return rotation_table(self.recipe, self.rotated, step.positions, torch.float64)

                cos, sin = (part.to(q.dtype) for part in step.table("rope", make))
                half = self.rotated // 2
                return tuple(  # type: ignore[return-value]
                    torch.cat(
                        [x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin], dim=-1
                    )
                    for x in (q, k)
                )

        return Module(self, head_dim)


class SaysItBiases(Position):
    caught_by: ClassVar[str] = "form"
    form: ClassVar[Any] = "biasing"


class RotatesOneTooFar(Position):
    """Keys stand one further on than queries of the same position, and twice as far as they should."""

    caught_by: ClassVar[str] = "position_shift"

    def build(self, head_dim: int, n_heads: int) -> Rope:
        class Module(Rope):
            def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
                twice = Step(2 * step.positions, step.slots, step.phase, step.consecutive)
                return super().rotate(q, k, step)[0], super().rotate(q, k, twice)[1]

        return Module(self, head_dim)


class KnowsOneWidthOfHeads(Position):
    """A width written down: heads of 8 are tried alone, those of the house are 16 wide."""

    caught_by: ClassVar[str] = "in_qwen3"

    def build(self, head_dim: int, n_heads: int) -> Rope:
        class Module(Rope):
            def rotate(self, q: Tensor, k: Tensor, step: Step) -> tuple[Tensor, Tensor]:
                q, k = (x.unflatten(-1, (2, 4)).flatten(-2) for x in (q, k))
                return super().rotate(q, k, step)

        return Module(self, head_dim)
