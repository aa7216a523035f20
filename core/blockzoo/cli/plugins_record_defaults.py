"""What ``read_config`` takes where config.json leaves a key out, beside what transformers' config class does.

Each key that ``read_config`` asks for is taken out of a sample, transformers fills it in, and both are read: a default
that is another shows whatever the samples have. A None of its is compared as null, which says the same in a file: there
is none, or it is worked out elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from blockzoo.errors import BlockzooError
from blockzoo.testing.asked import Twins, asked
from blockzoo.testing.families import FamilySubject

ABSENT: Any = object()


def other_defaults(subject: FamilySubject, model_type: str | None) -> Iterator[str]:
    """One line for each key of a sample whose default is another. ``model_type``: instead of the family's own."""
    from transformers import AutoConfig

    layout, said = subject.family.layouts[subject.layout], dict(subject.sample.config_json)
    name = str(said.get("model_type")) if model_type is None else model_type
    for twins in sorted(asked(subject)):
        if not layout.harmless.isdisjoint(twins):
            continue
        without = {key: value for key, value in said.items() if key not in twins}
        try:
            given = {key: value for key, value in without.items() if key != "model_type"}
            filled = AutoConfig.for_model(name, **given).to_dict()
        except Exception:  # transformers can't do without it, or doesn't know the model_type: recording says so
            continue
        key, value = _filled_in(filled, twins)
        if value is ABSENT:
            continue
        document = {**without, key: value}
        if not _refuses_null(subject, document, key) and _differ(subject, without, document):
            theirs = "null" if value is None else repr(value)
            yield f"where a config.json leaves '{key}' out, transformers takes {theirs}, and read_config another value"


def _filled_in(filled: Mapping[str, Any], twins: Twins) -> tuple[str, Any]:
    """The name that transformers has for one of the twins, and its value, which may stand among those of rope. ABSENT
    where it has none of them.
    """
    places = [(key, values) for values in (filled, filled.get("rope_parameters") or {}) for key in twins]
    found = [(key, values[key]) for key, values in places if key in values]
    given = [(key, value) for key, value in found if value is not None]
    return next(iter([*given, *found]), (twins[0], ABSENT))


def _refuses_null(subject: FamilySubject, document: Mapping[str, Any], key: str) -> bool:
    """A file may leave a key out and not say null."""
    if document[key] is not None:
        return False
    try:
        subject.reads(document)
    except BlockzooError:
        return True
    return False


def _differ(subject: FamilySubject, without: Mapping[str, Any], filled: Mapping[str, Any]) -> bool:
    """Whether the two are other models; one that blockzoo can't have is compared as ``read_config`` says it.

    A key that ``read_config`` can't do without has no default.
    """
    read = subject.family.layouts[subject.layout].read_config
    try:
        said = read(without)
    except Exception:
        return False
    try:
        return said != read(filled) and subject.reads(without).explicit() != subject.reads(filled).explicit()
    except BlockzooError:
        return True
