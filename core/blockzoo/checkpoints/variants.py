"""A config.json with another value in one place, to see what follows from that place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str, ...]
GONE: Any = object()
"""In place of a value: the key is left out."""


def paths(document: Mapping[str, Any]) -> Iterator[Path]:
    """Every key, and every key of an object inside."""
    for key, value in document.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in paths(value))


def changed(document: Mapping[str, Any], path: Path, to: Sequence[Any] | None = None) -> Iterator[dict[str, Any]]:
    """The document with other values in one place; none where it lacks that place."""
    key, *rest = path
    if key not in document:
        return
    value = document[key]
    if rest:
        inner: Iterable[Any] = changed(value, tuple(rest), to) if isinstance(value, dict) else ()
    else:
        inner = others(value) if to is None else to
    for other in inner:
        yield {k: other if k == key else v for k, v in document.items() if k != key or other is not GONE}


def value_at(document: Mapping[str, Any], path: Path) -> Any:
    """What the document has in one place."""
    for key in path:
        document = document[key]
    return document


def others(value: Any) -> list[Any]:
    """Values of the same type: a wrong type is refused even by what is read and then dropped."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value + 2, 2 * value]
    if isinstance(value, float):
        return [value + 0.25, 2 * value]
    if isinstance(value, str):
        return ["no_such_word"]
    if isinstance(value, list):
        return [value[::-1], value[1:], [*value, 0]]
    return [{"no_such_key": 1}] if isinstance(value, dict) else [1, "no_such_word", {"no_such_key": 1}]


def keys_behind(
    place: str, document: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> list[str]:
    """The keys of a config.json from which ``read`` makes what stands at a dotted place of its result."""
    said = _at(read(document), place)
    return [
        ".".join(path) for path in paths(document) if any(_moves(place, said, c, read) for c in changed(document, path))
    ]


def _moves(place: str, said: Any, document: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> bool:
    try:
        return bool(_at(read(document), place) != said)
    except Exception:  # another value may be refused: this asks about values that are read
        return False


def _at(value: Any, place: str) -> Any:
    for part in place.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value
