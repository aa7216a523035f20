"""What every gpt-oss has, in YAML's words: both config.json readers fill in only what theirs says."""

from __future__ import annotations

from typing import Any

ACTIVATION_SCALE = 1.702
LIMIT = 7.0


def architecture(
    *,
    sizes: dict[str, int],
    mixer: dict[str, Any],
    window: int | None,
    slides: list[bool],
    position: dict[str, Any],
    experts: dict[str, Any],
    d_ff: int,
    activation_scale: float,
    limit: float,
    packed: bool,
    eps: float = 1e-5,
    tied: bool = False,
    std: float = 0.02,
) -> dict[str, Any]:
    """A model config. ``sizes``: vocab_size, context_length, d_model; ``slides``: which layers have the window."""
    full = {"type": "gqa", "sinks": True, **mixer}
    expert = {
        "type": "glu",
        "d_ff": d_ff,
        "bias": True,
        "activation": "silu",
        "activation_scale": activation_scale,
        "limit": limit,
        "up_shift": 1.0,
    }
    moe = {"type": "moe", "router": {"bias": True, "weights": "chosen"}, "expert": expert, **experts}
    return {
        "family": "gpt_oss",
        **sizes,
        "embedding": {"tied": tied},
        "norm": {"type": "rms_norm", "eps": eps},
        "position": position,
        "residual": {"type": "pre_norm"},
        "init": {"std": std},
        "blocks": {
            "full": full,
            **({"sliding": {"use": "full", "window": window}} if any(slides) else {}),
            "experts": {**moe, "quantizer": {"type": "mxfp4"}} if packed else moe,
        },
        "layers": {
            "count": len(slides),
            "mixer": {"list": ["sliding" if slide else "full" for slide in slides]},
            "ffn": "experts",
        },
    }
