"""The hooks of a plugin: a module (or object) that implements some of them. Arguments are only ever added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from blockzoo.registry import Registrar
    from blockzoo.training.trackers import TrackedRun, Tracker

PROJECT = "blockzoo"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def blockzoo_register(registry: Registrar) -> None:
    """Register blocks, ops, kernels and families. Called once when the plugin loads; an exception undoes all of it."""


@hookspec
def blockzoo_configs() -> Iterable[Path]:
    """Folders of YAML files that this plugin ships. A file's stem is the name users give to ``load_config``."""
    raise NotImplementedError


@hookspec
def blockzoo_tracker(run: TrackedRun) -> Tracker | None:
    """Who else gets a run's figures, if the user named this plugin (``--tracker``); None: not this time.

    Called before the first step. An exception, here or in the tracker, is one warning line and never stops a run.
    """
