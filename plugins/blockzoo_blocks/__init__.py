"""The blocks that blockzoo ships, as an ordinary plugin: norms, mixers, feed-forward blocks, positions, residuals,
quantizers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo.linear import CHOSEN_LINEAR, EXPERT_LINEAR, LINEAR
    from blockzoo_blocks.ffn.activation import ACTIVATION
    from blockzoo_blocks.ffn.gate import GATE
    from blockzoo_blocks.ffn.glu import GLUConfig
    from blockzoo_blocks.ffn.mixing import MIX_EXPERTS
    from blockzoo_blocks.ffn.mlp import MLPConfig
    from blockzoo_blocks.ffn.moe import MoEConfig
    from blockzoo_blocks.ffn.routing import CHOOSE_EXPERTS, WEIGH_EXPERTS
    from blockzoo_blocks.mixers.attention import ATTENTION
    from blockzoo_blocks.mixers.gqa import GQAConfig
    from blockzoo_blocks.norms.layer_norm import LAYER_NORM, LayerNormConfig
    from blockzoo_blocks.norms.rms_norm import RMS_NORM, RMSNormConfig
    from blockzoo_blocks.positions.alibi import AlibiConfig
    from blockzoo_blocks.positions.learned import LearnedPositionConfig
    from blockzoo_blocks.positions.none import NoPositionConfig
    from blockzoo_blocks.positions.rope import ROTARY, RopeConfig
    from blockzoo_blocks.positions.sinusoidal import SinusoidalPositionConfig
    from blockzoo_blocks.quantizers.int8 import Int8Config
    from blockzoo_blocks.quantizers.mxfp4 import MXFP4Config
    from blockzoo_blocks.residuals.parallel import ParallelConfig
    from blockzoo_blocks.residuals.pre_norm import PreNormConfig
    from blockzoo_blocks.residuals.sandwich import SandwichConfig

    registry.op(ACTIVATION)
    registry.op(ATTENTION)
    registry.op(GATE)
    registry.op(RMS_NORM)
    registry.op(ROTARY)
    registry.op(LAYER_NORM)
    registry.op(CHOOSE_EXPERTS)
    registry.op(WEIGH_EXPERTS)
    registry.op(MIX_EXPERTS)
    registry.op(LINEAR)
    registry.op(EXPERT_LINEAR)
    registry.op(CHOSEN_LINEAR)
    registry.block("ffn", "glu", GLUConfig)
    registry.block("ffn", "mlp", MLPConfig)
    registry.block("ffn", "moe", MoEConfig)
    registry.block("mixer", "gqa", GQAConfig)
    registry.block("norm", "layer_norm", LayerNormConfig)
    registry.block("norm", "rms_norm", RMSNormConfig)
    registry.block("position", "alibi", AlibiConfig)
    registry.block("position", "learned", LearnedPositionConfig)
    registry.block("position", "none", NoPositionConfig)
    registry.block("position", "rope", RopeConfig)
    registry.block("position", "sinusoidal", SinusoidalPositionConfig)
    registry.block("quantizer", "int8", Int8Config)
    registry.block("quantizer", "mxfp4", MXFP4Config)
    registry.block("residual", "parallel", ParallelConfig)
    registry.block("residual", "pre_norm", PreNormConfig)
    registry.block("residual", "sandwich", SandwichConfig)


@hookimpl
def blockzoo_configs() -> list[Path]:
    from blockzoo.plugins import shipped_configs

    return [shipped_configs("ladder")]
