"""The gated delta rule as a token mixer, and a small hybrid that uses it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo_delta_net.mixer import GatedDeltaNetConfig

    registry.block("mixer", "gated_delta_net", GatedDeltaNetConfig)


@hookimpl
def blockzoo_configs() -> list[Path]:
    return [Path(__file__).parent / "configs"]
