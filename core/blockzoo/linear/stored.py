"""A matrix as bytes: packed by a quantizer, or in the layout that a kernel wants. State dicts speak canonical names.

Axes: N rows, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from blockzoo.blocks import QuantizerConfig
from blockzoo.kernels import Layout, Slot, WeightSlot
from blockzoo.linear.ops import CHOSEN_LINEAR, EXPERT_LINEAR, LINEAR, phase_of
from blockzoo.linear.plain import of_experts


class StoredLinear(nn.Module):
    """A linear (or expert linear) whose weight is packed, or lies in a kernel's layout. It does not train.

    The state dict names are canonical: ``weight`` for a plain one, ``weight.<tensor>`` for each packed tensor.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: nn.Parameter | None,
        quantizer: QuantizerConfig | None,
        weight: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.quantizer = quantizer
        self.bias = bias
        self.slot = WeightSlot(
            LINEAR if len(shape) == 2 else EXPERT_LINEAR,
            quantizer=quantizer,
            shape=shape,
        )
        self.few = Slot(CHOSEN_LINEAR, quantizer=quantizer, shape=shape) if len(shape) == 3 else None
        self.layout: Layout | None = None
        self.weight_names: tuple[str, ...] = ()
        if quantizer is None:
            assert weight is not None
            self._hold({"weight": weight})
        else:
            empty = quantizer.tensors(shape)
            self._hold({name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in empty.items()})

    def forward(self, x: Tensor, *which: Sequence[int] | Tensor) -> Tensor:
        if which:
            few = self.few if self.layout is None else None
            return of_experts(self.slot, few, self._held(), x, self.bias, which[0], self.quantizer)
        kernel = self.slot[phase_of(x.numel() // x.shape[-1])]
        return kernel(self._held(), x, self.bias, quantizer=self.quantizer)

    def canonical(self) -> dict[str, Tensor]:
        """The weight's tensors in canonical layout."""
        held = self._held()
        return held if self.layout is None else self.layout.unpack(held)

    def set_canonical(self, tensors: Mapping[str, Tensor]) -> None:
        """Store a weight given in canonical layout."""
        self._hold(tensors if self.layout is None else self.layout.prepack(tensors))

    def set_layout(self, layout: Layout | None) -> None:
        """Rearrange the one copy of the weight."""
        if layout is self.layout:
            return
        canonical = self.canonical()
        self.layout = layout
        self.set_canonical(canonical)

    def _held(self) -> dict[str, Tensor]:
        return {name: self._buffers[f"_{name}"] for name in self.weight_names}  # type: ignore[misc]

    def _hold(self, tensors: Mapping[str, Tensor]) -> None:
        for name in self.weight_names:
            del self._buffers[f"_{name}"]
        self.weight_names = tuple(tensors)
        for name, tensor in tensors.items():
            self.register_buffer(f"_{name}", tensor.detach(), persistent=False)

    def _key(self, prefix: str, name: str) -> str:
        return f"{prefix}weight" if self.quantizer is None else f"{prefix}weight.{name}"

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self.canonical().items():
            destination[self._key(prefix, name)] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        like = self.canonical()
        keys = {name: self._key(prefix, name) for name in like}
        found = {name: state_dict[key] for name, key in keys.items() if key in state_dict}
        missing_keys.extend(key for name, key in keys.items() if name not in found)
        if len(found) == len(like):
            wrong = [n for n in like if found[n].shape != like[n].shape]
            error_msgs.extend(
                f"{keys[n]}: shape {tuple(found[n].shape)}, expected {tuple(like[n].shape)}" for n in wrong
            )
            if not wrong:
                self.set_canonical({n: found[n].to(t.device, t.dtype, copy=True) for n, t in like.items()})
        rest = {k: v for k, v in state_dict.items() if k not in keys.values()}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        dtypes = {name: tensor.dtype for name, tensor in self._held().items()}
        super()._apply(fn, recurse)
        if self.quantizer is not None:  # a cast of the model must not touch packed bytes
            for name, dtype in dtypes.items():
                self._buffers[f"_{name}"] = self._held()[name].to(dtype)
        return self

    def extra_repr(self) -> str:
        return f"{self.shape}, quantizer={self.quantizer}, layout={self.layout.name if self.layout else 'canonical'}"
