"""The same model with other storage."""

from __future__ import annotations

from collections.abc import Mapping

from blockzoo.blocks import QuantizerConfig
from blockzoo.config.schema import EmbeddingConfig, HeadConfig, LayerConfig, ModelConfig

PACKABLE = ("mixer", "ffn", "embedding", "head")
"""What a quantizer can be asked for by name."""


def quantized(config: ModelConfig, quantizers: Mapping[str, QuantizerConfig | None]) -> ModelConfig:
    """The same model with other storage: ``mixer``, ``ffn``, ``embedding``, ``head``, or ``rest``: all of these that
    have no quantizer yet.
    """
    rest = quantizers.get("rest")

    def chosen(part: str, held: QuantizerConfig | None) -> QuantizerConfig | None:
        return quantizers.get(part, held or rest)

    made: dict[int, LayerConfig] = {}  # equal layers stay one object
    for layer in config.layers:
        if id(layer) not in made:
            blocks = {part: getattr(layer, part) for part in ("mixer", "ffn")}
            made[id(layer)] = layer.model_copy(
                update={
                    part: block.model_copy(update={"quantizer": chosen(part, block.quantizer)})
                    for part, block in blocks.items()
                    if block is not None
                }
            )
    sections: dict[str, EmbeddingConfig | HeadConfig] = {"embedding": config.embedding}
    if not config.embedding.tied:
        sections["head"] = config.head
    packed = {
        part: section.model_copy(update={"quantizer": chosen(part, section.quantizer)})
        for part, section in sections.items()
    }
    layers = tuple(made[id(layer)] for layer in config.layers)
    return config.model_copy(update={"layers": layers, **packed})
