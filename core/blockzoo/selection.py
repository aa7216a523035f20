"""Which plugins may load: said by flags, by the environment and by a deny list, before any of them is imported.

``BLOCKZOO_PLUGINS=a,b`` means the built-in plugins and exactly those, ``none`` the built-in ones alone; the flags
``--plugins`` and ``--no-plugins`` go before it. What ``BLOCKZOO_DENY_PLUGINS`` or ``deny = [...]`` in the file
``plugins.toml`` names never loads, built-in or not.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from blockzoo.errors import InputError, nearest

PLUGINS = "BLOCKZOO_PLUGINS"
DENY = "BLOCKZOO_DENY_PLUGINS"
NONE = "none"


@dataclass(frozen=True)
class Selection:
    """``only``: the third-party plugins that may load, None for all. ``deny``: plugin name -> who denies it."""

    only: frozenset[str] | None = None
    deny: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Selection:
        """What the environment and the user's file say. Raises InputError for a file that can't be understood."""
        file = deny_file(environ)
        deny = {name: str(file) for name in _read_deny(file)}
        deny |= dict.fromkeys(_split(environ.get(DENY, "")), DENY)
        return cls(parse(environ.get(PLUGINS, "")), deny)

    def refusal(self, name: str, *, builtin: bool) -> str | None:
        """Why this plugin may not load, or None."""
        if name in self.deny:
            return f"denied by {self.deny[name]}"
        if not builtin and self.only is not None and name not in self.only:
            return f"not selected: --no-plugins, --plugins or {PLUGINS} leaves it out"
        return None

    def check(self, installed: Iterable[str]) -> None:
        """Raises InputError where a plugin that isn't installed is asked for."""
        installed = set(installed)
        for name in sorted((self.only or frozenset()) - installed):
            raise InputError(f"--plugins or {PLUGINS}: no plugin '{name}' is installed{nearest(name, installed)}")

    def export(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Write it to the environment, so that worker processes load the same plugins."""
        environ.pop(PLUGINS, None)
        if self.only is not None:
            environ[PLUGINS] = ",".join(sorted(self.only)) or NONE
        if self.deny:
            environ[DENY] = ",".join(sorted(self.deny))


def parse(text: str) -> frozenset[str] | None:
    """``a,b`` -> those; ``none`` -> no third-party plugin; nothing at all -> None, no limit."""
    names = _split(text)
    if NONE in names and len(names) > 1:
        raise InputError(f"plugins '{text}': '{NONE}' stands alone")
    return frozenset(names) - {NONE} if names else None


def deny_file(environ: Mapping[str, str] = os.environ) -> Path:
    """``plugins.toml`` in the user's configuration folder."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "blockzoo" / "plugins.toml"


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _read_deny(file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: {error}") from error
    for key in content:
        if key != "deny":
            raise InputError(f"{file}: unknown key '{key}'{nearest(key, ['deny'])}")
    names = content.get("deny", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{file}: deny must be a list of plugin names, found {names!r}")
    return names
