"""Multi-head latent attention, and the published model that it fits whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_mla.mixer import MLAConfig

    registry.block("mixer", "mla", MLAConfig)


@hookimpl
def blockzoo_configs() -> list[Path]:
    return [Path(__file__).parent / "configs"]
