"""Prints at its import and when it registers: neither may reach standard output."""

from blockzoo.blocks import NormConfig

print("hello from the printer's import")


class PrintedNormConfig(NormConfig):
    """A norm of no use."""


def blockzoo_register(registry):
    print("hello from the printer's hook")
    registry.block("norm", "printed_norm", PrintedNormConfig)
