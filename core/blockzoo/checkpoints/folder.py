"""A checkpoint folder as untrusted input: which files are read, and how.

Only regular files inside the folder are opened, never a pipe or a device. A symlink may not lead out of the
folder, but for a download's snapshot, whose files are links into the ``blobs`` of the same repository. Nothing
is ever unpickled or run.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from blockzoo.checkpoints import strict_json
from blockzoo.checkpoints.safetensors_io import StoredTensor, read_header
from blockzoo.errors import CheckpointError

CONFIG_BYTES = 4 * 2**20
INDEX_BYTES = 64 * 2**20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
REMOTE_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")


def path_in(folder: Path, name: str) -> Path:
    """The real path of a file of the folder. Raises CheckpointError for a name that leads elsewhere."""
    if not name or name in (".", "..") or name != Path(name).name or not _is_plain(name):
        raise CheckpointError(f"{folder}: {name!r} is no plain file name; a checkpoint's files lie in its own folder")
    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        kind = path.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks
        raise CheckpointError(f"{folder / name}: can't be opened ({_reason(error)})") from error
    if path.parent != root and path.parent != _blobs(root):
        raise CheckpointError(f"{folder / name}: is a link out of the folder; copy the file in if you trust it")
    if not stat.S_ISREG(kind):
        raise CheckpointError(f"{folder / name}: is no regular file")
    return path


def _is_plain(name: str) -> bool:
    """No separator of any system, and no character (NUL, a lone surrogate) that a path can't hold."""
    return not any(c in "/\\\0" or "\ud800" <= c <= "\udfff" for c in name)


def open_file(path: Path) -> BinaryIO:
    """Open a path that ``path_in`` returned, without ever waiting for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be opened ({_reason(error)})") from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise CheckpointError(f"{path}: is no regular file")
    return os.fdopen(number, "rb")


def read_json(folder: Path, name: str, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """One JSON object, at most ``limit`` bytes, without repeated keys, NaN or infinity."""
    path = path_in(folder, name)
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{folder / name}: is larger than {limit} bytes")
    try:
        return strict_json.parse(data)
    except ValueError as error:
        raise CheckpointError(f"{folder / name}: is no valid JSON ({error})") from error


def read_config_json(folder: Path) -> dict[str, Any]:
    """``config.json``. Raises CheckpointError if it asks for code to be run."""
    config = read_json(folder, "config.json")
    asked = [key for key in REMOTE_CODE_KEYS if config.get(key)]
    if asked:
        raise CheckpointError(
            f"{folder / 'config.json'}: asks for code of its own ({', '.join(asked)});"
            " blockzoo runs none, so it can't know what the model computes"
        )
    return config


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of the folder's safetensors files, by its name; nothing but headers is read.

    ``model.safetensors``, or the shards that the one ``*.safetensors.index.json`` names, or the one other
    ``*.safetensors``.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    indices = [name for name in names if name.endswith(".safetensors.index.json")]
    if "model.safetensors" in names and indices:
        raise CheckpointError(f"{folder}: has both model.safetensors and {indices[0]}; remove the one that is stale")
    if len(indices) > 1:
        raise CheckpointError(f"{folder}: has several indices ({', '.join(indices)}); leave one")
    if indices:
        return _indexed(folder, indices[0])
    files = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in files or len(files) == 1:
        name = "model.safetensors" if "model.safetensors" in files else files[0]
        return read_header(path_in(folder, name))
    raise CheckpointError(f"{folder}: {_why_none(names, files)}")


def _indexed(folder: Path, index: str) -> dict[str, StoredTensor]:
    """The tensors of all shards, which must be exactly those that the index promises."""
    where = folder / index
    shard_of = read_json(folder, index, INDEX_BYTES).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{where}: 'weight_map' must map tensor names to file names")
    found: dict[str, StoredTensor] = {}
    shards = sorted(set(shard_of.values()))
    problems: list[str] = []
    for shard in shards:
        header = read_header(path_in(folder, shard))
        promised = {name for name, s in shard_of.items() if s == shard}
        problems += [f"'{name}' is not in {shard}, where the index has it" for name in sorted(promised - set(header))]
        problems += [f"'{name}' is in {shard}, but not there in the index" for name in sorted(set(header) - promised)]
        found.update(header)
    if problems:
        raise CheckpointError("\n".join([f"{where}: does not fit its shards:", *shortened(problems)]))
    return found


def shortened(lines: list[str], limit: int = 20) -> list[str]:
    """Indented lines for a message, the rest counted."""
    rest = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"  {line}" for line in lines[:limit]] + rest


def _why_none(names: list[str], files: list[str]) -> str:
    if files:
        return f"has {len(files)} safetensors files and no index that says which belong together"
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"has only pickled weights ({pickles[0]}), which can run code when read; convert them to safetensors first"
        )
    return "holds no safetensors file" + ("; did you mean the folder 'original' in it?" if "original" in names else "")


def _blobs(root: Path) -> Path | None:
    """``<repository>/blobs`` if the folder is ``<repository>/snapshots/<revision>`` of a hub cache."""
    repository = root.parent.parent
    is_snapshot = root.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository / "blobs" if is_snapshot else None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
