"""The user's deny list, ``plugins.toml``: what it names never loads. Reading it, and editing it in place.

The file has one key, ``deny = ["name", ...]``. An edit replaces that one assignment and leaves every other line,
comments too, as it was.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from blockzoo.errors import InputError, nearest

_ASSIGNMENT = re.compile(r"""^[ \t]*(?:deny|"deny"|'deny')[ \t]*=[ \t]*\[[^\]]*\]""", re.MULTILINE)
_HEADER = "# Plugins that never load. 'blockzoo plugins disable NAME' and 'enable NAME' edit this list.\n"


def deny_file(environ: Mapping[str, str] = os.environ) -> Path:
    """``plugins.toml`` in the user's configuration folder."""
    home = environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(home) / "blockzoo" / "plugins.toml"


def read_deny(file: Path) -> list[str]:
    """The names on the list. Raises InputError for a file that can't be understood."""
    return _names(_text(file), file)


def deny(name: str, file: Path) -> bool:
    """Put a plugin on the list; False where it stands there already."""
    names = read_deny(file)
    if name in names:
        return False
    _rewrite(file, [*names, name])
    return True


def allow(name: str, file: Path) -> bool:
    """Take a plugin off the list; False where it doesn't stand there."""
    names = read_deny(file)
    if name not in names:
        return False
    _rewrite(file, [other for other in names if other != name])
    return True


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else ""
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: {error}") from error


def _names(text: str, file: Path) -> list[str]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: {error}") from error
    for key in content:
        if key != "deny":
            raise InputError(f"{file}: unknown key '{key}'{nearest(key, ['deny'])}")
    names = content.get("deny", [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{file}: deny must be a list of plugin names, found {names!r}")
    return names


def _rewrite(file: Path, names: Sequence[str]) -> None:
    old = _text(file)
    assignment = f"deny = {json.dumps(list(names))}"
    new, count = _ASSIGNMENT.subn(lambda _: assignment, old, count=1)
    if not count:
        new = f"{old.rstrip()}\n{assignment}\n" if old.strip() else f"{_HEADER}{assignment}\n"
    if not _says(new, names, file):  # a comment or name with a bracket in it
        raise InputError(f"{file}: can't be edited safely; write '{assignment}' into it by hand")
    _write_whole(file, new)


def _says(text: str, names: Sequence[str], file: Path) -> bool:
    try:
        return _names(text, file) == list(names)
    except InputError:
        return False


def _write_whole(file: Path, text: str) -> None:
    """The old file or the new one, never half of either. A link is followed: its target is replaced."""
    file = file.resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(prefix=f".{file.name}.writing-", dir=file.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
