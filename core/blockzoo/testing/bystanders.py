"""Whether a check fails by a kernel of somebody else's, which every model that is built here takes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from blockzoo.registry import Component, Registry
from blockzoo.testing.check import CheckFailed, CheckSkipped, one_line

ISOLATED = "`blockzoo --plugins {name} plugins check {name}` leaves others out"


def naming_kernels(check: Callable[[Any], None], component: Component, registry: Registry) -> Callable[[Any], None]:
    """The check, which says where a failure is gone without the third-party kernels that models bind by themselves."""
    suspects = {
        (name, plugin): thing
        for (kind, name, plugin), thing in registry.things.items()
        if kind == "kernel" and plugin not in registry.builtin and thing[1].priority > 0
    }
    if not suspects:
        return check
    others = {key: thing for key, thing in registry.things.items() if key[0] != "kernel" or key[1:] not in suspects}
    without = replace(registry, things=others)

    @functools.wraps(check)
    def named(subject: Any) -> None:
        try:
            check(subject)
        except CheckSkipped:
            raise
        except Exception as error:
            try:
                check(replace(subject, registry=without))
            except Exception:
                raise error from error.__cause__
            message = str(error) if isinstance(error, CheckFailed) else one_line(error)
            raise CheckFailed(f"{message}; it passes without {_told(suspects, component)}") from error

    return named


def _told(suspects: Any, component: Component) -> str:
    whose = sorted({plugin for _, plugin in suspects})
    kernels = ", ".join(f"kernel '{name}' of plugin '{plugin}'" for name, plugin in sorted(suspects))
    return kernels if whose == [component.plugin] else f"{kernels}: {ISOLATED.format(name=component.plugin)}"
