"""Claims a name that blockzoo ships."""

from blockzoo.blocks import NormConfig
from blockzoo.hookspecs import hookimpl


class OtherRMSNormConfig(NormConfig):
    """Not the one that everybody means."""


class InnocentNormConfig(NormConfig):
    """Goes down with it."""


@hookimpl
def blockzoo_register(registry):
    registry.block("norm", "innocent", InnocentNormConfig)
    registry.block("norm", "rms_norm", OtherRMSNormConfig)
