"""gpt-oss: OpenAI 2025, arXiv:2508.10925. Checkpoints in both published layouts, config.json, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_gpt_oss.family import GPT_OSS

    registry.family(GPT_OSS)


@hookimpl
def blockzoo_configs() -> list[Path]:
    from blockzoo.plugins import shipped_configs

    return [shipped_configs("gpt_oss")]
