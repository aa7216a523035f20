"""CompleteP: hyperparameters tuned at one shape, carried over to another. Dey et al. 2025, arXiv:2505.01618.

With the width multiple m_N = d_model / base d_model and the depth multiple m_L = layers / base layers:

=====================  =======================  =====================  ===============  =================
what                   initial variance         learning rate          weight decay     Adam's eps
=====================  =======================  =====================  ===============  =================
hidden matrices        / m_N                    / m_N                  * m_N            / (m_N m_L)
gains, biases, sinks,  as they are              as they are            none             / (m_N m_L)
others, in layers
embeddings, the head   as they are              as they are            as it is         / m_N
=====================  =======================  =====================  ===============  =================

and forward each residual branch / m_L, logits / m_N. These are the paper's rules (its alpha is 1, so the depth factors
of learning rates vanish). eps follows the size of gradients, which all shrink with 1 / m_N and inside residual branches
with 1 / m_L too; some implementations divide it by both everywhere, which moves what gets almost no gradient and
nothing else. The paper's attention divides scores by head_dim in place of its root; heads are widened in number here
and keep their head_dim, where both are one constant, and ``check_heads`` refuses models that don't.

The paper knows dense GPT blocks. What is decided here for the rest, by role, so for plugins' blocks as well:

- Routers are hidden matrices: their fan-in grows with the width, so each step must move them by 1 / m_N for the logits
  to move alike; that they have few outputs changes nothing in that.
- Stacks of experts are hidden matrices, each expert by itself. Number of experts and top_k are not transferred over.
- Matrices through a narrow latent (LoRA, MLA) are hidden ones: exact where the latent is widened with the model. Where
  it is held, the matrix that leads out of it learns too slowly by up to m_N: ``blockzoo coordinates`` shows it.
- OTHER (a filter, a decay) has a fan-in that doesn't grow. A growing matrix should have said HIDDEN.
- A parameter with an ``init`` of its own is drawn by that: its author knows its fan-in.
- The head's bias is added before logits are divided, so its rate is * m_N: the two cancel.

GPT-2's init, std / sqrt(2 layers) where the residual is written, would divide branches by depth a second time: it is
held at the base's number of layers. Everything that isn't a multiple stays, so at the base's own shape this is the
standard model and optimizer bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose, sqrt

from blockzoo.accounting import parameters_of
from blockzoo.blocks import MixerConfig, Role
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import InputError
from blockzoo.initialization import LAYER_MATRICES, std_of
from blockzoo.training.config import CompletePConfig


@dataclass(frozen=True)
class Factors:
    """What a parameter's learning rate, weight decay and eps are multiplied by."""

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


def parametrized(config: ModelConfig, base: CompletePConfig | None) -> ModelConfig:
    """The model to build: its branches, logits and initial weights scaled from the base's shape. It is complete in
    itself: saved and loaded without ``base`` it computes the same.

    Raises InputError for a residual block that doesn't scale its branches.
    """
    if base is None:
        return config
    width, depth = multiples(config, base)
    if depth != 1:
        config = config.model_copy(update={"layers": _divided(config, depth)})
    if (width, depth) != (1, 1):
        config = config.model_copy(update={"init": config.init.model_copy(update=_init(config, base, width))})
    if width != 1:
        head = config.head.model_copy(update={"logit_scale": config.head.logit_scale / width})
        config = config.model_copy(update={"head": head})
        if config.embedding.scale == "sqrt_d_model":
            embedding = config.embedding.model_copy(update={"scale": sqrt(base.d_model)})
            config = config.model_copy(update={"embedding": embedding})
    return config


def factors_of(config: ModelConfig, base: CompletePConfig | None) -> dict[str, Factors]:
    """Parameter name -> its factors. All 1 without a ``base``, and at the base's own shape."""
    width, depth = (1.0, 1.0) if base is None else multiples(config, base)
    found = {}
    for name, parameter in parameters_of(config).items():
        eps = 1 / (width * depth) if name.startswith("layers.") else 1 / width
        if parameter.role in LAYER_MATRICES:
            found[name] = Factors(lr=1 / width, weight_decay=width, eps=eps)
        else:
            found[name] = Factors(lr=width if name == "head.bias" else 1.0, eps=eps)
    return found


def multiples(config: ModelConfig, base: CompletePConfig) -> tuple[float, float]:
    """m_N and m_L."""
    return config.d_model / base.d_model, config.n_layers / base.n_layers


def check_heads(config: ModelConfig, base: ModelConfig) -> None:
    """Raise InputError where attention's head_dim is another than in the model whose rate is transferred, unless both
    say a ``scale`` that goes with 1 / head_dim."""
    ours, theirs = set(_heads(config)), set(_heads(base))
    for width, scale in sorted(ours):
        fits = any(width == other or isclose(width * scale, other * at) for other, at in theirs)
        if theirs and not fits:
            widths = ", ".join(str(other) for other, _ in sorted(theirs))
            raise InputError(
                f"{config.name}: head_dim is {width}, {widths} in {base.name}, where the learning rate is from:"
                " CompleteP carries a rate over to more heads, not to wider ones; keep head_dim and change n_heads, or"
                " give both a mixer.scale that is a constant / head_dim"
            )


def _divided(config: ModelConfig, depth: float) -> tuple[LayerConfig, ...]:
    """The layers with their branches divided; equal layers stay one object."""
    made: dict[int, LayerConfig] = {}
    for layer in config.layers:
        if id(layer) not in made:
            made[id(layer)] = layer.model_copy(update={"residual": layer.residual.scaled(1 / depth)})
    return tuple(made[id(layer)] for layer in config.layers)


def _init(config: ModelConfig, base: CompletePConfig, width: float) -> dict[str, float | str]:
    changes: dict[str, float | str] = {"hidden_std": std_of(config, Role.HIDDEN) / sqrt(width)}
    if config.init.residual_output == "depth_scaled":
        at_base = std_of(config, Role.HIDDEN) / sqrt(2 * base.n_layers)
        changes |= {"residual_output": "plain", "residual_output_std": at_base / sqrt(width)}
    elif config.init.residual_output_std is not None:
        changes["residual_output_std"] = config.init.residual_output_std / sqrt(width)
    return changes


def _heads(config: ModelConfig) -> Iterator[tuple[int, float]]:
    """(head_dim, scale) of each mixer that has the two."""
    seen: dict[int, MixerConfig] = {id(layer.mixer): layer.mixer for layer in config.layers if layer.mixer is not None}
    for mixer in seen.values():
        if {"head_dim", "scale"} <= type(mixer).model_fields.keys():
            said = mixer.explicit(config.dims).model_dump(include={"head_dim", "scale"})
            if None not in said.values():
                yield said["head_dim"], said["scale"]
