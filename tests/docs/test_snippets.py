"""Every model in the documentation builds: each ``yaml`` block that has a ``vocab_size`` and ``layers``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from blockzoo.building import build
from blockzoo.config import dump, load_config
from blockzoo.registry import Registry
from tests.conftest import builtin_registry

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted([*ROOT.glob("docs/**/*.md"), ROOT / "README.md"])


def models() -> list[pytest.param]:  # type: ignore[valid-type]
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            keys = yaml.safe_load(match[1])
            if isinstance(keys, dict) and {"vocab_size", "layers"} <= set(keys):
                line = text[: match.start()].count("\n") + 2
                found.append(pytest.param(match[1], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.fixture(scope="module")
def shipping() -> Registry:
    registry = builtin_registry()
    registry.config_folders = {"blocks": [ROOT / "configs" / name for name in ("gpt2", "qwen3", "gpt_oss", "ladder")]}
    return registry


@pytest.mark.parametrize("text", models())
def test_every_model_in_the_documentation_builds(text: str, shipping: Registry, tmp_path: Path) -> None:
    path = tmp_path / "snippet.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path, registry=shipping)
    assert load_config(dump(config, shipping), registry=shipping) == config
    model = build(config, registry=shipping)
    assert model(torch.zeros(1, 2, dtype=torch.int64)).shape == (1, 2, config.vocab_size)
