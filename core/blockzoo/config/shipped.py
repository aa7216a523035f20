"""Where configs are: the names that plugins ship, and files."""

from __future__ import annotations

from pathlib import Path

from blockzoo.errors import ConfigError, Problem, nearest
from blockzoo.registry import Registry

SUFFIXES = (".yaml", ".yml")


def shipped(registry: Registry) -> dict[str, Path]:
    """name -> file of every config that a loaded plugin ships, those left out whose name is two plugins'."""
    return {name: paths[0] for name, paths in sorted(_candidates(registry).items()) if len(paths) == 1}


def find(ref: str, registry: Registry, relative_to: Path | None = None, place: str = "") -> Path:
    """The file that a name or path means. Raises ConfigError, standing at ``place``, where there is none."""
    if is_path(ref):
        path = Path(ref).expanduser()
        path = path if path.is_absolute() or relative_to is None else relative_to / path
        if not path.exists():
            raise ConfigError([Problem(place, f"no file '{path}'")])
        if path.is_dir():
            raise ConfigError([Problem(place, f"'{path}' is a folder{_how_to_read(path)}")])
        return path
    found = _candidates(registry).get(ref, [])
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(str(path) for path in found)
        raise ConfigError([Problem(place, f"config '{ref}' is shipped twice: {both}; give the path of one")])
    names = shipped(registry)
    hint = nearest(ref, names) or "; no plugin that is loaded ships any"
    if Path(ref).is_dir():
        raise ConfigError(
            [Problem(place, f"no config '{ref}'; there is a folder of that name{_how_to_read(Path(ref))}")]
        )
    raise ConfigError([Problem(place, f"no config '{ref}'{hint}; a path ends in .yaml or contains a '/'")])


def _how_to_read(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return ": a checkpoint, which blockzoo.from_pretrained reads, config and weights"
    return ", not a YAML file"


def is_path(ref: str) -> bool:
    """Whether a word means a file and not a shipped name."""
    return ref.endswith(SUFFIXES) or "/" in ref or "\\" in ref


def _candidates(registry: Registry) -> dict[str, list[Path]]:
    """Built-in names are reserved: another plugin's file of that name is never meant by the bare name."""
    found: dict[str, list[Path]] = {}
    reserved: set[str] = set()
    for plugin, folders in sorted(registry.config_folders.items(), key=lambda entry: entry[0] not in registry.builtin):
        for folder in folders:
            for path in sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and p.is_file()):
                if plugin in registry.builtin:
                    reserved.add(path.stem)
                elif path.stem in reserved:
                    continue
                paths = found.setdefault(path.stem, [])
                if path not in paths:
                    paths.append(path)
    return found
