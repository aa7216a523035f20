"""A checkpoint folder as untrusted input: which files are read, and how.

Only regular files inside the folder are opened, never a pipe or a device. A symlink may not lead out of the
folder, but for a download's snapshot, whose files are links into the ``blobs`` of the same repository. Nothing
is ever unpickled or run.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from blockzoo.checkpoints import strict_json
from blockzoo.checkpoints.safetensors_io import StoredTensor, read_header
from blockzoo.errors import CheckpointError

CONFIG_BYTES = 4 * 2**20
INDEX_BYTES = 64 * 2**20
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
ONE_OF_SEVERAL = re.compile(r"-\d+-of-(?!0*1\.)\d+\.safetensors$")
INDEX = ".safetensors.index.json"
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
        link = "; it is a link: copy the file in, or remove the link" if (root / name).is_symlink() else ""
        raise CheckpointError(f"{folder / name}: can't be opened ({_reason(error)}){link}") from error
    if path.parent != root and not _is_blob(path, root):
        raise CheckpointError(f"{folder / name}: is a link out of the folder; copy the file in if you trust it")
    if not stat.S_ISREG(kind):
        raise CheckpointError(f"{folder / name}: is no regular file")
    return path


def holds(folder: Path, name: str) -> bool:
    """Whether a folder has an entry of that name: also a link to nothing, which is an error and no absent file."""
    return os.path.lexists(folder / name)


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


def read_bytes(folder: Path, name: str, limit: int) -> bytes:
    """A file of the folder, at most ``limit`` bytes."""
    with open_file(path_in(folder, name)) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise CheckpointError(f"{folder / name}: is larger than {limit} bytes")
    return data


def read_json(folder: Path, name: str, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """One JSON object, at most ``limit`` bytes, without repeated keys, NaN or infinity."""
    data = read_bytes(folder, name, limit)
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
    name = weights_file(folder, sorted(entry.name for entry in folder.iterdir()))
    return _indexed(folder, name) if name.endswith(INDEX) else read_header(path_in(folder, name))


def weights_file(where: object, names: list[str]) -> str:
    """Which of a folder's files has the weights, or is the index of those that have them."""
    indices = [name for name in names if name.endswith(INDEX)]
    if "model.safetensors" in names and indices:
        raise CheckpointError(f"{where}: has both model.safetensors and {indices[0]}; remove the one that is stale")
    if len(indices) > 1:
        raise CheckpointError(f"{where}: has several indices ({', '.join(indices)}); leave one")
    if indices:
        return indices[0]
    files = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in files:
        return "model.safetensors"
    if len(files) == 1 and not ONE_OF_SEVERAL.search(files[0]):
        return files[0]
    raise CheckpointError(f"{where}: {_why_none(names, files)}")


def shards_of(folder: Path, index: str) -> dict[str, str]:
    """Which file each tensor is in, by an index."""
    shard_of = read_json(folder, index, INDEX_BYTES).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{folder / index}: 'weight_map' must map tensor names to file names")
    return shard_of


def _indexed(folder: Path, index: str) -> dict[str, StoredTensor]:
    """The tensors of all shards, which must be exactly those that the index promises."""
    where = folder / index
    shard_of = shards_of(folder, index)
    found: dict[str, StoredTensor] = {}
    shards = sorted(set(shard_of.values()))
    absent = [shard for shard in shards if _is_plain(shard) and not holds(folder, shard)]
    if absent:
        head = f"{where}: {len(absent)} of its {len(shards)} files are not there; was the download cut off?"
        raise CheckpointError("\n".join([head, *shortened(absent)]))
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
    if len(files) == 1:
        return f"has {files[0]} alone, one of several, and no index; was the download cut off?"
    if files:
        return f"has {len(files)} safetensors files and no index that says which belong together"
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"has only pickled weights ({pickles[0]}), which can run code when read; convert them to safetensors first"
        )
    return "holds no safetensors file" + ("; did you mean the folder 'original' in it?" if "original" in names else "")


def name_of(folder: Path) -> str:
    """What to call the model of a folder: a snapshot goes by its repository, not by its commit."""
    repository = _repository(folder.resolve())
    return folder.resolve().name if repository is None else repository.name.rpartition("--")[2]


def _is_blob(path: Path, root: Path) -> bool:
    """Whether a file is one of the hub cache that the folder is in: of ``<repository>/blobs``, or of the ``blobs`` that
    repositories share.
    """
    repository = _repository(root)
    if repository is None:
        return False
    return path.parent == repository / "blobs" or path.parent.parent == repository.parent / "blobs"


def _repository(root: Path) -> Path | None:
    """``models--owner--name`` if the folder is its ``snapshots/<commit>`` or in that."""
    for folder in root.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent
    return None


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
