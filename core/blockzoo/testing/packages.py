"""What a plugin owes as a package: importing it is quick and leaves the process as it was; it can come twice, or not
at all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blockzoo.discovery import PLUGIN_GROUP, installed
from blockzoo.errors import PluginError
from blockzoo.hooks import HookManager
from blockzoo.plugins import host
from blockzoo.registry import Registrar, Registry
from blockzoo.testing.check import CheckSkipped, need

IMPORT_SECONDS = 1.0
TRIES = 3
"""Imports of which the quickest counts: a busy machine may stall one."""
PROBE = "blockzoo.testing.probe"


@dataclass(frozen=True)
class Package:
    """A plugin as installed. What a fresh process sees when it imports it is looked at once."""

    plugin: str
    registry: Registry

    @property
    def label(self) -> str:
        return self.plugin

    def entry(self) -> Any:
        """Its entry point. Skips where it is no installed distribution (a registry made in a test)."""
        entries = [item.entry for item in installed(PLUGIN_GROUP) if item.entry.name == self.plugin]
        if not entries:
            raise CheckSkipped("is not installed as a distribution")
        return entries[0]

    def module(self) -> Any:
        """What holds its hooks: of a file that was loaded, the host has it."""
        loaded = host().hooks.get_plugin(self.plugin) if self.registry is host().registry else None
        return self.entry().load() if loaded is None else loaded

    @cached_property
    def seen(self) -> dict[str, Any]:
        """What the probe reports of a process of its own."""
        return self.look()

    def look(self) -> dict[str, Any]:
        """The same of another process."""
        entry = self.entry()
        done = subprocess.run(
            [sys.executable, "-m", PROBE, entry.value], capture_output=True, text=True, timeout=120, check=False
        )
        lines = done.stderr.strip().splitlines() or ["no output"]
        need(done.returncode == 0, f"a fresh process can't import {entry.value}: {lines[-1]}")
        return json.loads(done.stdout.splitlines()[-1])


def imports_fast(package: Package) -> None:
    """Importing it takes less than a second, torch and blockzoo aside."""
    seconds = package.seen["seconds"]
    for _ in range(TRIES - 1):
        if seconds >= IMPORT_SECONDS:
            seconds = min(seconds, package.look()["seconds"])
    need(seconds < IMPORT_SECONDS, f"its import takes {seconds:.1f} s: import what is heavy inside functions")


def touches_no_network(package: Package) -> None:
    """Importing and registering open no connection."""
    calls = package.seen["network"]
    need(not calls, f"opens the network while it loads: {', '.join(calls)}; do it when it is used")


def touches_no_gpu(package: Package) -> None:
    """Importing and registering do not initialize CUDA."""
    need(not package.seen["cuda"], "initializes CUDA while it loads: forked workers would break; do it when it is used")


def leaves_global_state_alone(package: Package) -> None:
    """Importing and registering leave torch's settings, random states, the environment and logging as they were."""
    changed = package.seen["changed"]
    need(not changed, f"changes global state while it loads: {', '.join(changed)}")


def registers_twice(package: Package) -> None:
    """Registering again, as a notebook does, is no error and changes nothing."""
    fresh = Registry(builtin=package.registry.builtin)
    module, hooks = package.module(), HookManager()
    hooks.add(module, package.plugin)
    found = []
    for _ in range(2):
        registrar = Registrar(fresh, package.plugin)
        hooks.call(module, "blockzoo_register", registry=registrar)
        registrar.commit()
        found.append(fresh.components())
    need(found[0] == found[1], "registers other things the second time")
    need(found[0] == package.registry.components(package.plugin), "registers other things in a fresh registry")


def absence(package: Package) -> None:
    """Without it everything else stays, and asking for one of its things says that it is missing."""
    things = {key: thing for key, thing in package.registry.things.items() if key[2] != package.plugin}
    without = Registry(package.registry.builtin, things, missing={package.plugin: "disabled: for this check"})
    for component in package.registry.components(package.plugin):
        try:
            without.get(component.kind, component.canonical)
        except PluginError as error:
            need(package.plugin in str(error), f"the error for {component.canonical} does not name the plugin: {error}")
        else:
            need(False, f"{component.canonical} is still there without its plugin")


CHECKS = (imports_fast, touches_no_network, touches_no_gpu, leaves_global_state_alone, registers_twice, absence)
