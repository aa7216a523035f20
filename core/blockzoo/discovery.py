"""What is installed, read from metadata alone: nothing here imports a plugin, or torch.

An entry point of the group ``blockzoo.plugins`` is a plugin, and so is a Python file that the selection names. Built in
are those of the distribution that installed the running blockzoo, and no others, whatever they call themselves.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from blockzoo.selection import NONE, Selection
from blockzoo.shipped import PACKAGE, checkout

if TYPE_CHECKING:
    from blockzoo.registry import Component

PLUGIN_GROUP = "blockzoo.plugins"
COMMAND_GROUP = "blockzoo.commands"
OWN_NAME = "blockzoo"
FILE_MODULE = "blockzoo_file_"
"""What the module of a plugin of one file is called, before the file's stem: no name that an import could mean."""

State = Literal["found", "loaded", "disabled", "conflict", "incompatible", "import_failed", "register_failed"]
"""``found`` is what metadata alone can say of a plugin that may load."""
BROKEN: frozenset[State] = frozenset({"conflict", "incompatible", "import_failed", "register_failed"})


@dataclass(frozen=True)
class Installed:
    """One entry point and the distribution that declares it; or a file, which stands in for both."""

    entry: metadata.EntryPoint
    distribution: str
    version: str
    requires: tuple[str, ...]
    builtin: bool
    file: Path | None = None

    @classmethod
    def from_file(cls, file: Path) -> Installed:
        """A plugin of one file: its name is the file's stem."""
        module = FILE_MODULE + file.stem.replace("-", "_").replace(".", "_")
        return cls(metadata.EntryPoint(file.stem, module, PLUGIN_GROUP), str(file), "", (), False, file)


@dataclass(frozen=True)
class Plugin:
    """One row of ``blockzoo plugins``. ``error`` is one line; a loaded plugin may have one too, as a warning."""

    installed: Installed
    state: State = "found"
    error: str | None = None
    components: tuple[Component, ...] = ()
    traceback: str = ""
    seconds: float = 0.0  # what importing and registering took

    @property
    def name(self) -> str:
        return self.installed.entry.name

    @property
    def builtin(self) -> bool:
        return self.installed.builtin

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "name": self.name,
            "distribution": self.installed.distribution,
            "version": self.installed.version,
            "module": self.installed.entry.value,
            "builtin": self.builtin,
            "state": self.state,
            "error": self.error,
            "components": [{"kind": c.kind, "name": c.name, "canonical": c.canonical} for c in self.components],
        }


def discover(selection: Selection) -> list[Plugin]:
    """Every installed plugin, built-in ones first, then by name; refused where metadata or the selection says so.

    Raises InputError where the selection names a plugin that isn't installed, or a file that isn't there.
    """
    found = [*installed(PLUGIN_GROUP), *map(Installed.from_file, selection.files)]
    selection.check(item.entry.name for item in found)
    named = defaultdict(list)
    for item in found:
        named[item.entry.name].append(item)
    plugins = [_judge(item, named[item.entry.name], selection) for item in found]
    return sorted(plugins, key=lambda plugin: (not plugin.builtin, plugin.name, plugin.installed.distribution))


def installed(group: str) -> Iterator[Installed]:
    """The entry points of a group, each distribution once: the copy that an import would find."""
    candidates = [d for d in metadata.distributions() if any(entry.group == group for entry in d.entry_points)]
    seen: set[tuple[str, str, str]] = set()
    for distribution in candidates:
        name = canonicalize_name(distribution.metadata["Name"] or "unnamed")
        ours = name == OWN_NAME and is_ours(distribution)
        if not ours and _shadowed(distribution, name):
            continue
        for entry in distribution.entry_points.select(group=group):
            key = (name if not ours else "", entry.name, entry.value)
            if key not in seen:
                seen.add(key)
                requires = tuple(distribution.requires or ())
                yield Installed(entry, name, distribution.version or "?", requires, ours)


def is_ours(distribution: metadata.Distribution) -> bool:
    """Whether it installed the package that is running: a name alone proves nothing."""
    init = PACKAGE / "__init__.py"
    if any(file.as_posix() == "blockzoo/__init__.py" for file in distribution.files or ()):
        return Path(str(distribution.locate_file("blockzoo/__init__.py"))).resolve() == init
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    source = Path(url2pathname(urlsplit(direct.get("url", "")).path)).resolve()
    return bool(direct.get("dir_info", {}).get("editable")) and source == checkout()


def own_version() -> str:
    """The version of the running blockzoo."""
    ours = [d for d in metadata.distributions(name=OWN_NAME) if is_ours(d)]
    return ours[0].version if ours else "0+not.installed"


def _shadowed(distribution: metadata.Distribution, name: str) -> bool:
    """Whether another copy of this distribution stands earlier on sys.path."""
    if name == "unnamed":
        return False
    return metadata.distribution(name).locate_file("") != distribution.locate_file("")


def _judge(item: Installed, same_name: list[Installed], selection: Selection) -> Plugin:
    plugin = Plugin(item)
    name = item.entry.name
    refusal = selection.refusal(name, optional=not item.builtin and item.file is None)
    if refusal:
        return replace(plugin, state="disabled", error=refusal)
    others = [other for other in same_name if other != item]
    if not item.builtin and any(other.builtin for other in others):
        error = f"'{name}' is the name of a plugin that blockzoo ships; {item.distribution} must choose another"
        return replace(plugin, state="conflict", error=error)
    if not item.builtin and item.distribution == OWN_NAME:
        error = "its distribution calls itself blockzoo but is not the one that is running; uninstall it"
        return replace(plugin, state="conflict", error=error)
    if others and not item.builtin:
        names = ", ".join(sorted(f"{other.distribution} ({other.entry.value})" for other in same_name))
        fix = "rename the file" if any(other.file for other in same_name) else "uninstall all but one"
        error = f"several plugins are called '{name}': {names}; {fix}"
        return replace(plugin, state="conflict", error=error)
    error_of_name = _bad_name(name)
    incompatible = error_of_name or _incompatible(item)
    return replace(plugin, state="incompatible", error=incompatible) if incompatible else plugin


def _bad_name(name: str) -> str | None:
    if name == NONE or not name.replace("-", "_").replace(".", "_").isidentifier():
        return f"'{name}' can't name a plugin: letters, digits and _ . - only, and not '{NONE}'"
    return None


def _incompatible(item: Installed) -> str | None:
    """Why its distribution doesn't go with this version of blockzoo, or None."""
    version = own_version()
    for text in item.requires:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return f"its metadata has a requirement that can't be read: {text!r}"
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ours = wanted and canonicalize_name(requirement.name) == OWN_NAME and not item.builtin
        if ours and not requirement.specifier.contains(version, prereleases=True):
            return f"{item.distribution} {item.version} needs blockzoo{requirement.specifier}, this is {version}"
    return None
