"""JSON from strangers: no repeated keys, no NaN or infinity, no nesting that exhausts the stack."""

from __future__ import annotations

import json
from typing import Any


def parse(data: bytes) -> dict[str, Any]:
    """One JSON object. Raises ValueError with the reason for anything else."""
    try:
        parsed = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"repeated key {key[:80]!r}")
        found[key] = value
    return found


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")
