"""A plugin with one of everything: a norm, a mixer, a quantizer, a kernel, and a model that uses them."""

from pathlib import Path

from blockzoo.hookspecs import hookimpl


@hookimpl
def blockzoo_register(registry):
    from blockzoo_demo.kernel import PER_HEAD
    from blockzoo_demo.mixer import GatedAttentionConfig
    from blockzoo_demo.norm import DynamicTanhConfig
    from blockzoo_demo.quantizer import NibbleConfig

    registry.block("norm", "dynamic_tanh", DynamicTanhConfig)
    registry.block("mixer", "gated_attention", GatedAttentionConfig)
    registry.block("quantizer", "nibble", NibbleConfig)
    registry.kernel("attention", PER_HEAD)


@hookimpl
def blockzoo_configs():
    return [Path(__file__).parent / "configs"]
