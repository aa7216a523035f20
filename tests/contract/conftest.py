"""The registry of the contract tests: everything built in, and the two mixers that only tests have."""

from __future__ import annotations

import pytest

from blockzoo.registry import Registrar, Registry
from tests.conftest import builtin_registry
from tests.contract import blocks_for_tests


def registry_with_tests_own() -> Registry:
    registry = builtin_registry()
    registrar = Registrar(registry, "for_tests")
    blocks_for_tests.blockzoo_register(registrar)
    registrar.commit()
    return registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return registry_with_tests_own()
