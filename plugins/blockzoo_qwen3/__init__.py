"""Qwen3, dense and mixture of experts: Yang et al. 2025, arXiv:2505.09388. Checkpoints, config.json, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_qwen3.family import QWEN3

    registry.family(QWEN3)


@hookimpl
def blockzoo_configs() -> list[Path]:
    from blockzoo.plugins import shipped_configs

    return [shipped_configs("qwen3")]
