"""Names, dtypes, shapes and config of what we write in a published layout, against the published checkpoints'."""

from __future__ import annotations

import json
from math import prod

import pytest
import torch

from blockzoo.checkpoints.safetensors_io import DTYPE_NAMES, DTYPES
from blockzoo.checkpoints.save import contents
from blockzoo.config import load_config
from blockzoo.plugins import host
from tests.parity.manifests import MANIFESTS


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_folder_holds_what_the_published_one_does(name: str) -> None:
    manifest = MANIFESTS[name]
    registry = host().registry
    config = load_config(name, registry=registry)
    floats = DTYPES[manifest.floats]
    entries, text = contents(config, "hf", floats, prefix="", registry=registry)
    ours = {entry.stored: (DTYPE_NAMES[entry.dtype or floats], entry.shape) for entry in entries}
    published = dict(manifest.named())
    assert {key: published.get(key) for key in ours} == ours
    assert published.keys() - ours.keys() == manifest.may_lack
    if manifest.bytes is not None:
        assert sum(prod(shape) * DTYPES[dtype].itemsize for dtype, shape in ours.values()) == manifest.bytes
    said = json.loads(text["config.json"])
    assert {key: said.get(key) for key in manifest.config} == manifest.config
    assert said["dtype"] == str(floats).removeprefix("torch.") or floats == torch.float32
