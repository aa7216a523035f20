"""How config.json says rope, in both dialects.

``rope_parameters`` since transformers 5; ``rope_theta`` and ``rope_scaling`` before. Some files have all three.
Rotation of a part of each head is refused unless a family names its key: the other families' classes in transformers
ignore ``partial_rotary_factor`` or fail with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import log
from typing import Any

from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.errors import CheckpointError
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_scaling import LinearScaling, Llama3Scaling, LongRopeScaling, YarnScaling

KINDS = ("linear", "yarn", "llama3", "longrope")
"""Of scaling, beside "default", which is none."""

THETA = "rope_theta"
INNER_FRACTION = "partial_rotary_factor"
ORIGINAL = "original_max_position_embeddings"


def read_rope(
    keys: ConfigJSON,
    context_length: int,
    default_theta: float,
    fraction_key: str | None = None,
    default_fraction: float = 1.0,
    kinds: Collection[str] | Mapping[str, str] = KINDS,
    theta_key: str = THETA,
) -> dict[str, Any]:
    """The ``position`` block. As in transformers, ``rope_scaling`` goes before ``rope_parameters``.

    ``fraction_key``: what the family's files call the share of each head that is rotated (``partial_rotary_factor``,
    GPT-NeoX's ``rotary_pct``), which is ``default_fraction`` where they leave it out. None: whole heads, others are
    refused. ``kinds``: the scalings that the original has under these names, out of ``KINDS``, or {theirs: ours}
    (Phi-3's ``su``); others are refused.
    ``theta_key``: what the family's files call the base outside of the two objects (GPT-NeoX's ``rotary_emb_base``).
    """
    insides = {name: _inside(keys, name) for name in ("rope_scaling", "rope_parameters")}
    theta = _read_one(keys, theta_key, THETA, insides, default_theta)
    if fraction_key is None:
        fraction = {}
        _refuse_parts(keys, insides)
    else:
        fraction = {"fraction": _read_one(keys, fraction_key, INNER_FRACTION, insides, default_fraction)}
    scalings = [_read_inside(inside, context_length, kinds) for inside in insides.values() if inside is not None]
    return {"type": "rope", "theta": theta, "scaling": next(iter(scalings), None), **fraction}


def _inside(keys: ConfigJSON, name: str) -> ConfigJSON | None:
    """The object, or None: an empty one says nothing, in transformers neither."""
    inside = keys.mapping(name)
    return inside if inside is not None and inside.values else None


def _refuse_parts(keys: ConfigJSON, insides: Mapping[str, ConfigJSON | None]) -> None:
    for reader in (keys, *insides.values()):
        value = None if reader is None else reader.raw(INNER_FRACTION)
        if reader is not None and value is not None and (isinstance(value, bool) or value != 1):
            reader.problem(
                INNER_FRACTION,
                f"is {value!r}; this family's models rotate whole heads (a family whose models rotate a part says"
                f' read_rope(..., fraction_key="{INNER_FRACTION}"))',
            )


def _read_inside(
    inner: ConfigJSON, context_length: int, kinds: Collection[str] | Mapping[str, str]
) -> dict[str, Any] | None:
    words = {"default": "default", **(kinds if isinstance(kinds, Mapping) else {kind: kind for kind in kinds})}
    kind = inner.choice("rope_type" if inner.values.get("rope_type") is not None else "type", words, default="default")
    inner.seen.update(("rope_type", "type"))
    scaling = None if kind == "default" else _read_scaling(inner, kind, context_length)
    inner.finish()
    return scaling


def _read_one(
    keys: ConfigJSON, outer: str, inner: str, insides: Mapping[str, ConfigJSON | None], default: float
) -> float:
    """The base or the fraction, wherever it stands. Two that differ are refused: transformers computes with the outer
    one before version 5, with the inner one since.
    """
    readers = [(outer, keys, outer), *((f"{name}.{inner}", inside, inner) for name, inside in insides.items())]
    found = {
        place: reader.number(name, least=1e-9)
        for place, reader, name in readers
        if reader is not None and reader.raw(name) is not None
    }
    displaced = insides["rope_scaling"] is not None and [*found] == [f"rope_parameters.{inner}"]
    if displaced and default not in found.values():
        why = f"stands in 'rope_parameters' alone, which 'rope_scaling' displaces: say '{inner}' beside them"
        keys.problem(outer, why)
    if len(set(found.values())) > 1:
        said = ", ".join(f"'{place}' is {value}" for place, value in found.items())
        keys.problem(outer, f"has more than one value: {said}; keep the one that the model was trained with")
    return next(iter(found.values()), default)


def _read_scaling(keys: ConfigJSON, kind: str, context_length: int) -> dict[str, Any]:
    if kind == "linear":
        return {"type": kind, "factor": keys.number("factor", least=1)}
    if kind == "longrope":
        return _read_longrope(keys, context_length)
    original = keys.integer(ORIGINAL, default=context_length)
    if kind == "llama3":
        return {
            "type": kind,
            "factor": keys.number("factor", least=1),
            "low_freq_factor": keys.number("low_freq_factor"),
            "high_freq_factor": keys.number("high_freq_factor"),
            "original_context_length": original,
        }
    factor = keys.number("factor", default=context_length / original, least=1)
    scaling = {
        "type": kind,
        "factor": factor,
        "beta_fast": keys.number("beta_fast", default=32.0),
        "beta_slow": keys.number("beta_slow", default=1.0),
        "original_context_length": original,
        "truncate": keys.flag("truncate", default=True),
    }
    scales = [keys.number(name, default=0.0, least=0) for name in ("mscale", "mscale_all_dim")]
    if keys.raw("attention_factor") is not None:
        scaling["attention_factor"] = keys.number("attention_factor")
    elif all(scales):  # DeepSeek-V2's words, arXiv:2405.04434; one of them alone says nothing, as in transformers
        whole, part = (0.1 * scale * log(factor) + 1 for scale in scales)
        scaling["attention_factor"] = whole / part
    return scaling


def _read_longrope(keys: ConfigJSON, context_length: int) -> dict[str, Any]:
    """Phi-3's files have the original context outside of the object; where both have one, transformers takes that."""
    original = keys.integer(ORIGINAL, default=context_length, least=2)
    if keys.outer is not None:
        original = keys.outer.integer(ORIGINAL, default=original, least=2)
    scaling = {
        "type": "longrope",
        "factor": keys.number("factor", default=max(1.0, context_length / original), least=1),
        "original_context_length": original,
        **{name: _divisors(keys, name) for name in ("short_factor", "long_factor")},
    }
    if keys.raw("attention_factor") is not None:
        scaling["attention_factor"] = keys.number("attention_factor", least=1e-9)
    return scaling


def _divisors(keys: ConfigJSON, name: str) -> list[float]:
    value = keys.raw(name)
    if isinstance(value, list) and value and all(type(x) in (int, float) and 0 < x < 1e300 for x in value):
        return value
    keys.problem(name, "is missing" if value is None else "must be a list of numbers above 0")
    return [1.0]


def write_rope(position: RopeConfig, fraction_key: str | None = None, theta_key: str = THETA) -> dict[str, Any]:
    """The keys of config.json: both dialects, for readers before and after transformers 5, which otherwise take a
    default in silence; they agree. ``fraction_key``, ``theta_key``: as in ``read_rope``.
    """
    if fraction_key is None and position.fraction != 1.0:
        raise CheckpointError(
            f"this family's config.json has no words for rope on a fraction of each head ({position.fraction}); one"
            f' that has them says write_rope(position, fraction_key="{INNER_FRACTION}")'
        )
    inner: dict[str, Any] = {"rope_type": "default"}
    scaling = position.scaling
    if isinstance(scaling, YarnScaling):
        inner = {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            ORIGINAL: scaling.original_context_length,
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
            ORIGINAL: scaling.original_context_length,
        }
    elif isinstance(scaling, LongRopeScaling):
        inner = {
            "rope_type": "longrope",
            "factor": scaling.factor,
            "short_factor": [*scaling.short_factor],
            "long_factor": [*scaling.long_factor],
            ORIGINAL: scaling.original_context_length,
        }
        if scaling.attention_factor is not None:
            inner["attention_factor"] = scaling.attention_factor
    elif isinstance(scaling, LinearScaling):
        inner = {"rope_type": "linear", "factor": scaling.factor}
    elif scaling is not None:
        raise CheckpointError(f"config.json has no words for {scaling.type} scaling of rope")
    legacy: dict[str, Any] = {theta_key: position.theta}
    if fraction_key is not None:
        legacy[fraction_key] = inner[INNER_FRACTION] = position.fraction
    if scaling is not None:
        legacy["rope_scaling"] = inner
    if isinstance(scaling, LongRopeScaling):  # where Phi-3's classes look first
        legacy[ORIGINAL] = scaling.original_context_length
    return {**legacy, "rope_parameters": {THETA: position.theta, **inner}}
