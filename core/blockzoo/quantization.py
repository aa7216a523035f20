"""Which weights of a built model are stored packed: one pass after construction, by the roles that configs declare.

Only matrices of mixers and ffns are packed, embedding and unembedding where asked; never a router, norm, sink or bias.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from blockzoo.accounting import quantizer_of
from blockzoo.blocks import Parameter, QuantizerConfig
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import ConfigError, Problem
from blockzoo.linear import AnyLinear, FakeQuantLinear, StoredLinear, replace_linears


def packed_names(config: ModelConfig, parameters: Mapping[str, Parameter]) -> dict[str, QuantizerConfig]:
    """Which parameters are packed, and by what.

    Raises ConfigError for every weight whose shape its quantizer refuses.
    """
    found: dict[str, QuantizerConfig] = {}
    problems: dict[str, Problem] = {}
    for name, parameter in parameters.items():
        quantizer = quantizer_of(config, name, parameter)
        if quantizer is None:
            continue
        refusal = quantizer.refuses(parameter.shape)
        if refusal:
            problems.setdefault(refusal, Problem(name, refusal))
        found[name] = quantizer
    if problems:
        raise ConfigError(list(problems.values()))
    return found


def quantize(model: nn.Module, packed: Mapping[str, QuantizerConfig], *, trainable: bool) -> None:
    """Replace the modules of these parameters: packed bytes only, or masters that train through the quantizer."""

    def replacement(name: str, linear: AnyLinear) -> nn.Module | None:
        quantizer = packed.get(f"{name}.weight")
        if quantizer is None:
            return None
        if trainable:
            return FakeQuantLinear(linear, quantizer)
        return StoredLinear(tuple(linear.weight.shape), linear.bias, quantizer, device=linear.weight.device)

    replace_linears(model, replacement)
