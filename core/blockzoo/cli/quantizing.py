"""``--quantize PART=QUANTIZER``: how a model's weights are to be stored, as ``plan`` and ``convert`` take it."""

from __future__ import annotations

from collections.abc import Sequence

from blockzoo.blocks import QuantizerConfig
from blockzoo.cli.reading import read_model
from blockzoo.errors import InputError, nearest
from blockzoo.memory_plan import PACKABLE
from blockzoo.registry import Registry

HELP = f"store {', '.join(PACKABLE)}, or rest (what has no quantizer) otherwise: rest=int8"


def quantizers_of(
    model: str, texts: Sequence[str], registry: Registry, settings: Sequence[str]
) -> dict[str, QuantizerConfig | None]:
    """By part, its quantizer: what ``memory_plan.quantized`` takes. Raises InputError, ConfigError."""
    return dict(_quantizer(model, text, registry, settings) for text in texts)


def _quantizer(
    model: str, text: str, registry: Registry, settings: Sequence[str]
) -> tuple[str, QuantizerConfig | None]:
    """``rest=int8`` -> its part and block; read as the model's own YAML would be, so options are a mapping."""
    part, equals, value = text.partition("=")
    known = (*PACKABLE, "rest")
    if not equals or part not in known:
        raise InputError(f"--quantize {text}: expected PART=QUANTIZER{nearest(part, known)}")
    return part, read_model(model, registry, [*settings, f"embedding.quantizer={value}"]).embedding.quantizer
