"""The documentation leaves nothing out: each hook, verb and built-in thing is in it, and no page names a check that
isn't there.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from blockzoo import hookspecs
from blockzoo.cli.plugins_new_kernel import taken
from blockzoo.cli.verbs import OWN_VERBS
from blockzoo.registry import Component
from blockzoo.testing import packages
from blockzoo.testing.kernel_advice import keys_of
from blockzoo.testing.suite import BY_KIND
from tests.conftest import builtin_registry

DOCS = Path(__file__).resolve().parents[2] / "docs"
AUTHORS = DOCS / "plugin-authors"
PAGES = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
TEXT = "\n".join(PAGES.values())
FENCES = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
CODE = "\n".join([*FENCES.findall(TEXT), *re.findall(r"`[^`\n]+`", FENCES.sub("", TEXT))])
CHECKS = {function.__name__ for functions in (packages.CHECKS, *BY_KIND.values()) for function in functions}


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("blockzoo_")])
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    code = getattr(hookspecs, hook).__code__
    assert f"`{hook}({', '.join(code.co_varnames[: code.co_argcount])})`" in PAGES[AUTHORS / "hooks.md"]


@pytest.mark.parametrize("verb", [verb.name for verb in OWN_VERBS])
def test_every_verb_is_documented(verb: str) -> None:
    assert re.search(rf"\bblockzoo {verb}\b", TEXT), f"no page under docs/ shows `blockzoo {verb}`"


@pytest.mark.parametrize("component", builtin_registry().components(), ids=lambda c: f"{c.kind}/{c.name}")
def test_everything_built_in_is_documented(component: Component) -> None:
    """By its bare name, as code."""
    assert re.search(rf"(?<![\w-]){component.name}(?![\w-])", CODE), f"no page under docs/ names `{component.name}`"


def test_tables_of_mistakes_name_checks_that_are_there() -> None:
    for page in BY_KIND.keys() - {"op"}:
        tables = re.findall(r"^\|.* caught by \|\n((?:\|.*\n)+)", PAGES[AUTHORS / f"{page}.md"], re.MULTILINE)
        rows = [row.split("|") for table in tables for row in table.splitlines()]
        named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
        assert named <= CHECKS, f"{page}.md names checks that aren't there: {sorted(named - CHECKS)}"


def table_of_ops(heading: str) -> dict[str, str]:
    """op -> the other cells of its rows in a section of kernel-reference.md; a row without a name goes on."""
    page = PAGES[AUTHORS / "kernel-reference.md"]
    section = page[page.index(f"## {heading}") :].partition("\n## ")[0]
    rows: dict[str, str] = {}
    for name, cells in re.findall(r"^\|(?: `(\w+)`)? +\| (.*) \|$", section, re.MULTILINE):
        last = name or list(rows)[-1]
        rows[last] = rows.get(last, "") + cells
    return rows


def test_the_tables_of_ops_are_the_ops_that_there_are() -> None:
    ops = builtin_registry().ops()
    arguments, told = table_of_ops("Arguments"), table_of_ops("What supports() is told")
    assert arguments.keys() == ops.keys()
    for name, op in ops.items():
        said = ", ".join(taken(op, list(inspect.signature(op.reference).parameters.values())))
        assert arguments[name].startswith(f"`{said}` |".replace(" | None", r" \| None")), f"`{said}`"
        missing = {key for key in keys_of(op) if f"`{key}`" not in told.get(name, "")}
        assert missing == set(), f"{name} is told of {missing}"
        assert keys_of(op) or name not in told


def test_the_table_of_tolerances_is_the_ops() -> None:
    page = PAGES[AUTHORS / "kernel-reference.md"]
    section = page[page.index("## Tolerances") :].partition("\n## ")[0]
    heads = ("float64", "float32", "bfloat16", "float16")
    said = {
        name: {dtype: float(cell) for dtype, cell in zip(heads, cells.split("|"), strict=True) if cell.strip()}
        for names, cells in re.findall(r"^\| (`.*`) \|(.*) \|$", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    ops = builtin_registry().ops().items()
    assert said == {name: {str(t).removeprefix("torch."): x for t, x in op.tolerances.items()} for name, op in ops}


def test_every_page_for_authors_is_linked() -> None:
    index = PAGES[AUTHORS / "README.md"]
    missing = [page.name for page in AUTHORS.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index]
    assert not missing
