"""What blocks keep in ``step.table``, which all layers of a pass share: one layer's is not another's.

Entries that follow from the input are left out: a layer may hold activations for later ones (value residuals), which
then differ from what it would have alone, on purpose.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from blockzoo.testing.check import CheckFailed, need_close, one_line
from blockzoo.testing.inputs import inputs, step_of
from blockzoo.testing.numerics import FEW_ULP
from blockzoo.testing.samples import peers_of
from blockzoo.testing.subjects import BlockSubject

PLAIN = (bool, int, float, str, type(None))


def tables_are_its_own(subject: BlockSubject) -> None:
    """What it keeps in step.table, which all layers of a pass share, is not taken for another sample's."""
    tables: dict[Hashable, object] = {}
    for other in peers_of(subject):
        tables = {**_tables(other), **tables}
    module, shared = subject.build(), step_of()
    shared.tables.update(tables)
    keys = ", ".join(map(repr, tables))
    what = f"beside another sample in one pass it gives another output: widen its table keys, {keys}, by what differs"
    with torch.no_grad():
        alone = subject.call(module, inputs(), step_of())
        try:
            found = subject.call(module, inputs(), shared)
        except Exception as error:
            raise CheckFailed(f"{what} ({one_line(error)})") from error
    need_close(found, alone, FEW_ULP, what)


@torch.no_grad()
def _tables(subject: BlockSubject) -> dict[Hashable, object]:
    """What it keeps in a pass, without what another input changes."""
    module, steps = subject.build(), (step_of(), step_of())
    for seed, step in enumerate(steps):
        subject.call(module, inputs(seed=seed), step)
    kept, again = (step.tables for step in steps)
    return {key: value for key, value in kept.items() if key in again and _equal(value, again[key])}


def _equal(one: object, other: object) -> bool:
    """Whether two tables hold the same numbers; False where they can't be compared."""
    (ours, form), (theirs, other_form) = tree_flatten(one), tree_flatten(other)
    return form == other_form and all(_equal_leaves(a, b) for a, b in zip(ours, theirs, strict=True))


def _equal_leaves(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and isinstance(one, PLAIN) and one == other


CHECKS = (tables_are_its_own,)
