"""Whether a family heeds the keys of config.json that none of its samples has: those that ``read_config`` asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from blockzoo.checkpoints.config_json import HARMLESS, ConfigJSON
from blockzoo.testing.check import need
from blockzoo.testing.families import FamilySubject
from blockzoo.testing.values import documents_of, need_finish

VALUES: Sequence[Sequence[Any]] = ((False, True), (1, 2, 3, 7), (0.25, 0.5, 0.75))
"""Of each type that a key may have; words can't be guessed."""

Twins = tuple[str, ...]
"""The names that one value may stand under."""


def every_key_counts(subject: FamilySubject) -> None:
    """A key that read_config asks for and no sample has isn't dropped: some value is another model, or an error."""
    need_finish(subject)
    layout, documents = subject.family.layouts[subject.layout], documents_of(subject)
    said = {key for document in documents for key in document}  # every_value_counts tries those
    for twins in sorted(asked(subject)):
        key = twins[0]
        if said.isdisjoint(twins) and HARMLESS.isdisjoint(twins) and layout.harmless.isdisjoint(twins):
            need(
                not _dropped(subject, documents, key),
                f"read_config asks for config.json's '{key}' and no sample has it; whatever is put there, the model"
                " stays the same: use it, refuse what the model can't have with must_be, or bring a sample in which it"
                " counts; if it changes nothing, say so in Layout(harmless=...)",
            )


def _dropped(subject: FamilySubject, documents: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether all values of some type are read, and none of any type makes another model in any document."""
    taken, plain = False, [_model(subject, document) for document in documents]
    for values in VALUES:
        read = [[_model(subject, {**document, key: value}) for value in values] for document in documents]
        if any(model not in (None, same) for models, same in zip(read, plain, strict=True) for model in models):
            return False
        taken |= all(model is not None for models in read for model in models)
    return taken


def _model(subject: FamilySubject, document: Mapping[str, Any]) -> Any:
    """None where it is refused, or where read_config stumbles: other checks say so."""
    try:
        return subject.reads(document)
    except Exception:
        return None


def asked(subject: FamilySubject) -> set[Twins]:
    """The keys at the top of the sample's config.json that ``read_config`` asks for, there or not."""
    with _noting() as found:
        _model(subject, subject.sample.config_json)
    return found


@contextmanager
def _noting() -> Iterator[set[Twins]]:
    """What any ConfigJSON is asked for meanwhile, nested ones aside."""
    found: set[Twins] = set()
    plain = ConfigJSON.raw

    def raw(self: ConfigJSON, *names: str, default: Any = None) -> Any:
        if self.outer is None:
            found.add(names)
        return plain(self, *names, default=default)

    with patch.object(ConfigJSON, "raw", raw):
        yield found


CHECKS = (every_key_counts,)
