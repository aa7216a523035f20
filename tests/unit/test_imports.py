"""Imports never climb, core imports no plugin, and ``import blockzoo`` is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "blockzoo"
LAYERS = (  # from the bottom up; a module may import its own layer and those before it
    {"errors"},
    {"memory", "step", "storage"},
    {"kernels", "cache", "cost", "blocks"},
    {"linear", "tables"},
    {"registry"},
    {"plugins", "importing", "uncollected", "hooks", "hookspecs", "discovery", "selection", "deny", "shipped"},
    {"config"},
    {"faults"},
    {"recording"},
    {"accounting", "differences", "words", "drawing", "memory_plan"},
    {"ends", "model", "initialization", "quantization", "building"},
    {"generation", "tokenizers", "checkpoints", "chat"},
    {"training"},
    {"experiments", "bench", "evaluation"},
    {"testing", "cli"},
    {"__init__", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(CORE.rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports when it runs, those inside functions too: (dotted name, line)."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            if node.module == "blockzoo":
                yield from ((f"blockzoo.{alias.name}", node.lineno) for alias in node.names)
            elif node.module is not None:
                yield node.module, node.lineno


def layer_of(file: Path) -> str:
    return file.relative_to(CORE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CORE)))
def test_imports_never_climb(file: Path) -> None:
    here = layer_of(file)
    assert here in LEVEL, f"say in this test and in docs/decisions/0001-contracts.md where '{here}' belongs"
    for name, line in imports(file):
        top, _, rest = name.partition(".")
        assert not top.startswith("blockzoo_"), f"{file}:{line}: core imports the plugin {top}"
        if top == "blockzoo":
            there = rest.partition(".")[0]
            assert there in LEVEL, f"{file}:{line}: imports {name}; name the module"
            assert LEVEL[there] <= LEVEL[here], f"{file}:{line}: {here} imports {there}, which stands above it"


@pytest.mark.parametrize("plugin", sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir()))
def test_no_built_in_plugin_has_a_private_door(plugin: str) -> None:
    for file in (ROOT / "plugins" / plugin).rglob("*.py"):
        for name, line in imports(file):
            private = any(part.startswith("_") for part in name.split(".")) and name.startswith("blockzoo")
            assert not private, f"{file}:{line}: imports {name}"
            assert not name.startswith(("blockzoo.cli", "blockzoo.experiments")), f"{file}:{line}: imports {name}"


def test_import_blockzoo_is_lazy() -> None:
    script = (
        "import sys, blockzoo\n"
        "heavy = {'torch', 'pydantic', 'pluggy', 'typer'} & set(sys.modules)\n"
        "heavy |= {m for m in sys.modules if m.startswith('blockzoo_')}\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_building_a_model_does_not_import_the_compiler() -> None:
    """A second, and 70 MB: initializers of PyTorch's modules do, on the meta device."""
    script = (
        "import sys, blockzoo\n"
        "for name in ('gpt2', 'qwen3-0.6b', 'gpt-oss-20b'):\n"
        "    width = 768 if name == 'gpt2' else 64\n"
        "    config = blockzoo.load_config(name, {'vocab_size': 128, 'layers.count': 2, 'd_model': width})\n"
        "    blockzoo.build(config)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)
