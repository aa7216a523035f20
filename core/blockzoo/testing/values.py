"""Whether a family reads what a config.json says: each value is changed in turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from blockzoo.checkpoints.config_json import HARMLESS
from blockzoo.errors import BlockzooError
from blockzoo.testing.check import need
from blockzoo.testing.families import FamilySubject


def every_value_counts(subject: FamilySubject) -> None:
    """Another value of a key of config.json is another model, or an error, in one of the samples at least."""
    layout = subject.family.layouts[subject.layout]
    samples = [replace(subject, sample=sample) for sample in layout.samples]
    documents = [document for s in samples for document in (s.sample.config_json, layout.write_config(s.config()))]
    written = layout.write_config(subject.config())
    for path in sorted({*_paths(subject.sample.config_json), *((key,) for key in written)}):
        if path[-1] in HARMLESS or ".".join(path) in layout.harmless:
            continue
        for document in documents:
            _need_null_read(subject, document, path)
        need(
            any(_counts(subject, document, path) for document in documents),
            f"config.json's '{'.'.join(path)}' may have any value, and the model stays the same: use it, refuse others"
            " with must_be, or say that it changes nothing in Layout(harmless=...)",
        )


def _paths(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every key, and every key of an object inside."""
    for key, value in document.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _paths(value))


def _need_null_read(subject: FamilySubject, document: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """Null is a model or refused, like any value: files have it where an option is unset."""
    for changed in _changed(document, path, [None]):
        try:
            subject.reads(changed)
        except BlockzooError:
            continue
        except Exception as error:
            need(
                False,
                f"config.json's '{'.'.join(path)}' as null raises {type(error).__name__}: {error}: ConfigJSON's readers"
                " take null for absent; where it says something else, ask keys.is_null",
            )


def _counts(subject: FamilySubject, document: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    """Whether one of several other values of the same type is refused or read as another model."""
    model = subject.reads(document)
    for changed in _changed(document, path):
        try:
            if subject.reads(changed) != model:
                return True
        except BlockzooError:
            return True
    return False


def _changed(
    document: Mapping[str, Any], path: tuple[str, ...], others: Sequence[Any] | None = None
) -> Iterator[dict[str, Any]]:
    """The document with other values in one place; none where it lacks that place."""
    key, *rest = path
    if key not in document:
        return
    value = document[key]
    if rest:
        inner: Iterable[Any] = _changed(value, tuple(rest), others) if isinstance(value, dict) else ()
    else:
        inner = _others(value) if others is None else others
    yield from ({**document, key: other} for other in inner)


def _others(value: Any) -> list[Any]:
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


CHECKS = (every_value_counts,)
