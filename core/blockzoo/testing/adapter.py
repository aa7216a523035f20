"""The suite as a pytest function. The only file here that knows pytest, which blockzoo itself does not need."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from blockzoo.testing.check import Check, CheckFailed, CheckSkipped
from blockzoo.testing.suite import checks

if TYPE_CHECKING:
    from blockzoo.registry import Registry


def conformance(plugin: str, registry: Registry | None = None) -> Callable[[Check], None]:
    """A parametrized test function, one case for each component and check of a plugin.

    ``registry``: where the plugin is registered; default: the process-wide one. Raises PluginError where the plugin
    isn't loaded.
    """
    import pytest

    cases = [pytest.param(check, id=f"{check.component}-{check.name}") for check in checks(plugin, registry)]

    @pytest.mark.parametrize("check", cases)
    def test_conformance(check: Check) -> None:
        __tracebackhide__ = True
        try:
            check.run()
        except CheckSkipped as skipped:
            pytest.skip(str(skipped))
        except CheckFailed as failure:
            pytest.fail(f"{check.name}: {failure}", pytrace=False)

    return test_conformance
