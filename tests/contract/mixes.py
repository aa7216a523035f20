"""Random valid models over all registered blocks, and small samples of each block: what the contract tests run on."""

from __future__ import annotations

import random
from typing import Any

from blockzoo.accounting import account
from blockzoo.blocks import AttentionPositionConfig, BlockConfig, Dims, FFNConfig, MixerConfig, NormConfig
from blockzoo.config.schema import EmbeddingConfig, HeadConfig, LayerConfig, ModelConfig
from blockzoo.registry import Registry

D_MODEL = 32
DIMS = Dims(d_model=D_MODEL, n_layers=3, context_length=64)
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"type": "linear", "factor": 2.0},
    {"type": "ntk", "factor": 4.0},
    {"type": "yarn", "factor": 8.0, "original_context_length": 16, "truncate": False},
    {"type": "llama3", "factor": 4.0, "original_context_length": 16},
]


def block(registry: Registry, kind: str, name: str, **options: Any) -> Any:
    """An instance of a registered block."""
    return registry.block(kind, name)(**options)


def draw_norm(rng: random.Random, registry: Registry) -> NormConfig:
    if rng.random() < 0.4:
        return block(registry, "norm", "layer_norm", bias=rng.random() < 0.5)
    return block(registry, "norm", "rms_norm", scale_in_fp32=rng.random() < 0.5, weight_offset=rng.choice([0.0, 1.0]))


def draw_position(rng: random.Random, registry: Registry) -> AttentionPositionConfig:
    name = rng.choice(["none", "rope", "rope", "alibi"])
    if name != "rope":
        return block(registry, "position", name)
    return block(
        registry,
        "position",
        "rope",
        theta=rng.choice([100.0, 10000.0]),
        scaling=rng.choice(SCALINGS),
        fraction=rng.choice([1.0, 0.5]),
        interleaved=rng.random() < 0.3,
    )


def draw_quantizer(rng: random.Random, registry: Registry) -> Any:
    return rng.choice(
        [None, None, block(registry, "quantizer", "mxfp4"), block(registry, "quantizer", "int8", group_size=16)]
    )


def draw_mixer(rng: random.Random, registry: Registry) -> MixerConfig | None:
    name = rng.choice(["gqa", "gqa", "gqa", "mla", "gated_recurrence", None])
    if name == "mla":
        sizes = {"n_heads": 2, "q_rank": 32, "kv_rank": 32, "nope_dim": 8, "rope_dim": 8, "v_dim": 16}
        return block(
            registry, "mixer", "mla", norm=draw_norm(rng, registry), quantizer=draw_quantizer(rng, registry), **sizes
        )
    if name == "gated_recurrence":
        return block(registry, "mixer", "gated_recurrence", width=32, quantizer=draw_quantizer(rng, registry))
    if name is None:
        return None
    heads, head_dim = rng.choice([(2, 16), (4, 8), (4, 16)])
    over = rng.choice(["head", "projection"])
    return block(
        registry,
        "mixer",
        "gqa",
        n_heads=heads,
        n_kv_heads=rng.choice([1, 2, heads]),
        head_dim=head_dim,
        bias=rng.choice([True, False, ("q", "v")]),
        window=rng.choice([None, 1, 5, 16]),
        sinks=rng.random() < 0.5,
        qk_norm=draw_norm(rng, registry) if rng.random() < 0.5 else None,
        qk_norm_over=over,
        qk_norm_placement="before" if over == "projection" else rng.choice(["before", "after"]),
        softcap=rng.choice([None, None, 20.0]),
        quantizer=draw_quantizer(rng, registry),
    )


def draw_ffn(rng: random.Random, registry: Registry, *, stack: bool = True) -> FFNConfig | None:
    name = rng.choice(["mlp", "glu", "moe", "moe", None]) if stack else rng.choice(["mlp", "glu"])
    if name is None:
        return None
    if name == "moe":
        return block(
            registry,
            "ffn",
            "moe",
            n_experts=rng.choice([2, 5]),
            top_k=rng.choice([1, 2]),
            expert=draw_ffn(rng, registry, stack=False),
            shared=draw_ffn(rng, registry, stack=False) if rng.random() < 0.4 else None,
            router=rng.choice(
                [
                    {"bias": True, "weights": "chosen"},
                    {"weights": "all"},
                    {"weights": "all_renormalized", "scale": 1.5},
                    {"score": "sigmoid", "selection_bias": True},
                ]
            ),
            balance_loss=rng.choice([0.0, 0.01]),
            quantizer=draw_quantizer(rng, registry),
        )
    options: dict[str, Any] = {"d_ff": rng.choice([32, 64]), "bias": rng.random() < 0.5}
    if name == "glu" and rng.random() < 0.5:
        options |= {"activation_scale": 1.702, "limit": 7.0, "up_shift": 1.0}
    else:
        options["activation"] = rng.choice(["gelu", "gelu_tanh", "relu", "relu2", "silu"])
    return block(registry, "ffn", name, **options)


def draw_residual(rng: random.Random, registry: Registry) -> Any:
    name = rng.choice(["pre_norm", "sandwich", "parallel"])
    options: dict[str, Any] = {"multiplier": rng.choice([1.0, 0.5])}
    if name == "sandwich":
        options["pre"] = rng.random() < 0.7
    if name == "parallel":
        options["shared_norm"] = rng.random() < 0.5
    return block(registry, "residual", name, **options)


def draw_layer(rng: random.Random, registry: Registry) -> LayerConfig:
    mixer, position = draw_mixer(rng, registry), draw_position(rng, registry)
    if mixer is None or position.form not in mixer.positions:
        position = block(registry, "position", "none")
    return LayerConfig(
        mixer=mixer,
        ffn=draw_ffn(rng, registry),
        norm=draw_norm(rng, registry),
        position=position,
        residual=draw_residual(rng, registry),
    )


def draw_model(seed: int, registry: Registry) -> ModelConfig:
    """One random model: two or three different layers."""
    rng = random.Random(seed)
    kinds = [draw_layer(rng, registry) for _ in range(2)]
    additive = rng.choice([None, block(registry, "position", "learned"), block(registry, "position", "sinusoidal")])
    config = ModelConfig(
        name=f"mix-{seed}",
        vocab_size=rng.choice([64, 97]),
        context_length=64,
        d_model=D_MODEL,
        embedding=EmbeddingConfig(
            tied=rng.random() < 0.5,
            scale=rng.choice([1.0, 2.0, "sqrt_d_model"]),
            position=additive,
            norm=draw_norm(rng, registry) if rng.random() < 0.3 else None,
            quantizer=draw_quantizer(rng, registry) if rng.random() < 0.3 else None,
        ),
        head=HeadConfig(
            norm=draw_norm(rng, registry),
            bias=rng.random() < 0.2,
            logit_scale=rng.choice([1.0, 0.5]),
            logit_softcap=rng.choice([None, 30.0]),
        ),
        layers=tuple(kinds[index] for index in rng.choice([(0, 1), (0, 0, 1), (0, 1, 0)])),
    )
    assert account(config).parameters["total"] > 0
    return config


def configs_of(config: BlockConfig) -> list[BlockConfig]:
    """A block and all blocks inside it."""
    inner = [value for _, value in config if isinstance(value, BlockConfig)]
    return [config, *(deeper for one in inner for deeper in configs_of(one))]
