"""The tensors of a model under their canonical names: what they will be, and as they are, one at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from blockzoo.accounting import account, parameters_of
from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.keymap import Want
from blockzoo.config.schema import ModelConfig
from blockzoo.model import Decoder
from blockzoo.quantization import packed_names


def wanted(config: ModelConfig) -> dict[str, Want]:
    """Every tensor that a checkpoint of this model holds, without building it: quantized weights packed.

    Raises ConfigError for a weight whose shape its quantizer refuses.
    """
    cost = account(config, context=1).cost
    packed = packed_names(config, cost.parameters)
    blocks = _blocks(config)
    found: dict[str, Want] = {}
    for name, parameter in {**cost.parameters, **cost.buffers}.items():
        block = blocks.get(".".join(name.split(".")[:3]))
        if name in packed:
            parts = packed[name].tensors(parameter.shape)
            found.update({f"{name}.{part}": Want(t.shape, t.dtype, block) for part, t in parts.items()})
        else:
            found[name] = Want(parameter.shape, None, block)
    return found


def _blocks(config: ModelConfig) -> dict[str, BlockConfig]:
    """The mixers and ffns by what their tensors' names begin with."""
    return {
        f"layers.{number}.{slot}": block
        for number, layer in enumerate(config.explicit().layers)
        for slot, block in (("mixer", layer.mixer), ("ffn", layer.ffn))
        if block is not None
    }


class Tensors:
    """A model's tensors by canonical name, in canonical layout; weights that train through a quantizer are packed.

    It asks one module at a time for its state and keeps that of the last one only: where a kernel has weights in
    a layout of its own, a whole state dict would be a second copy of the model.
    """

    def __init__(self, model: Decoder) -> None:
        self._modules = dict(model.named_modules())
        self._masters = packed_names(model.config, parameters_of(model.config)) if model.trainable else {}
        self._owner = ""
        self._state: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        owner = next(prefix for prefix in _prefixes(name) if prefix in self._modules)
        if owner != self._owner or not self._state:
            self._owner, self._state = owner, self._read(owner)
        return self._state[name]

    @torch.no_grad()
    def _read(self, owner: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in self._modules[owner].state_dict(prefix=f"{owner}." if owner else "").items():
            if name in self._masters:
                packed = self._masters[name].pack(tensor)
                found.update({f"{name}.{part}": value for part, value in packed.items()})
            else:
                found[name] = tensor
        return found


def _prefixes(name: str) -> Iterable[str]:
    """The modules that may own a tensor, innermost first."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1))
