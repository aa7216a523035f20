"""What every registered block owes its users, whoever wrote it."""

from __future__ import annotations

import pydantic
import pytest
import torch

from blockzoo.accounting import parameters_of
from blockzoo.blocks import KINDS, BlockConfig, MixerConfig, NormConfig, Role
from blockzoo.registry import Registry
from tests.contract.mixes import configs_of, draw_model


def all_blocks(registry: Registry) -> list[tuple[str, type[BlockConfig]]]:
    return [(f"{kind}/{name}", registry.block(kind, name)) for kind in KINDS for name in registry.names(kind)]


def test_every_block_is_documented(registry: Registry) -> None:
    for name, config in all_blocks(registry):
        assert config.__doc__, f"{name} has no docstring"
        assert "YAML:" in config.__doc__, f"{name}: show the YAML in the docstring"
        for field, info in config.model_fields.items():
            assert info.description, f"{name}.{field} has no description"


def test_every_block_is_frozen_and_refuses_unknown_keys(registry: Registry) -> None:
    for name, config in all_blocks(registry):
        assert config.model_config["frozen"], name
        assert config.model_config["extra"] == "forbid", name
        with pytest.raises(pydantic.ValidationError, match="no_such_option"):
            config.model_validate({"no_such_option": 1})


def test_the_random_models_meet_every_registered_block(registry: Registry) -> None:
    """So that a block added later can't be forgotten by the property test."""
    met: set[type[BlockConfig]] = set()
    for seed in range(60):
        model = draw_model(seed, registry)
        tops = [model.embedding.position, model.embedding.quantizer, model.embedding.norm, model.head.norm]
        for layer in model.layers:
            tops += [layer.mixer, layer.ffn, layer.norm, layer.position, layer.residual]
        met |= {type(inner) for top in tops if top is not None for inner in configs_of(top)}
    missing = [name for name, config in all_blocks(registry) if config not in met]
    assert not missing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_norms_keep_shape_and_dtype(registry: Registry, dtype: torch.dtype) -> None:
    for name in registry.names("norm"):
        config = registry.block("norm", name)()
        assert isinstance(config, NormConfig)
        module = config.build(12).to(dtype)
        x = torch.randn(2, 3, 12).to(dtype)
        assert module(x).shape == x.shape
        assert module(x).dtype == dtype


def test_every_parameter_has_a_role_that_fits_its_shape(registry: Registry) -> None:
    for seed in range(40):
        for name, parameter in parameters_of(draw_model(seed, registry)).items():
            if name.endswith(".bias"):
                assert parameter.role is Role.BIAS, name
            elif parameter.role in (Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.ROUTER, Role.EMBEDDING, Role.OUTPUT):
                assert len(parameter.shape) >= 2, name
            assert 0 < parameter.active_numel <= parameter.numel


def test_mixers_declare_the_positions_they_take(registry: Registry) -> None:
    for name in registry.names("mixer"):
        config = registry.block("mixer", name)
        assert issubclass(config, MixerConfig)
        assert "none" in config.positions, f"{name} can't do without a position"
        assert "additive" not in config.positions
