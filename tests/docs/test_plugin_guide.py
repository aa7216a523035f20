"""The guide for plugin authors: its example installs and works, and nothing that it must mention is left out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import get_args

import pytest

from blockzoo import hookspecs
from blockzoo.discovery import State
from blockzoo.registry import Registrar
from tests.plugins.conftest import install
from tests.warm import Warm

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "README.md"
TEXT = GUIDE.read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
TRY = """
import json, sys, torch
from blockzoo.config import load_config
from blockzoo.building import build
from blockzoo.plugins import host
registry = host().registry
tiny = {"vocab_size": 64, "context_length": 32, "d_model": 32, "layers.count": 2, "blocks.attention.n_heads": 4}
config = load_config("gpt2", {**tiny, "norm": {"type": "scale_norm"}, "blocks.dense.d_ff": 64}, registry=registry)
model = build(config, registry=registry, trainable=True)
model(torch.arange(8)[None]).logsumexp(-1).sum().backward()
gain = model.layers[0].mixer_norm.weight
print(json.dumps([host().registry.canonical("norm", "scale_norm"), gain.shape[0], bool(gain.grad.abs() > 0)]))
"""


def test_its_example_is_short() -> None:
    assert sum(len(text.splitlines()) for text in FILES.values()) < 70


def test_its_example_installs_and_trains(warm: Warm, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name, text in FILES.items():
        (source / name).write_text(text)
    install(target, source)
    environment = {
        **os.environ,
        "PYTHONPATH": str(target),
        "BLOCKZOO_PLUGINS": "scaled",
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    done = warm.run(["-c", TRY], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["scaled:scale_norm", 1, True]


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("blockzoo_")])
def test_every_hook_is_described(hook: str) -> None:
    assert f"| `{hook}(" in TEXT


@pytest.mark.parametrize("door", ["block", "op", "kernel", "family"])
def test_every_door_is_described(door: str) -> None:
    assert hasattr(Registrar, door)
    assert f"registry.{door}(" in TEXT


@pytest.mark.parametrize("state", [state for state in get_args(State) if state != "found"])
def test_every_state_is_described(state: str) -> None:
    assert f"`{state}`" in TEXT
