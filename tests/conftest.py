"""What all tests share: a registry of the built-in plugins, and where the reference data is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockzoo_blocks
import blockzoo_cpu
import blockzoo_gpt2
import blockzoo_gpt_oss
import blockzoo_qwen3
import blockzoo_torch
from blockzoo.plugins import reset_host
from blockzoo.registry import Registrar, Registry
from tests.warm import Warm, warm_processes

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: what tests interrupt must listen
    signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def builtin_registry() -> Registry:
    """What is shipped: blocks, kernels and families, without the host and without any third party."""
    plugins = {
        "blocks": blockzoo_blocks,
        "cpu": blockzoo_cpu,
        "gpt2": blockzoo_gpt2,
        "gpt_oss": blockzoo_gpt_oss,
        "qwen3": blockzoo_qwen3,
        "torch": blockzoo_torch,
    }
    registry = Registry(builtin=frozenset(plugins))
    for name, plugin in plugins.items():
        registrar = Registrar(registry, name)
        plugin.blockzoo_register(registrar)
        registrar.commit()
    return registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return builtin_registry()


@pytest.fixture(scope="session")
def data() -> Path:
    """Reference data beside the checkout; tests that need it skip where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no reference data at {DATA}")
    return DATA


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Starts interpreters that need not import torch."""
    with warm_processes() as processes:
        yield processes


@pytest.fixture(autouse=True)
def own_selection() -> Iterator[None]:
    """Verbs write the chosen plugins to the environment, for their workers: the next test must not see them."""
    before = {name: value for name, value in os.environ.items() if name.startswith("BLOCKZOO_")}
    yield
    after = {name: value for name, value in os.environ.items() if name.startswith("BLOCKZOO_")}
    if after != before:
        for name in after:
            del os.environ[name]
        os.environ.update(before)
        reset_host()
