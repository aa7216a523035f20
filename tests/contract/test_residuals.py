"""A residual with parameters for each branch, in models whose layers have both, or one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blockzoo.accounting import account
from blockzoo.building import build
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.registry import Registry
from tests.contract.mixes import block
from tests.docs.test_plugin_pages import files_of


@pytest.mark.parametrize(("has_mixer", "has_ffn"), [(True, True), (True, False), (False, True)])
def test_a_scale_for_each_branch_there_is(has_mixer: bool, has_ffn: bool, registry: Registry) -> None:
    module: dict[str, Any] = {"__name__": "layer_scale"}
    exec(files_of("residual")["layer_scale.py"], module)
    layer = LayerConfig(
        mixer=block(registry, "mixer", "gqa", n_heads=4) if has_mixer else None,
        ffn=block(registry, "ffn", "glu", d_ff=64) if has_ffn else None,
        norm=block(registry, "norm", "rms_norm"),
        position=block(registry, "position", "rope"),
        residual=module["LayerScaleConfig"](start=0.5),
    )
    config = ModelConfig(vocab_size=64, context_length=32, d_model=32, layers=(layer, layer))
    model = build(config, registry=registry)
    scales = {name: p for name, p in model.named_parameters() if name.endswith("_scale")}
    branches = ["mixer"] * has_mixer + ["ffn"] * has_ffn
    assert list(scales) == [f"layers.{index}.{branch}_scale" for index in range(2) for branch in branches]
    assert all(torch.equal(scale, torch.full((32,), 0.5)) for scale in scales.values())
    assert account(config).parameters["total"] == sum(p.numel() for p in model.parameters())
