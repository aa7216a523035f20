"""Which of llama.cpp's architectures a model is, if any: by what its blocks say, never by its name.

llama.cpp computes a fixed set of architectures; a file names one and gives sizes. So each entry here says what a
model's config must be for that computation to be the model's own, with the sizes left free. Facts: llama.cpp's
``src/models/{gpt2,qwen3,openai-moe}.cpp``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from blockzoo.config.dump import dump, dump_block
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import InputError
from blockzoo.registry import Registry

FREE = object()
"""A value that the file states, or that changes nothing of what is computed here."""


@dataclass(frozen=True)
class Maybe:
    """Absent, or like this."""

    like: Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One computation that llama.cpp knows."""

    name: str
    """In its files: ``general.architecture``."""
    embedding: Mapping[str, Any]
    norm: Mapping[str, Any]
    layer: Mapping[str, Any]
    fused_qkv: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    """Modules of a layer that have other names than ``NAMES`` gives."""
    alternates: bool = False
    """Even layers slide, all with one window; odd ones see everything."""


LAYER_NORM = {"type": "blocks:layer_norm", "eps": FREE, "weight": True, "bias": True}
RMS_NORM = {"type": "blocks:rms_norm", "eps": FREE, "scale_in_fp32": FREE, "weight_offset": 0.0, "weight": True}
PLAIN_EMBEDDING = {"tied": FREE, "dropout": FREE, "scale": 1.0, "quantizer": FREE}
PRE_NORM = {"type": "blocks:pre_norm", "dropout": FREE, "multiplier": 1.0}
GQA = {
    "type": "blocks:gqa",
    "quantizer": FREE,
    "n_heads": FREE,
    "n_kv_heads": FREE,
    "head_dim": FREE,
    "sinks": False,
    "qk_norm_placement": FREE,
    "qk_norm_over": "head",
    "scale": FREE,  # checked apart: it follows from head_dim
    "dropout": FREE,
}
YARN = {
    "type": "yarn",
    "factor": FREE,
    "original_context_length": FREE,
    "beta_fast": FREE,
    "beta_slow": FREE,
    "truncate": FREE,
}
ROPE = {"type": "blocks:rope", "theta": FREE, "scaling": Maybe(YARN), "fraction": 1.0, "interleaved": False}
GLU = {"type": "blocks:glu", "quantizer": FREE, "d_ff": FREE, "activation": "silu"}
ROUTER = {
    "bias": True,
    "score": "softmax",
    "weights": "chosen",
    "scale": 1.0,
    "selection_bias": False,
    "groups": 1,
    "top_groups": 1,
}

ARCHITECTURES = (
    Architecture(
        "gpt2",
        {**PLAIN_EMBEDDING, "position": {"type": "blocks:learned"}},
        LAYER_NORM,
        {
            "mixer": {**GQA, "bias": ["q", "k", "v", "o"]},
            "ffn": {"type": "blocks:mlp", "quantizer": FREE, "d_ff": FREE, "activation": "gelu_tanh", "bias": True},
            "position": {"type": "blocks:none"},
        },
        fused_qkv=True,
    ),
    Architecture(
        "qwen3",
        PLAIN_EMBEDDING,
        RMS_NORM,
        {
            "mixer": {**GQA, "bias": [], "qk_norm": RMS_NORM, "qk_norm_placement": "before"},
            "ffn": {**GLU, "bias": False, "activation_scale": 1.0, "up_shift": 0.0},
            "position": ROPE,
        },
    ),
    Architecture(
        "gpt-oss",
        {**PLAIN_EMBEDDING, "tied": False},
        RMS_NORM,
        {
            "mixer": {**GQA, "bias": ["q", "k", "v", "o"], "sinks": True, "window": FREE},
            "ffn": {
                "type": "blocks:moe",
                "quantizer": FREE,
                "n_experts": FREE,
                "top_k": FREE,
                "expert": {**GLU, "bias": True, "activation_scale": 1.702, "limit": 7.0, "up_shift": 1.0},
                "router": ROUTER,
                "shared_gate": False,
                "balance_loss": FREE,
            },
            "position": ROPE,
        },
        names={"ffn_norm": "post_attention_norm"},
        alternates=True,
    ),
)


def architecture_of(config: ModelConfig, registry: Registry) -> Architecture:
    """The architecture that computes this model.

    Raises InputError with what the nearest one has otherwise.
    """
    config = config.explicit()
    told = [(architecture, list(_differences(architecture, config, registry))) for architecture in ARCHITECTURES]
    nearest, reasons = min(told, key=lambda one: len(one[1]))
    if not reasons:
        return nearest
    listed = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise InputError(
        f"llama.cpp has no architecture that computes {config.name}"
        f" (of {known}, the nearest is {nearest.name}): {listed}"
    )


def _differences(architecture: Architecture, config: ModelConfig, registry: Registry) -> Iterator[str]:
    said = dump(config, registry)
    head = {"norm": architecture.norm, "bias": False, "logit_scale": 1.0, "quantizer": FREE}
    yield from _unlike(architecture.embedding, said["embedding"], "embedding")
    yield from _unlike(head, said["head"], "head")
    expected = {**architecture.layer, "norm": architecture.norm, "residual": PRE_NORM}
    first = _described(config.layers[0], registry)
    yield from _unlike(expected, first, "layers[0]")
    windows = [_window(layer, registry) for layer in config.layers]
    for index, layer in enumerate(config.layers):
        described = _described(layer, registry)
        if architecture.alternates:
            described["mixer"].pop("window", None)
        one = {
            **first,
            "mixer": {k: v for k, v in first["mixer"].items() if k != "window" or not architecture.alternates},
        }
        if described != one:
            yield f"layers[{index}] is not like layers[0]"
            break
    alternating = [windows[0] if index % 2 == 0 else None for index in range(len(windows))]
    if architecture.alternates and (windows[0] is None or windows != alternating):
        yield "its windows are not one on every second layer, from the first on"
    mixer = first["mixer"]
    if isinstance(mixer, dict) and "head_dim" in mixer and abs(mixer["scale"] * mixer["head_dim"] ** 0.5 - 1) > 1e-6:
        yield f"layers[0].mixer.scale is {mixer['scale']}, not 1 / sqrt(head_dim)"
    epsilons = set(_epsilons(said["head"])) | set(_epsilons(first))
    if len(epsilons) > 1:
        yield f"its norms have several eps: {', '.join(map(str, sorted(epsilons)))}"


def _described(layer: LayerConfig, registry: Registry) -> dict[str, Any]:
    return {slot: dump_block(getattr(layer, slot), registry) for slot in LayerConfig.model_fields}


def _window(layer: LayerConfig, registry: Registry) -> int | None:
    mixer = dump_block(layer.mixer, registry)
    return mixer.get("window") if isinstance(mixer, dict) else None


def _epsilons(said: Mapping[str, Any]) -> Iterator[float]:
    for key, value in said.items():
        if key == "eps":
            yield value
        elif isinstance(value, dict):
            yield from _epsilons(value)


def _unlike(expected: Any, found: Any, place: str) -> Iterator[str]:
    """Where a described block is not as expected; a key that one of them lacks is None there."""
    if expected is FREE:
        return
    if isinstance(expected, Maybe):
        if found is None:
            return
        expected = expected.like
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if expected.get("type") != found.get("type"):
            yield f"{place} is {_short(found.get('type'))}, not {_short(expected.get('type'))}"
            return
        for key in {**expected, **found}:
            yield from _unlike(expected.get(key), found.get(key), f"{place}.{key}")
    elif expected != found:
        yield f"{place} is {_short(found)}, not {_short(expected)}"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("type", "given")
    return "none" if value is None else str(value).removeprefix("blocks:")
