"""The key map shown in docs/plugin-authors/family-reference.md is the one of our tests."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.checkpoints.fused_families import NEOX_KEYS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "family-reference.md"


def test_the_keys_of_gpt_neox() -> None:
    (code,) = re.findall(r"^```python file=neox_keys.py\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    said: dict[str, object] = {}
    exec(compile(code, "neox_keys.py", "exec"), said)
    assert set(said["KEYS"].rules) == set(NEOX_KEYS.rules)  # type: ignore[attr-defined]
    assert said["KEYS"].weightless == NEOX_KEYS.weightless  # type: ignore[attr-defined]
