"""Groups by role."""

from __future__ import annotations

from blockzoo import building
from blockzoo.config.schema import ModelConfig
from blockzoo.registry import Registry
from blockzoo.training.config import OptimizerConfig
from blockzoo.training.optimizer import make_optimizer


def test_matrices_decay_and_nothing_else(tiny: ModelConfig, registry: Registry) -> None:
    model = building.build(tiny, registry=registry, trainable=True)
    optimizer = make_optimizer(model, tiny, OptimizerConfig(weight_decay=0.3))
    names = {parameter: name for name, parameter in model.named_parameters()}
    decays = {names[p]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays.keys() == set(names.values()), "every parameter once, the tied table too"
    decayed = {name for name, decay in decays.items() if decay}
    assert set(decays.values()) == {0.3, 0.0}
    for name in decays:
        is_matrix = name.endswith(".weight") and "norm" not in name
        assert (name in decayed) == is_matrix, name
    assert "layers.0.ffn.router.weight" in decayed
    assert not decayed & {"layers.0.ffn.router.bias", "layers.0.mixer.sinks", "layers.0.ffn.experts.up.bias"}
