"""Names a folder of configs that isn't there."""

from blockzoo.blocks import NormConfig


class LostNormConfig(NormConfig):
    """Never visible."""


def blockzoo_register(registry):
    registry.block("norm", "lost_norm", LostNormConfig)


def blockzoo_configs():
    return ["/nowhere/at/all"]
