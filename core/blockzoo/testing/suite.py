"""Which checks a kind of component must pass, and all those of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from blockzoo.blocks import KINDS
from blockzoo.errors import PluginError, nearest
from blockzoo.plugins import host
from blockzoo.registry import Component, Registry
from blockzoo.testing import (
    asked,
    caches,
    configs,
    counts,
    edges,
    families,
    ffns,
    kernel_extremes,
    kernel_subjects,
    kernels,
    mixers,
    modules,
    norms,
    numerics,
    ops,
    outputs,
    packages,
    packing,
    positions,
    quantizers,
    residuals,
    slots,
    statics,
    tables,
    values,
)
from blockzoo.testing.bystanders import naming_kernels
from blockzoo.testing.check import Check, Subject
from blockzoo.testing.samples import subjects_of
from blockzoo.testing.subjects import BlockSubject

Function = Callable[[Any], None]
BLOCK: tuple[Function, ...] = (*configs.CHECKS, *modules.CHECKS, *numerics.CHECKS, *statics.CHECKS, *counts.CHECKS)
BY_KIND: Mapping[str, tuple[Function, ...]] = {
    "norm": (*BLOCK, *norms.CHECKS, *slots.CHECKS),
    "mixer": (*BLOCK, *outputs.CHECKS, *mixers.CHECKS, *tables.CHECKS, *caches.CHECKS, *slots.CHECKS),
    "ffn": (*BLOCK, *outputs.CHECKS, *ffns.CHECKS, *slots.CHECKS),
    "position": (*BLOCK, *positions.CHECKS, *slots.CHECKS),
    "residual": (*BLOCK, *residuals.CHECKS, *tables.CHECKS, *slots.CHECKS),
    "quantizer": (
        *configs.CHECKS,
        *quantizers.CHECKS,
        *packing.CHECKS,
        *edges.CHECKS,
        counts.options_count,
        *slots.CHECKS,
    ),
    "op": ops.CHECKS,
    "kernel": (*kernels.CHECKS, *kernel_extremes.CHECKS),
    "family": (*families.CHECKS, *values.CHECKS, *asked.CHECKS),
}


def checks(plugin: str, registry: Registry | None = None) -> list[Check]:
    """All checks of a plugin: of the package itself, then of each thing that it registers.

    ``registry``: default: the process-wide one. Raises PluginError where the plugin isn't loaded there.
    """
    registry = host().registry if registry is None else registry
    components = registry.components(plugin)
    if not components and plugin not in registry.config_folders:  # of all that loaded, be it for a tracker alone
        known = {component.plugin for component in registry.components()} | registry.config_folders.keys()
        why = registry.missing.get(plugin)
        raise PluginError(f"plugin '{plugin}' registers nothing" + (f" ({why})" if why else nearest(plugin, known)))
    package = packages.Package(plugin, registry)
    found = [Check(f"package/{plugin}", f.__name__, f, lambda: [package]) for f in packages.CHECKS]
    return found + [check for component in components for check in checks_of(component, registry)]


def checks_of(component: Component, registry: Registry) -> list[Check]:
    """The checks of one registered thing."""
    subjects = cache(lambda: _subjects(component, registry))
    alone = cache(lambda: slots.alone([subject for subject in subjects() if isinstance(subject, BlockSubject)]))
    name = f"{component.kind}/{component.name}"
    functions = BY_KIND.get(component.kind, ())  # a player is held to its recordings by our own tests
    found = [Check(name, f.__name__, f, alone if f in slots.CHECKS else subjects) for f in functions]
    return [_naming_kernels(check, component, registry) for check in found]


def _naming_kernels(check: Check, component: Component, registry: Registry) -> Check:
    """The check, which says whose kernel is behind a failure where it builds models."""
    if check.function not in (*slots.CHECKS, *families.CHECKS):
        return check
    return replace(check, function=naming_kernels(check.function, component, registry))


def _subjects(component: Component, registry: Registry) -> Sequence[Subject]:
    thing = registry.things[component.kind, component.name, component.plugin]
    if component.kind in KINDS:
        return subjects_of(component, thing, registry)
    if component.kind == "op":
        return ops.subjects_of(thing)
    if component.kind == "kernel":
        op, kernel = thing
        return kernel_subjects.subjects_of(op, kernel, registry)
    return families.subjects_of(thing, registry)
