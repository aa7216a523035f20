"""Whether a family reads what a config.json says: each value is changed in turn, and made null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.config_json import HARMLESS
from blockzoo.checkpoints.variants import GONE, Path, changed, others, paths, value_at
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import BlockzooError
from blockzoo.testing.check import CheckSkipped, need
from blockzoo.testing.families import FamilySubject, finishes

SAMPLES, WRITTEN = "config.json", "write_config's config.json"
"""Whose keys: the sample's own, or those that ``write_config`` makes of its model."""


def every_value_counts(subject: FamilySubject) -> None:
    """Another value of a key of config.json is another model, or an error, in one of the samples at least."""
    need_finish(subject)
    layout = subject.family.layouts[subject.layout]
    documents = documents_of(subject)
    written, own = layout.write_config(subject.config()), set(paths(subject.sample.config_json))
    for path in sorted({*own, *((key,) for key in written)}):
        if path[-1] in HARMLESS or ".".join(path) in layout.harmless:
            continue
        need(
            any(_counts(subject, document, path) for document in documents),
            f"{SAMPLES if path in own else WRITTEN}'s '{'.'.join(path)}' may have any value, and the model stays the"
            " same: use it, refuse others with must_be, or say that it changes nothing in Layout(harmless=...)",
        )


def documents_of(subject: FamilySubject) -> list[Mapping[str, Any]]:
    """Of all samples of its layout: config.json, and what ``write_config`` makes of the model."""
    layout = subject.family.layouts[subject.layout]
    samples = [replace(subject, sample=sample) for sample in layout.samples]
    return [document for s in samples for document in (s.sample.config_json, layout.write_config(s.config()))]


def need_finish(subject: FamilySubject) -> None:
    """What a key says wrongly is noted and raised by nobody: unknown_keys says so."""
    if not finishes(subject):
        raise CheckSkipped("read_config doesn't end with keys.finish(), so no value is refused: see unknown_keys")


def _counts(subject: FamilySubject, document: Mapping[str, Any], path: Path) -> bool:
    """Whether one of several other values of the same type is refused or read as another model."""
    model = subject.reads(document)
    return any(read is None or read != model for read in map(_reader(subject), changed(document, path)))


def _reader(subject: FamilySubject) -> Any:
    """The model of a document; None where it is refused."""

    def read(document: Mapping[str, Any]) -> ModelConfig | None:
        try:
            return subject.reads(document)
        except BlockzooError:
            return None

    return read


def null_is_none(subject: FamilySubject) -> None:
    """A null in config.json is none where the model may have none, and not the default of a key left out."""
    need_finish(subject)
    layout = subject.family.layouts[subject.layout]
    written = layout.write_config(subject.config())
    for whose, document in ((SAMPLES, subject.sample.config_json), (WRITTEN, written)):
        for path in paths(document):
            key = ".".join(path)
            null = _null(subject, document, path, f"{whose}'s '{key}'")
            if null is None or path[-1] in HARMLESS or key in layout.harmless | layout.null_is_default:
                continue
            (without,) = changed(document, path, [GONE])
            if _reader(subject)(without) != null:  # null says something of its own
                continue
            options = {
                option
                for value, other in zip(others(value_at(document, path)), changed(document, path), strict=True)
                for option in _none_left_out(null, _reader(subject)(other), value)
            }
            need(
                not options,
                f"{whose}'s '{key}' as null reads as its default, as if it were left out, though"
                f" {', '.join(sorted(options))} may be none: ask keys.is_null('{path[-1]}') and say none; or"
                " refuse it by keys.problem(...) if theirs takes no null; or say"
                f" Layout(null_is_default={{'{key}'}}) if null means the default here",
            )


def _null(subject: FamilySubject, document: Mapping[str, Any], path: Path, what: str) -> ModelConfig | None:
    """Null is a model or refused, like any value: files have it where an option is unset."""
    (with_null,) = changed(document, path, [None])
    try:
        return _reader(subject)(with_null)
    except Exception as error:
        need(
            False,
            f"{what} as null raises {type(error).__name__}: {error}: ConfigJSON's readers"
            " take null for absent; where it says something else, ask keys.is_null",
        )
    return None


def _none_left_out(null: ModelConfig, other: ModelConfig | None, value: object) -> Iterator[str]:
    """The options that get the ``value`` of a key, and which as none would be another model than null gives."""
    if other is None or isinstance(value, bool):
        return
    for one, two in zip(_blocks(null), _blocks(other), strict=False):
        for name, info in type(one).model_fields.items():
            has, gets = getattr(one, name), getattr(two, name, None)
            if has is not None and gets == value != has and NoneType in get_args(info.annotation):
                none = one.model_copy(update={name: None})
                if none.explicit(null.dims) != one.explicit(null.dims):
                    yield f"{type(one).__name__}.{name}"


def _blocks(model: ModelConfig) -> Iterator[BlockConfig]:
    """The blocks of every layer, those inside others too, and those at the ends."""

    def inside(config: BaseModel) -> Iterator[BlockConfig]:
        if isinstance(config, BlockConfig):
            yield config
        for _, value in config:
            if isinstance(value, BaseModel):
                yield from inside(value)

    for part in (model.embedding, model.head, *model.layers):
        yield from inside(part)


CHECKS = (every_value_counts, null_is_none)
