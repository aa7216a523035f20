"""Takes its time, and registers one norm."""

import time

from blockzoo.hookspecs import hookimpl

time.sleep(2)


@hookimpl
def blockzoo_register(registry):
    from blockzoo.blocks import NormConfig

    class SlowNormConfig(NormConfig):
        """A norm of no use."""

    registry.block("norm", "slow_norm", SlowNormConfig)
