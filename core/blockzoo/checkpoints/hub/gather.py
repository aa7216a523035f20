"""Which files are needed, and all of them there: config and tokenizer first, then the weights that an index names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event

from blockzoo.checkpoints.atomic import check_room
from blockzoo.checkpoints.folder import INDEX, shards_of, shortened, weights_file
from blockzoo.checkpoints.hub.access import explained
from blockzoo.checkpoints.hub.reference import Reference
from blockzoo.checkpoints.hub.stores import Store
from blockzoo.checkpoints.hub.transfer import wrong
from blockzoo.errors import CheckpointError

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
CONFIG = ("config.json", "generation_config.json", "blockzoo.yaml")
AT_ONCE = 4
"""Files that are downloaded at the same time."""


def gathered(store: Store, patterns: Sequence[str]) -> list[str]:
    """The names of all that ``patterns`` ask for, each of them in the store now."""
    names = [name for name in store.files if name in patterns]
    if not set(WEIGHTS) <= set(patterns):
        _obtain(store, names)
        return names
    weights = weights_file(store.place, sorted(store.files))
    if not weights.endswith(INDEX):
        _obtain(store, [*names, weights])
        return [*names, weights]
    _obtain(store, [*names, weights])
    shards = sorted(set(shards_of(store.folder, weights).values()))
    absent = [shard for shard in shards if shard not in store.files]
    if absent:
        lines = shortened(absent)
        raise CheckpointError("\n".join([f"{store.place}: {weights} names files that are not there:", *lines]))
    _obtain(store, shards)
    return [*names, weights, *shards]


def there(folder: Path, place: Reference, patterns: Sequence[str]) -> Path:
    """A snapshot of which only the cache is known, offline. Raises CheckpointError if it isn't whole."""
    if not folder.is_dir():
        raise CheckpointError(f"{place}: is not in the cache ({folder}), and offline; download it with a network first")
    if set(WEIGHTS) <= set(patterns):
        weights = weights_file(folder, sorted(entry.name for entry in folder.iterdir()))
        shards = sorted(set(shards_of(folder, weights).values())) if weights.endswith(INDEX) else []
        _refuse_offline(place, [shard for shard in shards if not (folder / shard).exists()])
    return folder


def _obtain(store: Store, names: Iterable[str]) -> None:
    """Download what is missing, several files at once; the first failure ends all, and so does an interrupt."""
    missing = [name for name in names if not _is_there(store, name)]
    if not missing:
        return
    if store.access.is_offline:
        _refuse_offline(store.place, [name for name in missing if store.needs_hub(name)])
    # halves that are there already are not counted off: the check is for mistakes of another size
    check_room(store.folder, sum(store.files[name].size or 0 for name in missing))
    stop = Event()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for future in as_completed([pool.submit(store.obtain, name, stop) for name in missing]):
            future.result()
    except Exception as error:  # of the HTTP client's, which differs by huggingface_hub's version
        raise explained(error, store.place, store.access) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _is_there(store: Store, name: str) -> bool:
    path, file = store.folder / name, store.files[name]
    if not path.is_file():
        return False
    size_differs = file.size is not None and path.stat().st_size != file.size
    if size_differs or (store.access.again and wrong(path, file) is not None):
        if store.access.is_offline:
            raise CheckpointError(f"{path}: is damaged; download it again with a network")
        store.access.say(f"{path}: is damaged, downloading it again")
        store.discard(name)
        return False
    return True


def _refuse_offline(place: Reference, missing: Sequence[str]) -> None:
    if missing:
        head = f"{place}: is not whole in the cache, and offline; `blockzoo download {place}` with a network gets"
        raise CheckpointError("\n".join([head, *shortened(list(missing))]))
