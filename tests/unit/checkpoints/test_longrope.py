"""LongRoPE in config.json: what Phi-3's files and transformers' own configs say, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from blockzoo.blocks import Dims
from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.errors import CheckpointError
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_json import read_rope, write_rope
from blockzoo_blocks.positions.rope_scaling import LongRopeScaling, attention_factor, frequencies

LISTS = {"short_factor": [1.0, 1.05, 1.1, 1.2], "long_factor": [1.0, 2.5, 9.0, 33]}
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": None}
PHI = {"longrope": "longrope", "su": "longrope", "yarn": "longrope"}
CONTEXT = 256
ORIGINAL = "original_max_position_embeddings"


def ours(values: dict[str, Any], kinds: Any = PHI) -> RopeConfig:
    keys = ConfigJSON(values)
    said = read_rope(keys, CONTEXT, 10000.0, kinds=kinds)
    keys.finish()
    return RopeConfig(**{name: value for name, value in said.items() if name != "type"})


FILES: list[dict[str, Any]] = [
    {ORIGINAL: 32, "rope_scaling": {"type": "longrope", **LISTS}},
    {ORIGINAL: 32, "rope_theta": 500.0, "rope_scaling": {"type": "su", ORIGINAL: 32, **LISTS}},
    {ORIGINAL: 32, "rope_scaling": {"type": "yarn", **LISTS}},
    {ORIGINAL: 32, "rope_parameters": {"rope_type": "longrope", "rope_theta": 500.0, "factor": 4.0, **LISTS}},
    {ORIGINAL: 32, "rope_parameters": {"rope_type": "longrope", ORIGINAL: 64, **LISTS}},
    {ORIGINAL: 32, "rope_scaling": {"rope_type": "longrope", "attention_factor": 1.5, **LISTS}},
    {ORIGINAL: CONTEXT, "rope_scaling": {"rope_type": "longrope", **LISTS}},
]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("values", FILES)
def test_phi_3s_files_say_what_they_say_to_transformers(values: dict[str, Any], written: bool) -> None:
    position = ours(values)
    if written:
        values = write_rope(position)
        assert ours(values) == ours(values, kinds=["longrope"]) == position
    config = Phi3Config.from_dict({**SIZES, "max_position_embeddings": CONTEXT, **values})
    scaling = position.scaling
    assert isinstance(scaling, LongRopeScaling)
    for length in (scaling.original_context_length, scaling.original_context_length + 1):
        inverse, factor = ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=length)
        explicit = position.explicit(Dims(32, 1, length)).scaling
        assert torch.equal(frequencies(position.theta, 8, explicit, torch.device("cpu")), inverse)
        assert attention_factor(explicit) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"long_factor": None}, "'long_factor' is missing"),
        ({"long_factor": 2.0}, "'long_factor' must be a list of numbers above 0"),
        ({"short_factor": [1.0, 0]}, "'short_factor' must be a list of numbers above 0"),
        ({"short_factor": [1.0, "2"]}, "'short_factor' must be a list of numbers above 0"),
        ({"short_factor": [True, 1.0]}, "'short_factor' must be a list of numbers above 0"),
        ({"short_factor": [1.0, float("nan")]}, "'short_factor' must be a list of numbers above 0"),
        ({ORIGINAL: 1}, "'original_max_position_embeddings' is 1; it must be a whole number from 2"),
        ({"factor": 0.5}, "'factor' is 0.5; it must be a number of at least 1"),
        ({"attention_factor": 0}, "'attention_factor' is 0; it must be a number of at least"),
        ({"long_mscale": 1.2}, "keys that blockzoo does not know: 'long_mscale'"),
    ],
)
def test_what_longrope_cannot_be(said: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ours({"rope_scaling": {"type": "longrope", ORIGINAL: 32, **LISTS, **said}})


def test_a_list_that_the_models_context_would_not_choose_is_the_same_in_no_config_json() -> None:
    position = RopeConfig.model_validate(
        {"scaling": {"type": "longrope", "factor": 8, "original_context_length": 32, "which": "short", **LISTS}}
    )
    dims = Dims(32, 1, CONTEXT)
    assert ours(write_rope(position)).explicit(dims) != position.explicit(dims)
