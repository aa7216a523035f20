"""How config.json says rope, in both dialects.

``rope_parameters`` since transformers 5; ``rope_theta`` and ``rope_scaling`` before. Some files have all three.
Rotation of a part of each head is refused: the families' classes in transformers ignore ``partial_rotary_factor`` or
fail with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.errors import CheckpointError
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_scaling import LinearScaling, Llama3Scaling, YarnScaling

KINDS = {"default": "default", "linear": "linear", "yarn": "yarn", "llama3": "llama3"}


def read_rope(keys: ConfigJSON, context_length: int, default_theta: float) -> dict[str, Any]:
    """The ``position`` block. As in transformers, ``rope_scaling`` goes before ``rope_parameters``."""
    insides = {name: keys.mapping(name) for name in ("rope_scaling", "rope_parameters")}
    theta = _read_theta(keys, insides, default_theta)
    keys.must_be("partial_rotary_factor", 1.0, 1)
    scalings = [_read_inside(inside, context_length) for inside in insides.values() if inside is not None]
    return {"type": "rope", "theta": theta, "scaling": next(iter(scalings), None)}


def _read_inside(inner: ConfigJSON, context_length: int) -> dict[str, Any] | None:
    inner.must_be("partial_rotary_factor", 1.0, 1)
    kind = inner.choice("rope_type" if inner.values.get("rope_type") is not None else "type", KINDS, default="default")
    inner.seen.update(("rope_type", "type"))
    scaling = None if kind == "default" else _read_scaling(inner, kind, context_length)
    inner.finish()
    return scaling


def _read_theta(keys: ConfigJSON, insides: Mapping[str, ConfigJSON | None], default: float) -> float:
    """The base, wherever it stands. Two that differ are refused: transformers computes with the outer one before
    version 5, with the inner one since.
    """
    found = {
        f"{place}rope_theta": reader.number("rope_theta", least=1e-9)
        for place, reader in {"": keys, **{f"{name}.": inside for name, inside in insides.items()}}.items()
        if reader is not None and reader.raw("rope_theta") is not None
    }
    if len(set(found.values())) > 1:
        said = ", ".join(f"'{place}' is {theta}" for place, theta in found.items())
        keys.problem("rope_theta", f"has more than one value: {said}; keep the one that the model was trained with")
    return next(iter(found.values()), default)


def _read_scaling(keys: ConfigJSON, kind: str, context_length: int) -> dict[str, Any]:
    if kind == "linear":
        return {"type": kind, "factor": keys.number("factor", least=1)}
    original = keys.integer("original_max_position_embeddings", default=context_length)
    if kind == "llama3":
        return {
            "type": kind,
            "factor": keys.number("factor", least=1),
            "low_freq_factor": keys.number("low_freq_factor"),
            "high_freq_factor": keys.number("high_freq_factor"),
            "original_context_length": original,
        }
    scaling = {
        "type": kind,
        "factor": keys.number("factor", default=context_length / original, least=1),
        "beta_fast": keys.number("beta_fast", default=32.0),
        "beta_slow": keys.number("beta_slow", default=1.0),
        "original_context_length": original,
        "truncate": keys.flag("truncate", default=True),
    }
    if keys.raw("attention_factor") is not None:
        scaling["attention_factor"] = keys.number("attention_factor")
    return scaling


def write_rope(position: RopeConfig) -> dict[str, Any]:
    """The keys of config.json: both dialects, for readers before and after transformers 5, which otherwise take a
    default in silence; they agree.
    """
    if position.fraction != 1.0:
        raise CheckpointError(f"config.json has no words for rope on a fraction of each head ({position.fraction})")
    inner: dict[str, Any] = {"rope_type": "default"}
    scaling = position.scaling
    if isinstance(scaling, YarnScaling):
        inner = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "original_max_position_embeddings": scaling.original_context_length,
            "truncate": scaling.truncate,
        }
        if scaling.attention_factor is not None:
            inner["attention_factor"] = scaling.attention_factor
    elif isinstance(scaling, Llama3Scaling):
        inner = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    elif isinstance(scaling, LinearScaling):
        inner = {"rope_type": "linear", "factor": scaling.factor}
    elif scaling is not None:
        raise CheckpointError(f"config.json has no words for {scaling.type} scaling of rope")
    legacy = {"rope_theta": position.theta, **({} if scaling is None else {"rope_scaling": inner})}
    return {**legacy, "rope_parameters": {"rope_theta": position.theta, **inner}}
