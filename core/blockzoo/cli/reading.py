"""How verbs read the model, or the plugin, that an argument names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.config.yaml_source import parse_override
from blockzoo.deny import deny_file
from blockzoo.errors import InputError, PluginError, nearest
from blockzoo.plugins import host
from blockzoo.registry import Registry


def overrides_of(settings: Sequence[str]) -> dict[str, object]:
    """``["layers.count=2"]`` -> ``{"layers.count": 2}``. Raises ConfigError for what isn't KEY=VALUE."""
    return dict(parse_override(text) for text in settings)


def read_model(ref: str, registry: Registry, settings: Sequence[str] = ()) -> ModelConfig:
    """The model of a shipped name, a YAML file, a checkpoint folder or a run's."""
    if Path(ref).is_dir():
        from blockzoo.checkpoints import read_config
        from blockzoo.cli.opening import folder_of_run

        return read_config(folder_of_run(ref), registry=registry, overrides=overrides_of(settings))
    return load_config(ref, overrides_of(settings), registry=registry)


def is_file(name_or_file: str) -> bool:
    """Whether a plugin is named by its file."""
    return name_or_file.endswith(".py") or os.sep in name_or_file


def read_plugin(name_or_file: str) -> tuple[str, Registry]:
    """Load the plugins, a file among them where one is named: the plugin's name, and the registry.

    Raises PluginError, with its state and reason, where it isn't loaded, InputError for a package that isn't installed.
    """
    name = name_or_file
    known = {plugin.name for plugin in host().plugins}
    if name not in known and (Path(name) / "pyproject.toml").is_file():
        raise InputError(f"{name} is a folder: 'pip install -e {name}' installs it, then give the plugin's name")
    if is_file(name):
        name = host().load_file(name).name
    rows = [plugin for plugin in host().plugins if plugin.name == name]
    if not rows:
        theirs = sorted(plugin.name for plugin in host().plugins if plugin.installed.distribution == name)
        if theirs:
            raise InputError(f"'{name}' is a distribution; its plugins are: {', '.join(theirs)}")
        raise InputError(f"no plugin '{name}' is installed{nearest(name, known)}")
    if not any(row.state == "loaded" for row in rows):
        denied = rows[0].state == "disabled" and str(deny_file()) in str(rows[0].error)
        remedy = f"; 'blockzoo plugins enable {name}' takes it off that list" if denied else ""
        raise PluginError(f"plugin '{name}' is not loaded: {rows[0].state}: {rows[0].error}{remedy}")
    return name, host().registry
