"""Registers one block and then fails: nothing of it may stay."""

from blockzoo.blocks import NormConfig
from blockzoo.hookspecs import hookimpl


class HalfNormConfig(NormConfig):
    """Never visible."""


@hookimpl
def blockzoo_register(registry):
    registry.block("norm", "half_norm", HalfNormConfig)
    raise LookupError("the second half\nis missing")
