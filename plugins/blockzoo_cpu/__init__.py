"""Kernels in C for decoding and training on a CPU: compiled at first use, PyTorch's where there is no compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockzoo.hookspecs import hookimpl

if TYPE_CHECKING:
    from blockzoo.registry import Registrar


@hookimpl
def blockzoo_register(registry: Registrar) -> None:
    from blockzoo.bench.stream import STREAM_SUM
    from blockzoo_cpu.activations import ACTIVATION
    from blockzoo_cpu.attention import ATTENTION
    from blockzoo_cpu.blocked_attention import BLOCKED_ATTENTION
    from blockzoo_cpu.linear import CHOSEN_ROWS, EXPERT_ROWS, LINEAR_ROWS
    from blockzoo_cpu.mixing import MIX_EXPERTS
    from blockzoo_cpu.player import PLAYER
    from blockzoo_cpu.pointwise import GATE, LAYER_NORM, RMS_NORM, ROTARY
    from blockzoo_cpu.prefill import EXPERT_TILES, LINEAR_TILES
    from blockzoo_cpu.roof import CPU_STREAM_SUM
    from blockzoo_cpu.routing import CHOOSE_EXPERTS, WEIGH_EXPERTS
    from blockzoo_cpu.tiled_attention import TILED_ATTENTION

    registry.op(STREAM_SUM)
    registry.kernel("stream_sum", CPU_STREAM_SUM)
    registry.kernel("activation", ACTIVATION)
    registry.kernel("attention", ATTENTION)
    registry.kernel("attention", TILED_ATTENTION)
    registry.kernel("attention", BLOCKED_ATTENTION)
    registry.kernel("gate", GATE)
    registry.kernel("layer_norm", LAYER_NORM)
    registry.kernel("linear", LINEAR_ROWS)
    registry.kernel("expert_linear", EXPERT_ROWS)
    registry.kernel("chosen_linear", CHOSEN_ROWS)
    registry.kernel("linear", LINEAR_TILES)
    registry.kernel("expert_linear", EXPERT_TILES)
    registry.kernel("choose_experts", CHOOSE_EXPERTS)
    registry.kernel("weigh_experts", WEIGH_EXPERTS)
    registry.kernel("mix_experts", MIX_EXPERTS)
    registry.kernel("rms_norm", RMS_NORM)
    registry.kernel("rotary", ROTARY)
    registry.player("calls", PLAYER)
