"""What all tests share: a registry of the built-in plugins, and where the reference data is."""

from __future__ import annotations

from pathlib import Path

import pytest

import blockzoo_blocks
import blockzoo_cpu
import blockzoo_gpt2
import blockzoo_gpt_oss
import blockzoo_qwen3
import blockzoo_torch
from blockzoo.registry import Registrar, Registry

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
