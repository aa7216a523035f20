"""GPT-2: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners". Its checkpoints and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_gpt2.family import GPT2

    registry.family(GPT2)


@hookimpl
def blockzoo_configs() -> list[Path]:
    from blockzoo.plugins import shipped_configs

    return [shipped_configs("gpt2")]
