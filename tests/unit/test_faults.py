"""A plugin's mistake is told with the plugin, the block, the layer and the line, in models, training and the suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from blockzoo.blocks import Cost, Dims, FFNConfig, LinearFactory, Parameter, Role, linear_cost
from blockzoo.building import build
from blockzoo.config import load_config
from blockzoo.errors import ConfigError, PluginError
from blockzoo.faults import explained
from blockzoo.kernels import YES, Call, Capabilities, Kernel, Verdict, no
from blockzoo.registry import Registrar, Registry
from blockzoo.testing import CheckFailed, checks
from blockzoo.training.config import TrainConfig
from blockzoo.training.run import Run
from tests.conftest import builtin_registry
from tests.unit.training.conftest import MODEL, TRAIN

LINE = r"\(.*test_faults\.py:\d+\)"
BUFFERS = ("unsaid", "unsaved")


class FaultyConfig(FFNConfig):
    """An ffn with a fault."""

    stackable: ClassVar[bool] = True
    said: ClassVar[str] = ""

    fault: str = Field("", description="what is wrong with it")

    @classmethod
    def samples(cls) -> list[FaultyConfig]:
        return [cls(fault=cls.said)]

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        if self.fault == "build":
            raise ZeroDivisionError
        return Faulty(linear(dims.d_model, dims.d_model, bias=False), dims.d_model, self.fault)

    def cost(self, dims: Dims) -> Cost:
        if self.fault == "role":
            return Cost({"gain": Parameter((dims.d_model,))})  # type: ignore[call-arg]
        gain = Parameter((dims.d_model + (self.fault == "shape"),), Role.GAIN)
        buffers = {"table": Parameter((2,), Role.OTHER)} if self.fault == "unsaved" else {}
        down = linear_cost(dims.d_model, dims.d_model, bias=False, role=Role.RESIDUAL_OUTPUT)
        return down.under("down") + Cost({"gain": gain}, buffers=buffers)


class Faulty(nn.Module):
    def __init__(self, down: nn.Module, d_model: int, fault: str) -> None:
        super().__init__()
        self.down, self.gain, self.fault = down, nn.Parameter(torch.empty(d_model)), fault
        if fault in BUFFERS:
            self.register_buffer("table", torch.empty(2), persistent=fault != "unsaved")

    def forward(self, x: Tensor, *which: object) -> Any:
        if self.fault == "forward":
            raise ArithmeticError("no sum")
        y = self.down(x, *which) * self.gain
        return y if self.fault == "bare" else (y, {})


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = builtin_registry()
    registrar = Registrar(found, "wrong")
    registrar.block("ffn", "faulty", FaultyConfig)
    registrar.commit()
    return found


def model_with(fault: str, registry: Registry, **more: Any) -> Any:
    layers = {"count": 2, "mixer": "attention", "ffn": {"type": "faulty", "fault": fault}}
    return load_config({**MODEL, "layers": layers, **more}, registry=registry)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("role", rf"plugin wrong, ffn faulty at layers\.0\.ffn: cost\(\) raised TypeError: .*'role' {LINE}"),
        ("build", rf"plugin wrong, ffn faulty at layers\.0\.ffn: build\(\) raised ZeroDivisionError {LINE}"),
        ("shape", r"plugin wrong, ffn faulty: .*'layers\.0\.ffn\.gain': its shape is \(16,\) in the module, .*\(17,\)"),
        ("unsaid", r"plugin wrong, ffn faulty: .*buffer 'layers\.0\.ffn\.table': .*, it is not in cost\(\)"),
    ],
)
def test_a_build_that_fails(registry: Registry, fault: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        build(model_with(fault, registry), registry=registry)


def test_a_forward_that_raises(registry: Registry) -> None:
    model = build(model_with("forward", registry), registry=registry)
    with pytest.raises(ArithmeticError) as caught:
        model(torch.zeros(1, 4, dtype=torch.int64))
    error = explained(caught.value, registry)
    assert isinstance(error, PluginError)
    assert "plugin wrong at layers.0.ffn raised ArithmeticError: no sum (" in str(error)
    assert explained(ValueError("ours"), registry).args == ("ours",)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_ffn_that_returns_its_output_alone(registry: Registry, batch: int) -> None:
    model = build(model_with("bare", registry), registry=registry)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        model(torch.zeros(batch, 4, dtype=torch.int64))
    message = str(explained(caught.value, registry))
    assert "plugin wrong" in message
    assert "layers.0" in message
    assert "return (y, {})" in message


def test_training_leaves_no_folder_behind_what_cannot_be_built(registry: Registry, tmp_path: Path) -> None:
    source: Any = None  # it isn't come to
    run = Run(model_with("role", registry), TrainConfig.model_validate(TRAIN), source, tmp_path, registry, "bytes")
    with pytest.raises(PluginError, match=r"layers\.0\.ffn"):
        run.execute()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fault", "check", "message"),
    [
        ("bare", "reports", r"returns Tensor, not \(y, aux\): return \(y, \{\}\)"),
        ("", "stacks", r"\['gain'\] are not made by linear\(\): such a block can't be stacked"),
        (
            "",
            "flops",
            r"cost\(\) says 4096: two for each .*; counted: 2048 in mm of \(1, 32\), \(32, 32\)",
        ),
        ("unsaid", "parameters", r"Cost\(buffers=\{'table': Parameter\(shape, Role\.OTHER, init=\.\.\.\)\}\)"),
        ("unsaved", "state_dict", r"\['table'\] are not persistent"),
    ],
)
def test_the_suite_names_the_fix(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, fault: str, check: str, message: str
) -> None:
    monkeypatch.setattr(FaultyConfig, "said", fault)
    if check == "flops":
        twice = FaultyConfig.cost
        monkeypatch.setattr(FaultyConfig, "cost", lambda self, dims: twice(self, dims) + Cost(flops=2048))
    (found,) = [one for one in checks("wrong", registry) if one.name == check]
    with pytest.raises(CheckFailed, match=message):
        found.run()


def test_an_expert_that_cannot_be_stacked_is_named_as_registered(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyConfig, "stackable", False)
    moe = {"type": "moe", "n_experts": 2, "top_k": 1, "expert": {"type": "faulty"}}
    model = {**MODEL, "layers": {"count": 1, "mixer": "attention", "ffn": moe}}
    with pytest.raises(ConfigError, match="ffn wrong:faulty declares stackable = False"):
        load_config(model, registry=registry)
    monkeypatch.undo()
    with pytest.raises(PluginError, match=r"experts\.gain': .* made by linear\(\) can't be stacked as experts"):
        build(load_config(model, registry=registry), registry=registry)


def test_the_best_other_kernel_serves_what_a_named_one_refuses(registry: Registry) -> None:
    def supports(capabilities: Capabilities, call: Call) -> Verdict:
        return no("not in training") if call.phase == "train" else YES

    attention = registry.ops()["attention"].reference
    registrar = Registrar(registry, "wrong")
    registrar.kernel("attention", Kernel("mine", attention, supports, backward=True, priority=-1))
    registrar.commit()
    model = build(model_with("", registry), registry=registry, kernels={"attention": "mine"})
    plain = build(model_with("", registry), registry=registry)
    chosen, unasked = ({b.phase: b.kernel for b in m.bindings if b.op == "attention"} for m in (model, plain))
    assert chosen == {"train": unasked["train"], "prefill": "mine", "decode": "mine"}
    assert unasked["train"] not in ("mine", "reference")
