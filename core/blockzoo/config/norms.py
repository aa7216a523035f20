"""Whether a layer's norm takes the width of the residual stream."""

from __future__ import annotations

from blockzoo.config.schema import LayerConfig


def norm_refusal(layer: LayerConfig, d_model: int) -> str | None:
    """Why it doesn't, or None; None too where the residual has no norm."""
    reason = layer.norm.refuses(d_model)
    return reason if reason and layer.residual.norms(layer.mixer is not None, layer.ffn is not None) else None
