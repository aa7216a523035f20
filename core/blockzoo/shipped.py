"""Where the YAML files that blockzoo ships lie: in a checkout its own ``configs/``, else the packaged copy.

An editable install leaves a copy in site-packages that goes stale, so a checkout's files win.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from blockzoo.errors import PluginError

PACKAGE = Path(__file__).resolve().parent


def checkout(package: Path = PACKAGE) -> Path | None:
    """The root of the checkout that holds the running package (``core/blockzoo``), or None where it is installed."""
    root = package.parent.parent
    project = root / "pyproject.toml"
    if package.parent.name != "core" or not project.is_file():
        return None
    try:
        name = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {}).get("name")
    except (OSError, ValueError):
        return None
    return root if name == "blockzoo" else None


def shipped_configs(name: str, package: Path = PACKAGE) -> Path:
    """The folder ``configs/<name>``. Built-in plugins return it from ``blockzoo_configs``.

    Raises PluginError where neither the checkout nor the package has it.
    """
    root = checkout(package)
    places = [place / "configs" / name for place in (root, package) if place is not None]
    for place in places:
        if place.is_dir():
            return place
    raise PluginError(f"no shipped configs '{name}': looked in {', '.join(map(str, places))}; install blockzoo again")
