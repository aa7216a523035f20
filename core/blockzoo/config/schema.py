"""A model, completely said: what ``load_config`` returns and everything downstream reads.

Nothing here inherits or defaults from anything else any more: each layer names all of its blocks.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from blockzoo.blocks import (
    AdditivePositionConfig,
    AttentionPositionConfig,
    Dims,
    FFNConfig,
    MixerConfig,
    NormConfig,
    QuantizerConfig,
    ResidualConfig,
)


class Section(BaseModel):
    """A part of a config that is no block."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, revalidate_instances="never")


class EmbeddingConfig(Section):
    """YAML: ``embedding: {tied: true, position: {type: learned}}``."""

    tied: bool = Field(False, description="the unembedding is the same matrix")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the embedded tokens, in training")
    scale: PositiveFloat | Literal["sqrt_d_model"] = Field(
        1.0, description="factor on the looked-up vectors; sqrt_d_model (Gemma) is rounded to the activation dtype"
    )
    position: AdditivePositionConfig | None = Field(
        None, description="an additive position encoding: learned, sinusoidal"
    )
    norm: NormConfig | None = Field(None, description="a norm on the embedded tokens (BLOOM)")
    quantizer: QuantizerConfig | None = Field(None, description="how the table is stored; rows are unpacked on look-up")


class HeadConfig(Section):
    """YAML: ``head: {logit_softcap: 30.0}``. The final norm, the unembedding and what is done to logits."""

    norm: NormConfig | None = Field(None, description="the final norm; default: the model's norm; none leaves it out")
    bias: bool = Field(False, description="a bias on the logits")
    logit_scale: PositiveFloat = Field(1.0, description="factor on the logits (CompleteP: 1 / width multiple)")
    logit_softcap: PositiveFloat | None = Field(None, description="c: logits become c * tanh(logits / c) (Gemma 2)")
    quantizer: QuantizerConfig | None = Field(None, description="how an untied unembedding is stored")


class InitConfig(Section):
    """YAML: ``init: {std: 0.02}``. How weights are drawn; gains start at 1, biases and sinks at 0."""

    std: PositiveFloat = Field(0.02, description="standard deviation of matrices")
    embedding_std: PositiveFloat | None = Field(
        None, description="of token and learned position embeddings; default: std"
    )
    hidden_std: PositiveFloat | None = Field(
        None, description="of the matrices inside layers, routers among them; default: std"
    )
    residual_output: Literal["plain", "depth_scaled"] = Field(
        "plain",
        description="depth_scaled divides std by sqrt(2 * layers) for matrices that write to the residual (GPT-2)",
    )
    residual_output_std: PositiveFloat | None = Field(
        None, description="of matrices that write to the residual, whatever residual_output says; default: hidden_std"
    )


class LayerConfig(Section):
    """One layer, complete. A quantizer stands in the mixer and ffn that it applies to."""

    mixer: MixerConfig | None
    ffn: FFNConfig | None
    norm: NormConfig
    position: AttentionPositionConfig
    residual: ResidualConfig


class ModelConfig(Section):
    """A model, complete: one entry of ``layers`` for each layer."""

    name: str = Field("model", min_length=1, description="what reports and run folders call it")
    family: str | None = Field(
        None, description="checkpoint layouts, tokenizer and chat; a new architecture needs none"
    )
    tokenizer: str | None = Field(
        None,
        description="bytes, a tiktoken encoding, or a folder; default: the family's, or bytes where there is no family",
    )
    requires: tuple[str, ...] = Field((), description="plugins that must be loaded; a config never enables one")
    vocab_size: PositiveInt = Field(description="rows of the embedding table", le=2**26)
    context_length: PositiveInt = Field(description="greatest number of positions", le=2**26)
    d_model: PositiveInt = Field(description="width of the residual stream", le=2**20)
    embedding: EmbeddingConfig = EmbeddingConfig()
    head: HeadConfig = HeadConfig()
    init: InitConfig = InitConfig()
    layers: tuple[LayerConfig, ...]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def dims(self) -> Dims:
        return Dims(d_model=self.d_model, n_layers=len(self.layers), context_length=self.context_length)

    def explicit(self) -> Self:
        """The same model with every default that follows from other values written out: equal if it computes the same,
        as far as its blocks can say.
        """
        said: dict[int, LayerConfig] = {}  # equal layers stay one object
        for layer in self.layers:
            if id(layer) not in said:
                blocks = {slot: getattr(layer, slot) for slot in LayerConfig.model_fields}
                said[id(layer)] = layer.model_copy(
                    update={slot: block.explicit(self.dims) for slot, block in blocks.items() if block is not None}
                )
        return self.model_copy(update={"layers": tuple(said[id(layer)] for layer in self.layers)})
