"""CompleteP by roles: what is divided by what, and that nothing is at the base's own shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from blockzoo import building
from blockzoo.accounting import parameters_of
from blockzoo.blocks import ResidualConfig, Role
from blockzoo.checkpoints import from_pretrained
from blockzoo.config import digest, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError
from blockzoo.initialization import draw, std_of
from blockzoo.registry import Registry
from blockzoo.training.config import CompletePConfig, OptimizerConfig
from blockzoo.training.optimizer import make_optimizer
from blockzoo.training.parametrization import Factors, check_heads, factors_of, parametrized
from blockzoo.training.run import Run
from tests.unit.training.conftest import MODEL

BASE = CompletePConfig(type="completep", d_model=16, n_layers=2)


def grown(registry: Registry, **overrides: Any) -> ModelConfig:
    """The tiny model, twice as wide and three times as deep, with heads of the same width."""
    wide = {"d_model": 32, "layers.mixer.n_heads": 4, "layers.ffn.expert.d_ff": 16, "layers.count": 6}
    return load_config(MODEL, wide | overrides, registry=registry)


def test_at_the_bases_own_shape_nothing_changes(tiny: ModelConfig, registry: Registry) -> None:
    gpt2 = tiny.model_copy(update={"init": tiny.init.model_copy(update={"residual_output": "depth_scaled"})})
    for model in (tiny, gpt2):
        assert parametrized(model, BASE) == parametrized(model, None) == model
        assert parametrized(model, BASE) is model
        assert set(factors_of(model, BASE).values()) == {Factors()}
    model = building.build(tiny, registry=registry, trainable=True)
    plain, same = (make_optimizer(model, tiny, OptimizerConfig(), base) for base in (None, BASE))
    assert plain.state_dict() == same.state_dict()


def test_a_run_at_the_bases_own_shape_is_the_standard_one_bit_for_bit(new_run: Callable[..., Run]) -> None:
    plain = new_run("plain").execute()
    same = new_run("same", parametrization=BASE.model_dump()).execute()
    assert plain.path.name != same.path.name, "it is part of what a run is"
    losses = [[line.get("loss") for line in folder.metrics.read()] for folder in (plain, same)]
    assert losses[0] == losses[1]
    assert (plain.model / "model.safetensors").read_bytes() == (same.model / "model.safetensors").read_bytes()


def test_the_model(registry: Registry) -> None:
    model = parametrized(grown(registry), BASE)
    assert all(layer.residual.multiplier == 1 / 3 for layer in model.layers)  # type: ignore[attr-defined]
    assert len({id(layer) for layer in model.layers}) == 1, "equal layers stay one object"
    assert model.head.logit_scale == 1 / 2
    hidden = 0.02 / math.sqrt(2)
    stds = {role: std_of(model, role) for role in Role}
    for role in (Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.ROUTER):
        assert stds[role] == pytest.approx(hidden)
    assert stds[Role.EMBEDDING] == stds[Role.OUTPUT] == 0.02
    drawn = draw(model, "w", parameters_of(model)["layers.0.mixer.q.weight"], seed=0)
    assert drawn.std().item() == pytest.approx(hidden, rel=0.1)


def test_gpt2s_init_no_longer_depends_on_depth(registry: Registry) -> None:
    """Its divisor is held at the base's depth: branches are divided by depth already."""
    stds = set()
    for count in (2, 6, 12):
        model = grown(registry, **{"init.residual_output": "depth_scaled", "layers.count": count})
        stds.add(std_of(parametrized(model, BASE), Role.RESIDUAL_OUTPUT))
    assert list(stds) == pytest.approx([0.02 / math.sqrt(2 * BASE.n_layers) / math.sqrt(2)])


def test_embeddings_scaled_by_the_width_are_held_at_the_bases(registry: Registry) -> None:
    model = parametrized(grown(registry, **{"embedding.scale": "sqrt_d_model"}), BASE)
    assert model.embedding.scale == 4.0


def test_factors_by_role(registry: Registry) -> None:
    model = grown(registry, **{"head.bias": True, "embedding.tied": False})
    factors = factors_of(model, BASE)
    matrix = Factors(lr=1 / 2, weight_decay=2, eps=1 / 6)
    for name in ("mixer.q", "mixer.o", "ffn.router", "ffn.experts.gate", "ffn.experts.down"):
        assert factors[f"layers.3.{name}.weight"] == matrix, name
    vector = Factors(eps=1 / 6)
    for name in ("mixer.q.bias", "mixer.sinks", "mixer_norm.weight", "ffn_norm.bias", "ffn.router.bias"):
        assert factors[f"layers.3.{name}"] == vector, name
    ends = Factors(eps=1 / 2)
    for name in ("embedding.tokens", "embedding.position", "head.unembedding", "head.norm"):
        assert factors[f"{name}.weight"] == ends, name
    assert factors["head.bias"] == Factors(lr=2, eps=1 / 2)


def test_groups_of_the_optimizer(registry: Registry) -> None:
    config = grown(registry)
    model = building.build(config, registry=registry, trainable=True)
    settings = OptimizerConfig(lr=0.01, weight_decay=0.3, eps=6e-8)
    optimizer = make_optimizer(model, config, settings, BASE)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    hidden = found["layers.0.ffn.experts.up.weight"]
    assert (hidden["lr"], hidden["lr_factor"], hidden["weight_decay"]) == (0.005, 0.5, 0.6)
    assert hidden["eps"] == pytest.approx(1e-8)
    assert hidden["lr"] * hidden["weight_decay"] == pytest.approx(0.01 * 0.3), "as much decay a step as ever"
    gain, table = found["layers.0.ffn_norm.weight"], found["embedding.tokens.weight"]
    assert (gain["lr"], gain["weight_decay"], gain["eps"]) == (0.01, 0.0, hidden["eps"])
    assert (table["lr"], table["weight_decay"], table["eps"]) == (0.01, 0.3, pytest.approx(3e-8))


def test_the_biases_rate_undoes_the_division_of_logits(registry: Registry) -> None:
    """One Adam step moves each logit's bias by lr, whatever the width."""
    moved = []
    for width in (1, 4):
        shape = {"d_model": 16 * width, "layers.mixer.n_heads": 2 * width, "head.bias": True, "embedding.dropout": 0.0}
        model = building.build(
            parametrized(load_config(MODEL, shape, registry=registry), BASE), registry=registry, trainable=True
        )
        optimizer = make_optimizer(model, model.config, OptimizerConfig(lr=0.01), BASE)
        logits = model(torch.arange(8)[None])
        logits[..., 5].sum().backward()
        optimizer.step()
        assert model.head.bias is not None
        moved.append(model.head.bias[5].item() * model.head.logit_scale)
    assert moved == pytest.approx([-0.01, -0.01], rel=1e-4)


def test_the_saved_model_computes_the_same(new_run: Callable[..., Run], registry: Registry) -> None:
    """Its config holds all multipliers: whoever loads it needs to know nothing of CompleteP."""
    small = {"type": "completep", "d_model": 8, "n_layers": 1}
    run = new_run(parametrization=small)
    folder = run.execute()
    loaded = from_pretrained(folder.model, registry=registry)
    said = parametrized(run.model, run.train.parametrization)
    assert digest(loaded.config, registry) == digest(said, registry) != digest(run.model, registry)
    assert loaded.config.head.logit_scale == 1 / 2
    rebuilt = building.build(said, registry=registry, trainable=True)
    folder.checkpoints.load(rebuilt, torch.optim.AdamW(rebuilt.parameters()), _names(rebuilt))
    tokens = torch.arange(24).view(2, 12)  # more rows than a decoding kernel takes, so both run the same products
    with torch.no_grad():
        assert torch.equal(loaded(tokens), rebuilt.eval()(tokens))


def _names(model: torch.nn.Module) -> dict[torch.nn.Parameter, str]:
    return {parameter: name for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("residual", ["pre_norm", "sandwich", {"type": "parallel", "shared_norm": False}])
def test_built_in_residuals_scale(residual: Any, registry: Registry) -> None:
    model = grown(registry, residual=residual)
    assert {layer.residual.multiplier for layer in parametrized(model, BASE).layers} == {1 / 3}  # type: ignore[attr-defined]


def test_a_residual_that_does_not_scale_is_refused(tiny: ModelConfig) -> None:
    class Stubborn(ResidualConfig):
        pass

    layers = tuple(layer.model_copy(update={"residual": Stubborn()}) for layer in tiny.layers)
    model = tiny.model_copy(update={"layers": layers})
    assert parametrized(model, BASE) is model, "at the base's depth nothing is asked of it"
    with pytest.raises(InputError, match=r"Stubborn.*scaled\(factor\)"):
        parametrized(model, BASE.model_copy(update={"n_layers": 1}))


def test_wider_heads_are_refused(tiny: ModelConfig, registry: Registry) -> None:
    check_heads(grown(registry), tiny)
    wider = grown(registry, **{"layers.mixer.n_heads": 2})
    with pytest.raises(InputError, match=r"head_dim is 16, 8 in tiny.*n_heads.*mixer\.scale"):
        check_heads(wider, tiny)
    base = load_config(MODEL, {"layers.mixer.scale": 0.25}, registry=registry)
    check_heads(grown(registry, **{"layers.mixer.n_heads": 2, "layers.mixer.scale": 0.125}), base)
