"""Rope on a part of each head, in config.json: against the widths that transformers' own configs and classes give."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from transformers import GPTNeoXConfig, PhiConfig, Qwen3Config, StableLmConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.phi.modeling_phi import PhiRotaryEmbedding
from transformers.models.stablelm.modeling_stablelm import StableLmRotaryEmbedding

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.errors import CheckpointError
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_json import read_rope, write_rope
from blockzoo_blocks.positions.rope_scaling import YarnScaling, attention_factor

SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
HOUSES = {  # config and module of transformers, our fraction_key and default_fraction
    "phi": (PhiConfig, PhiRotaryEmbedding, "partial_rotary_factor", 0.5),
    "stablelm": (StableLmConfig, StableLmRotaryEmbedding, "partial_rotary_factor", 0.25),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXRotaryEmbedding, "rotary_pct", 0.25),
}


def ours(values: dict[str, Any], key: str | None, default: float = 1.0) -> RopeConfig:
    keys = ConfigJSON(values)
    said = read_rope(keys, 2048, 10000.0, fraction_key=key, default_fraction=default)
    keys.finish()
    return RopeConfig(**{name: value for name, value in said.items() if name != "type"})


def width_of(house: str, values: dict[str, Any]) -> int:
    """How many features of a head of 64 transformers rotates."""
    config, module, _, _ = HOUSES[house]
    return 2 * len(module(config.from_dict({**SIZES, **values})).inv_freq)


@pytest.mark.parametrize("house", HOUSES)
@pytest.mark.parametrize("where", ["nowhere", "outside", "inside", "both"])
def test_the_rotated_width_is_that_of_transformers(house: str, where: str) -> None:
    *_, key, default = HOUSES[house]
    values: dict[str, Any] = {}
    if where in ("outside", "both"):
        values[key] = 0.75
    if where in ("inside", "both"):
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    position = ours(values, key, default)
    assert position.rotated(64) == width_of(house, values) == (64 * default if where == "nowhere" else 48)


@pytest.mark.parametrize("house", HOUSES)
@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 2.0}])
def test_what_is_written_is_read_by_both(house: str, scaling: dict[str, Any] | None) -> None:
    *_, key, default = HOUSES[house]
    position = RopeConfig(fraction=0.375, scaling=scaling)
    written = write_rope(position, key)
    assert ours(written, key, default) == position
    assert width_of(house, written) == 24


def test_a_family_that_names_no_key_refuses_parts_and_says_how_to_read_them() -> None:
    for values in ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}):
        with pytest.raises(CheckpointError, match=r"is 0.5; this family's models rotate whole heads .*fraction_key="):
            ours(values, None)
    assert ours({"partial_rotary_factor": 1}, None).fraction == 1.0
    with pytest.raises(CheckpointError, match=r"no words for rope on a fraction of each head .*fraction_key="):
        write_rope(RopeConfig(fraction=0.5))


def test_a_kind_of_scaling_that_the_original_lacks_is_refused() -> None:
    """Phi-3's "yarn" is an old name of longrope."""
    for kind, said in (("yarn", {"factor": 4.0}), ("linear", {"factor": 2.0})):
        for name in ("rope_scaling", "rope_parameters"):
            keys = ConfigJSON({name: {"rope_type": kind, **said}})
            read_rope(keys, 2048, 10000.0, kinds=())
            with pytest.raises(CheckpointError, match=f"'rope_type' is '{kind}'; it must be one of default"):
                keys.finish()
    keys = ConfigJSON({"rope_scaling": {"type": "default"}})
    assert read_rope(keys, 2048, 10000.0, kinds=())["scaling"] is None
    keys.finish()


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8}


@pytest.mark.parametrize("theta", [{}, {"rope_theta": 500.0}])
@pytest.mark.parametrize("empty", ["rope_scaling", "rope_parameters"])
def test_an_empty_object_says_nothing(empty: str, theta: dict[str, float]) -> None:
    (full,) = {"rope_scaling", "rope_parameters"} - {empty}
    values = {empty: {}, full: {**YARN, **theta}}
    said = Qwen3Config.from_dict(deepcopy(values)).rope_parameters
    position = ours(values, None)
    assert isinstance(position.scaling, YarnScaling)
    assert (position.scaling.factor, position.theta) == (said["factor"], said["rope_theta"])


def test_a_theta_that_another_object_displaces_is_refused() -> None:
    """Transformers reads `rope_scaling` in place of `rope_parameters`, whose theta then goes for nothing."""
    values = {"rope_scaling": YARN, "rope_parameters": {**YARN, "rope_theta": 500.0}}
    assert Qwen3Config.from_dict(deepcopy(values)).rope_parameters["rope_theta"] == 10000.0
    with pytest.raises(CheckpointError, match="in 'rope_parameters' alone, which 'rope_scaling' displaces"):
        ours(values, None)
    values["rope_parameters"]["rope_theta"] = 10000.0
    assert ours(values, None).theta == 10000.0


def test_two_fractions_must_be_one_and_each_a_number() -> None:
    inner = {"rope_parameters": {"partial_rotary_factor": 0.5}}
    with pytest.raises(
        CheckpointError, match=r"'rotary_pct' is 0.25, 'rope_parameters.partial_rotary_factor' is 0.5; keep"
    ):
        ours({"rotary_pct": 0.25, **inner}, "rotary_pct")
    with pytest.raises(CheckpointError, match="'rotary_pct' is 'half'; it must be a number"):
        ours({"rotary_pct": "half"}, "rotary_pct")


@pytest.mark.parametrize(
    "said", [{"mscale": 1.0, "mscale_all_dim": 0.8}, {"mscale": 0.7}, {"mscale": 0, "mscale_all_dim": 1.0}, {}]
)
def test_deepseeks_words_for_yarns_attention_factor(said: dict[str, float]) -> None:
    inside = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64, **said}
    factor = attention_factor(ours({"rope_parameters": inside}, None).scaling)
    config = GPTNeoXConfig.from_dict({**SIZES, "rope_parameters": {**inside, "partial_rotary_factor": 1.0}})

    assert factor == pytest.approx(GPTNeoXRotaryEmbedding(config).attention_scaling, rel=1e-6)
