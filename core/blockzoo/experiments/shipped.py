"""Experiments by name: a file of one's own, or one that blockzoo ships."""

from __future__ import annotations

from pathlib import Path

from blockzoo.config.shipped import SUFFIXES, is_path
from blockzoo.config.yaml_source import read_yaml
from blockzoo.errors import InputError, nearest
from blockzoo.plugins import shipped_configs

DEMONSTRATION = "demo"


def shipped_experiments() -> dict[str, Path]:
    """Name -> file."""
    files = shipped_configs("experiments").iterdir()
    return {file.stem: file for file in sorted(files) if file.suffix in SUFFIXES}


def find_experiment(ref: Path | str) -> Path:
    """The file that a path or a shipped name means. Raises InputError where there is none."""
    path = Path(ref)
    if path.is_file():
        return path
    if is_path(str(ref)):
        raise InputError(f"{path}: no such file; an experiment is a YAML file with arms and a train section")
    names = shipped_experiments()
    if str(ref) not in names:
        raise InputError(f"no experiment '{ref}'{nearest(str(ref), names)}; a path ends in .yaml or contains a '/'")
    return names[str(ref)]


def description(file: Path) -> str:
    """What an experiment says of itself."""
    node = read_yaml(file).get("description")
    return "" if node is None or not isinstance(node.value, str) else node.value
