"""Toy blocks: the loader is tested without any plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from blockzoo.blocks import (
    AdditivePositionConfig,
    AttentionPositionConfig,
    BlockConfig,
    Cost,
    Dims,
    FFNConfig,
    MixerConfig,
    NormConfig,
    PositionForm,
    QuantizerConfig,
    ResidualConfig,
    linear_cost,
)
from blockzoo.errors import ConfigError
from blockzoo.registry import Registrar, Registry


class Plain(NormConfig):
    """A norm."""

    eps: float = Field(1e-5, gt=0, description="added")


class Attend(MixerConfig):
    """A mixer that rotates."""

    positions: ClassVar[frozenset[PositionForm]] = frozenset({"none", "rotating"})
    heads: PositiveInt = Field(description="how many heads")
    window: PositiveInt | None = Field(None, description="how far back")
    bias: bool | tuple[Literal["q", "k"], ...] = Field(False, description="biases")
    norm: NormConfig | None = Field(None, description="a norm on queries")

    def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
        if dims.d_model % self.heads:
            yield "heads", f"d_model {dims.d_model} is not a multiple of {self.heads}"

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=False)


class Recur(MixerConfig):
    """A mixer without positions."""

    width: PositiveInt = Field(8, description="of the state")

    def cost(self, dims: Dims, position: AttentionPositionConfig, context: int) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=False)


class Dense(FFNConfig):
    """An ffn."""

    d_ff: PositiveInt = Field(description="inner width")
    act: Literal["gelu", "silu"] = Field("gelu", description="activation")

    def cost(self, dims: Dims) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=False)


class Route(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    bias: bool = Field(False, description="a bias")
    top: PositiveInt = Field(1, description="how many")


class Experts(FFNConfig):
    """An ffn of ffns."""

    n: PositiveInt = Field(description="how many")
    router: Route = Field(Route(), description="who chooses")
    expert: FFNConfig = Field(description="each of them")
    shared: tuple[FFNConfig, ...] = Field((), description="for every token")

    def cost(self, dims: Dims) -> Cost:
        return linear_cost(dims.d_model, dims.d_model, bias=False)


class Stretch(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["stretch"] = "stretch"
    factor: float = Field(description="by how much")


class Ramp(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    type: Literal["ramp"] = "ramp"
    low: float = Field(1.0, description="from")


class Turn(AttentionPositionConfig):
    """A rotation."""

    form: ClassVar[PositionForm] = "rotating"
    theta: float = Field(1e4, gt=0, description="base")
    scaling: Annotated[Stretch | Ramp, Field(discriminator="type")] | None = Field(None, description="of the context")


class Nowhere(AttentionPositionConfig):
    """No position."""

    form: ClassVar[PositionForm] = "none"


class Table(AdditivePositionConfig):
    """A position added to the embedding."""


class Join(ResidualConfig):
    """A residual."""

    dropout: float = Field(0.0, ge=0, lt=1, description="in training")


class Pack(QuantizerConfig):
    """A quantizer."""

    bits: PositiveInt = Field(4, description="a weight")

    def refuses(self, shape: tuple[int, ...]) -> str | None:
        return f"packs {self.bits} weights or more, found {shape[-1]}" if shape[-1] < self.bits else None


TOYS: dict[str, dict[str, type[BlockConfig]]] = {
    "norm": {"plain": Plain},
    "mixer": {"attend": Attend, "recur": Recur},
    "ffn": {"dense": Dense, "experts": Experts},
    "position": {"turn": Turn, "none": Nowhere, "table": Table},
    "residual": {"pre_norm": Join},
    "quantizer": {"pack": Pack},
}


@pytest.fixture
def toys(tmp_path: Path) -> Registry:
    registry = Registry(builtin=frozenset({"toys"}), missing={"broken": "import_failed: no such thing"})
    registrar = Registrar(registry, "toys")
    for kind, blocks in TOYS.items():
        for name, config in blocks.items():
            registrar.block(kind, name, config)
    registrar.commit()
    (tmp_path / "shipped").mkdir()
    registry.config_folders = {"toys": [tmp_path / "shipped"]}
    return registry


BASE = """\
vocab_size: 16
context_length: 32
d_model: 8
norm: plain
position: turn
blocks:
  full: {type: attend, heads: 2}
  near: {use: full, window: 4}
  wide: {type: dense, d_ff: 32}
layers: {count: 4, mixer: full, ffn: wide}
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """write(text, name="model.yaml") -> the file."""

    def write(text: str, name: str = "model.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def base() -> str:
    return BASE


@pytest.fixture
def problems() -> Callable[[Callable[[], object]], list[str]]:
    """Runs something that must fail; its problems as ``line:column: path: message``, the file's name left out."""

    def problems(run: Callable[[], object]) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            run()
        lines = [str(problem) for problem in caught.value.problems]
        return [line.partition(".yaml:")[2] or line for line in lines]

    return problems


@pytest.fixture(scope="module")
def shipping() -> Registry:
    """The built-in blocks and everything in configs/ that is a model to start from."""
    from tests.conftest import builtin_registry

    registry = builtin_registry()
    configs = Path(__file__).resolve().parents[3] / "configs"
    registry.config_folders = {"blocks": [configs / name for name in ("gpt2", "qwen3", "gpt_oss", "ladder")]}
    return registry
