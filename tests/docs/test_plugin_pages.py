"""The pages for each kind: each example, typed in as it stands, passes the conformance suite; its YAML is a model."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_public_api import PUBLIC
from tests.warm import Warm

PAGES = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors"
KINDS = (
    "norm",
    "residual",
    "mixer",
    "attention",
    "recurrence",
    "position",
    "ffn",
    "quantizer",
    "float8",
    "kernel",
    "family",
)
FENCE = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUN = """
import json, sys
from pathlib import Path
from blockzoo.building import build
from blockzoo.config import load_config
from blockzoo.plugins import host, load_file
from blockzoo.testing import CheckSkipped, checks

failed, folder = {}, Path(sys.argv[1])
for file in sorted(folder.glob("*/*.py")):
    load_file(file)
registry = host().registry
for file in sorted(folder.glob("*/*.py")):
    found = failed[file.parent.name + "/" + file.stem] = []
    for check in checks(file.stem, registry):
        try:
            check.run()
        except CheckSkipped:
            pass
        except Exception as error:
            found.append(f"{check.component} {check.name}: {error}")
for file in sorted(folder.glob("*/*.yaml")):
    found = failed[file.parent.name + "/" + file.name] = []
    try:
        build(load_config(file, registry=registry), registry=registry, device="meta")
    except Exception as error:
        found.append(str(error))
print(json.dumps(failed))
"""


def files_of(kind: str) -> dict[str, str]:
    return dict(FENCE.findall((PAGES / f"{kind}.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def outcomes(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """File -> what is wrong with it: all of them in one process, for it takes seconds to start."""
    folder = tmp_path_factory.mktemp("pages")
    for kind in KINDS:
        (folder / kind).mkdir()
        for name, text in files_of(kind).items():
            (folder / kind / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "BLOCKZOO_PLUGINS": "none", "XDG_CONFIG_HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = warm.run(["-c", RUN, str(folder)], environment, folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_passes_the_suite(kind: str, outcomes: Any) -> None:
    ran = {file: wrong for file, wrong in outcomes.items() if file.startswith(f"{kind}/")}
    assert len(ran) == len(files_of(kind)) > 0
    assert not any(ran.values()), ran


@pytest.mark.parametrize("kind", KINDS)
def test_its_example_uses_only_what_is_public(kind: str) -> None:
    for name, text in files_of(kind).items():
        for node in ast.walk(ast.parse(text)) if name.endswith(".py") else ():
            module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
            if module.startswith("blockzoo"):
                private = {alias.name for alias in node.names} - set(PUBLIC.get(module, "").split())
                assert not private, f"{kind}.md, {name}: {module} has no public {private}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_short_and_linked(kind: str) -> None:
    assert len((PAGES / f"{kind}.md").read_text(encoding="utf-8").splitlines()) <= 100
    assert f"({kind}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")
