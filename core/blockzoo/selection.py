"""Which plugins may load: said by flags, by the environment and by a deny list, before any of them is imported.

``BLOCKZOO_PLUGINS=a,b`` means the built-in plugins and exactly those, ``none`` the built-in ones alone; the flags
``--plugins`` and ``--no-plugins`` go before it. ``--plugin FILE`` and ``BLOCKZOO_PLUGIN_FILES`` add plugins that are
one Python file each, whatever else is chosen. What ``BLOCKZOO_DENY_PLUGINS`` or ``deny = [...]`` in the file
``plugins.toml`` names never loads, built-in or not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from blockzoo.deny import deny_file, read_deny
from blockzoo.errors import InputError, nearest

PLUGINS = "BLOCKZOO_PLUGINS"
FILES = "BLOCKZOO_PLUGIN_FILES"
DENY = "BLOCKZOO_DENY_PLUGINS"
NONE = "none"


@dataclass(frozen=True)
class Selection:
    """``only``: the installed third-party plugins that may load, None for all. ``deny``: plugin name -> who denies it.
    ``files``: plugins of one file each, absolute.
    """

    only: frozenset[str] | None = None
    deny: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Selection:
        """What the environment and the user's file say. Raises InputError for a file that can't be understood."""
        file = deny_file(environ)
        deny = dict.fromkeys(_split(environ.get(DENY, "")), DENY)
        deny |= dict.fromkeys(read_deny(file), str(file))
        files = [path for path in environ.get(FILES, "").split(os.pathsep) if path]
        return cls(parse(environ.get(PLUGINS, "")), deny).with_files(files)

    def with_files(self, files: Iterable[str | Path]) -> Selection:
        """This selection and these files."""
        absolute = [Path(file).expanduser().resolve() for file in files]
        return replace(self, files=tuple(dict.fromkeys([*self.files, *absolute])))

    def refusal(self, name: str, *, optional: bool) -> str | None:
        """Why this plugin may not load, or None. ``optional``: it is neither built in nor given as a file."""
        if name in self.deny:
            return f"denied by {self.deny[name]}"
        if optional and self.only is not None and name not in self.only:
            return f"not selected: --no-plugins, --plugins or {PLUGINS} leaves it out"
        return None

    def check(self, installed: Iterable[str]) -> None:
        """Raises InputError where a plugin that isn't installed, or a file that isn't there, is asked for."""
        installed = set(installed)
        for name in sorted((self.only or frozenset()) - installed):
            raise InputError(f"--plugins or {PLUGINS}: no plugin '{name}' is installed{nearest(name, installed)}")
        for file in self.files:
            check_file(file)

    def export(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Write it to the environment, so that worker processes load the same plugins."""
        for name in (PLUGINS, FILES):
            environ.pop(name, None)
        if self.only is not None:
            environ[PLUGINS] = ",".join(sorted(self.only)) or NONE
        if self.files:
            environ[FILES] = os.pathsep.join(map(str, self.files))
        if self.deny:
            environ[DENY] = ",".join(sorted(self.deny))


def check_file(file: Path) -> None:
    """Raises InputError where a path is no Python file, or one that the environment can't name."""
    place = f"plugin file {file}"
    if file.is_dir():
        raise InputError(f"{place}: is a folder; name one .py file, or install a package with pip install -e")
    if not file.is_file():
        raise InputError(f"{place}: no such file")
    if file.suffix != ".py":
        raise InputError(f"{place}: a plugin of one file ends in .py")
    if os.pathsep in str(file):
        raise InputError(f"{place}: its path must not contain '{os.pathsep}'")


def parse(text: str) -> frozenset[str] | None:
    """``a,b`` -> those; ``none`` -> no third-party plugin; nothing at all -> None, no limit."""
    names = _split(text)
    if NONE in names and len(names) > 1:
        raise InputError(f"plugins '{text}': '{NONE}' stands alone")
    return frozenset(names) - {NONE} if names else None


def _split(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]
