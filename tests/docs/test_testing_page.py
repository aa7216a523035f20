"""docs/plugin-authors/testing.md names every check with what it holds a plugin to, and its snippet runs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from blockzoo.testing import packages
from blockzoo.testing.suite import BY_KIND
from blockzoo_gpt2.samples import HF

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "testing.md").read_text(encoding="utf-8")


def test_every_check_is_explained() -> None:
    functions = {function for functions in (packages.CHECKS, *BY_KIND.values()) for function in functions}
    for function in functions:
        about = (function.__doc__ or "").strip().partition("\n")[0]
        assert about.endswith("."), f"{function.__module__}.{function.__name__}: say it in one line"
        assert f"| `{function.__name__}` | {about} |" in PAGE, f"testing.md lacks: | `{function.__name__}` | {about} |"


def test_the_page_names_no_check_that_is_gone() -> None:
    names = {function.__name__ for functions in (packages.CHECKS, *BY_KIND.values()) for function in functions}
    rows = PAGE[PAGE.index("## The package") :].splitlines()
    listed = {row.split("`")[1] for row in rows if row.startswith("| `")}
    assert listed == names


def test_recording_logits_gives_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="the snippet asks transformers (the test extra)")
    (code,) = re.findall(r"^```python file=record.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "record.py", "exec"), {"__name__": "__main__"})
    assert HF[0].logits is not None
    assert ast.literal_eval(capfd.readouterr().out) == pytest.approx(HF[0].logits, rel=1e-4)
