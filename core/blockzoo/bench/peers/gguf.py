"""A checkpoint as a GGUF file, llama.cpp's own format, with the same weights: a tensor at a time: memory is about two.

Names, layouts and keys are those of llama.cpp's ``convert_hf_to_gguf.py``. The vocabulary is made of ids: the file is
for runs of token ids. Dense matrices are written in one float dtype. Those that int8 is asked for are Q8_0, groups of
32 with float16 scales where ours are bfloat16, so they are quantized from our values once more. MXFP4 weights keep
their bits. Norms, biases, sinks and routers are float32, as llama.cpp wants them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, RopeScalingType, TokenType
from gguf.quants import quant_shape_to_byte_shape

from blockzoo.accounting import parameters_of
from blockzoo.bench.peers.gguf_architectures import Architecture, architecture_of
from blockzoo.bench.peers.gguf_blocks import floats, mxfp4, q8_0
from blockzoo.bench.peers.gguf_source import Source
from blockzoo.blocks import Parameter, QuantizerConfig, Role
from blockzoo.config.dump import dump_block
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError
from blockzoo.quantization import packed_names
from blockzoo.registry import Registry

DENSE = {"float32": Type.F32, "bfloat16": Type.BF16, "float16": Type.F16}
PACKED = {"blocks:int8": Type.Q8_0, "blocks:mxfp4": Type.MXFP4}
NAMES = {
    "embedding.tokens": "token_embd",
    "embedding.position": "position_embd",
    "head.norm": "output_norm",
    "head.unembedding": "output",
    "mixer_norm": "attn_norm",
    "mixer.q": "attn_q",
    "mixer.k": "attn_k",
    "mixer.v": "attn_v",
    "mixer.o": "attn_output",
    "mixer.q_norm": "attn_q_norm",
    "mixer.k_norm": "attn_k_norm",
    "mixer.sinks": "attn_sinks.weight",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "ffn.router": "ffn_gate_inp",
    "ffn.experts.gate": "ffn_gate_exps",
    "ffn.experts.up": "ffn_up_exps",
    "ffn.experts.down": "ffn_down_exps",
}
"""Our module, within its layer -> llama.cpp's."""


@dataclass(frozen=True)
class Output:
    """One tensor of the file: parameters of ours, one after the other along their first axis."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    kind: Type
    quantizer: QuantizerConfig | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """In bytes: (..., bytes a row)."""
        return quant_shape_to_byte_shape(self.shape, self.kind)

    def followed_by(self, other: Output) -> Output:
        shape = (self.shape[0] + other.shape[0], *self.shape[1:])
        return replace(self, sources=(*self.sources, *other.sources), shape=shape)


def write_gguf(source: Source, path: Path, config: ModelConfig, dtype: str, registry: Registry) -> Mapping[str, int]:
    """Write the weights of ``source`` with the quantizers that ``config`` has. Returns bytes by kind of storage.

    Raises InputError where llama.cpp can't compute the model or has no storage like a quantizer's.
    """
    architecture = architecture_of(config, registry)
    outputs = outputs_of(architecture, config, dtype, registry)
    writer = GGUFWriter(path, architecture.name)
    _add_metadata(writer, architecture, config, registry)
    for output in outputs:
        stored = output.stored_shape
        writer.add_tensor_info(output.name, stored, np.dtype(np.uint8), prod(stored), output.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    found: dict[str, int] = {}
    try:
        for output in outputs:
            data = _encoded(output, source)
            writer.write_tensor_data(data)
            found[output.kind.name] = found.get(output.kind.name, 0) + data.nbytes
    finally:
        writer.close()
    return found


def planned_bytes(config: ModelConfig, dtype: str, registry: Registry) -> int:
    """Of the tensors that ``write_gguf`` would write. Raises InputError where it would."""
    outputs = outputs_of(architecture_of(config, registry), config, dtype, registry)
    return sum(prod(output.stored_shape) for output in outputs)


def outputs_of(architecture: Architecture, config: ModelConfig, dtype: str, registry: Registry) -> list[Output]:
    """Every tensor of the file, in the order of our parameters. Raises InputError for a quantizer that GGUF has not."""
    parameters = parameters_of(config)
    packed = packed_names(config, parameters)
    found: dict[str, Output] = {}
    for name, parameter in parameters.items():
        called = _called(architecture, name)
        quantizer = packed.get(name)
        if quantizer is not None:
            kind = _kind_of(quantizer, name, parameter, registry)
        else:
            kind = Type.F32 if _small(name, parameter) else DENSE[dtype]
        one = Output(called, (name,), parameter.shape, kind, quantizer)
        found[called] = found[called].followed_by(one) if called in found else one
    return list(found.values())


def _small(name: str, parameter: Parameter) -> bool:
    return len(parameter.shape) < 2 or name.endswith(".bias") or parameter.role is Role.ROUTER


def _kind_of(quantizer: QuantizerConfig, name: str, parameter: Parameter, registry: Registry) -> Type:
    kind = registry.name_of(type(quantizer), quantizer.kind)
    if kind not in PACKED:
        known = ", ".join(sorted(each.removeprefix("blocks:") for each in PACKED))
        raise InputError(f"{name}: GGUF is written for the quantizers {known}; llama.cpp has no storage like {kind}'s")
    if parameter.shape[-1] % 32:
        raise InputError(f"{name}: llama.cpp packs groups of 32 inputs, found {parameter.shape[-1]}")
    return PACKED[kind]


def _called(architecture: Architecture, name: str) -> str:
    """``layers.3.mixer.q.weight`` -> ``blk.3.attn_q.weight``."""
    layer = ""
    if name.startswith("layers."):
        _, number, name = name.split(".", 2)
        layer = f"blk.{number}."
    if name in NAMES:
        return layer + NAMES[name]
    module, _, part = name.rpartition(".")
    if architecture.fused_qkv and module in ("mixer.q", "mixer.k", "mixer.v"):
        return f"{layer}attn_qkv.{part}"
    return f"{layer}{architecture.names.get(module, NAMES[module])}.{part}"


def _encoded(output: Output, source: Source) -> np.ndarray:
    """The tensor's bytes, (..., bytes a row)."""
    whole = np.empty(output.stored_shape, np.uint8)
    data, filled = whole.reshape(-1), 0
    for piece in chain.from_iterable(_pieces(name, output, source) for name in output.sources):
        data[filled : filled + piece.size] = piece.reshape(-1)
        filled += piece.size
    assert filled == data.size, f"{output.name}: {filled} of {data.size} bytes"
    return whole


def _pieces(name: str, output: Output, source: Source) -> Iterator[np.ndarray]:
    """The bytes of one of our parameters, some rows at a time."""
    if output.kind is Type.MXFP4 and output.quantizer is not None:
        yield from (mxfp4(**parts) for parts in source.packed(name, output.quantizer))
    elif output.kind is Type.Q8_0:
        yield from map(q8_0, source.rows(name))
    else:
        yield from (floats(rows, output.kind) for rows in source.rows(name))


def _add_metadata(writer: GGUFWriter, architecture: Architecture, config: ModelConfig, registry: Registry) -> None:
    """The sizes that the architecture leaves open, under llama.cpp's keys."""
    layer = config.explicit().layers[0]
    mixer, ffn, norm, position = (dump_block(getattr(layer, s), registry) for s in ("mixer", "ffn", "norm", "position"))
    writer.add_name(config.name)
    _add_vocabulary(writer, config.vocab_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_head_count(mixer["n_heads"])
    writer.add_head_count_kv(mixer["n_kv_heads"])
    writer.add_key_length(mixer["head_dim"])
    writer.add_value_length(mixer["head_dim"])
    if norm["type"] == "blocks:layer_norm":
        writer.add_layer_norm_eps(norm["eps"])
    else:
        writer.add_layer_norm_rms_eps(norm["eps"])
    if "experts" in ffn or "expert" in ffn:
        writer.add_expert_count(ffn["n_experts"])
        writer.add_expert_used_count(ffn["top_k"])
        writer.add_expert_feed_forward_length(ffn["expert"]["d_ff"])
        writer.add_feed_forward_length(ffn["expert"]["d_ff"])
    else:
        writer.add_feed_forward_length(ffn["d_ff"])
    if "window" in mixer:
        writer.add_sliding_window(mixer["window"])
    if "theta" in position:
        writer.add_rope_freq_base(position["theta"])
        writer.add_rope_dimension_count(mixer["head_dim"])
    if "scaling" in position:
        scaling = position["scaling"]
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_context_length"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])


def _add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Names for the tokens, of no meaning: llama.cpp's server starts with no vocabulary less."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{token}" for token in range(size)])
    writer.add_token_types([TokenType.NORMAL] * size)
    writer.add_token_merges(["t 0"])
    writer.add_add_bos_token(False)
