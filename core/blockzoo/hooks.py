"""pluggy, as the host uses it: hooks are found, checked and called one plugin at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pluggy

from blockzoo import hookspecs
from blockzoo.errors import PluginError, nearest

PREFIX = "blockzoo_"


class HookManager(pluggy.PluginManager):
    """pluggy's manager, to which every function called ``blockzoo_...`` of a plugin is a hook, marked or not."""

    def __init__(self) -> None:
        super().__init__(hookspecs.PROJECT)
        self.add_hookspecs(hookspecs)

    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        options = super().parse_hookimpl_opts(plugin, name)
        if options is None and name.startswith(PREFIX) and inspect.isroutine(getattr(plugin, name)):
            return pluggy.HookimplOpts(
                wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
            )
        return options

    def add(self, plugin: object, name: str) -> None:
        """Take a plugin in. Raises PluginError where it implements no hook, or one that there isn't, or takes an
        argument that its hook doesn't have.
        """
        known = [hook for hook in vars(hookspecs) if hook.startswith(PREFIX)]
        for hook in known:
            if inspect.isroutine(getattr(plugin, hook, None)):
                _check_arguments(hook, getattr(plugin, hook))
        self.register(plugin, name=name)
        callers = self.get_hookcallers(plugin) or []
        for caller in callers:
            if caller.name not in known:
                raise PluginError(f"there is no hook '{caller.name}'{nearest(caller.name, known)}")
        if not callers:
            raise PluginError(f"implements no hook; define one of {', '.join(known)}")

    def forget(self, name: str) -> None:
        """Let a plugin go, if it is there."""
        if self.get_plugin(name) is not None:
            self.unregister(name=name)

    def call(self, plugin: object, hook: str, **arguments: object) -> list[Any]:
        """Call one hook of one plugin: a list of its result, empty where it doesn't implement the hook."""
        others = [other for other in self.get_plugins() if other is not plugin]
        return self.subset_hook_caller(hook, others)(**arguments)


def _check_arguments(hook: str, function: Callable[..., object]) -> None:
    """Arguments go by name; one with a default is the plugin's own affair."""
    given = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    taken = inspect.signature(function).parameters.values()
    asked = [p.name for p in taken if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for name in asked:
        if name not in given:
            raise PluginError(f"{hook} has no argument '{name}': define it as `def {hook}({', '.join(given)})`")
