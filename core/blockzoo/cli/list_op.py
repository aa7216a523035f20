"""``blockzoo list OP``: what an op computes, what calls pass, how far kernels may be off, and which there are."""

from __future__ import annotations

import inspect
import re
from typing import Any

from blockzoo.cli.output import table
from blockzoo.kernels import Kernel, Op
from blockzoo.registry import Registry
from blockzoo.testing.kernel_advice import keys_of

QUOTED = re.compile(r"(?<=[:>] )(['\"])(.*?)\1")
"""An annotation as ``inspect`` shows one that is postponed."""


def op_named(registry: Registry, name: str) -> Op | None:
    """The op of a bare or canonical name, if there is one."""
    known = {canonical for c in registry.components() if c.kind == "op" for canonical in (c.name, c.canonical)}
    op: Op | None = registry.get("op", name) if name in known else None
    return op


def described(op: Op, registry: Registry) -> dict[str, Any]:
    """The document of ``--json``. ``tolerances``: dtype -> greatest error over the greatest value."""
    kernels = sorted(registry.kernels().get(op.name, ()), key=lambda kernel: -kernel.priority)
    return {
        "about": " ".join((inspect.getdoc(op.reference) or "").partition("\n\n")[0].split()).replace("``", "`"),
        "call": op.name + QUOTED.sub(r"\2", str(inspect.signature(op.reference))),
        "reference": f"{op.reference.__module__}.{op.reference.__qualname__}",
        "static": sorted(keys_of(op)),
        "tolerances": {str(dtype).removeprefix("torch."): within for dtype, within in op.tolerances.items()},
        "kernels": [_row(kernel) for kernel in kernels],
    }


def _row(kernel: Kernel) -> dict[str, Any]:
    return {
        "name": kernel.name,
        "priority": kernel.priority,
        "backward": kernel.backward,
        "layout": "canonical" if kernel.layout is None else kernel.layout.name,
    }


def show(op: Op, registry: Registry) -> None:
    said = described(op, registry)
    print(f"op {op.name}: {said['about']}")
    print(f"  {said['call']}")
    print(f"  defined by {said['reference']}; told beforehand: {', '.join(said['static']) or 'nothing'}")
    within = ", ".join(f"{dtype} {most:g}" for dtype, most in said["tolerances"].items())
    print(f"  kernels may be off, of the greatest value: {within}")
    if said["kernels"]:
        table("", list(said["kernels"][0]), [list(row.values()) for row in said["kernels"]])
