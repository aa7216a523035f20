"""Where loaded tensors go: straight into the model, or through a quantizer where it stores them otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from blockzoo.accounting import parameters_of
from blockzoo.blocks import QuantizerConfig
from blockzoo.building import check_room
from blockzoo.checkpoints.keymap import Target, Want
from blockzoo.checkpoints.safetensors_io import StoredTensor
from blockzoo.checkpoints.values import check_unpacked, check_values
from blockzoo.errors import CheckpointError
from blockzoo.model import Decoder
from blockzoo.quantization import packed_names
from blockzoo.storage import room

WEIGHTS_AT_ONCE = 4 * 2**20
COLUMNS_AT_ONCE = 128


class Places:
    """The live storage of an unbound model, by canonical name.

    Floats that are held packed are packed as they come, since rows are packed independently. A weight that is stored
    packed and held as a trainable master is gathered apart and unpacked when it is whole: one such weight at a time
    beside the model, where a file keeps its parts together.
    """

    def __init__(self, model: Decoder, stored: Mapping[str, Want], keep_dtypes: bool) -> None:
        self._model = model
        self._live = model.state_dict()
        self._stored = stored
        self._keep_dtypes = keep_dtypes
        self._quantizers = packed_names(model.config, parameters_of(model.config))
        self._gathered: dict[str, dict[str, Tensor]] = {}
        self._missing: dict[str, int] = {}

    def check_memory(self, mapped: int) -> None:
        """Raise InputError where the live storage, less the bytes that are mapped, finds no room in memory."""
        check_room(self._model, mapped)

    def put(self, target: Target, values: Tensor, row: int = 0) -> None:
        """Copy values into a canonical tensor (or its row), from ``row`` of that on."""
        name = target.name
        if name in self._quantizers and name not in self._live:
            self._pack(target, values, row)
            return
        if name in self._live:
            if self._keep_dtypes and self._live[name].dtype != values.dtype:
                self._set(name, room(self._live[name].shape, values.dtype, self._model.device))
            place = self._live[name]
        else:
            place = self._gather(name, values.dtype)
        place = target.of(place)
        _copy(place if values.dim() == 0 else place[row : row + len(values)], values)
        if name not in self._live:
            self._count(name, values.numel())

    def like(self, target: Target, dtype: torch.dtype) -> Tensor | None:
        """The storage that stored bytes of this dtype can be read into as they are, or None."""
        name = target.name
        if name not in self._live:
            return None
        if self._keep_dtypes and self._live[name].dtype != dtype:
            self._set(name, room(self._live[name].shape, dtype, self._model.device))
        place = target.of(self._live[name])
        fits = place.dtype == dtype and place.device.type == "cpu" and place.is_contiguous()
        return place if fits else None

    def holds(self, target: Target, dtype: torch.dtype) -> bool:
        """Whether the model could hold a stored tensor of this dtype itself."""
        place = self._live.get(target.name)
        return target.row is None and place is not None and (self._keep_dtypes or place.dtype == dtype)

    def hold(self, target: Target, values: Tensor) -> None:
        """Make the model hold these very values."""
        self._set(target.name, values)

    def check(self, target: Target, values: Tensor, stored: StoredTensor) -> None:
        """Raise CheckpointError where values of a stored tensor are no weights, or none in the dtype of their place."""
        weight, _, part = target.name.rpartition(".")
        quantizer = self._quantizers.get(weight) if target.name in self._stored else None
        narrows = target.name in self._live and not self._keep_dtypes
        check_values(values, stored, quantizer, part, self._live[target.name].dtype if narrows else values.dtype)

    def finish(self) -> None:
        assert not self._gathered, sorted(self._gathered)

    def _set(self, name: str, tensor: Tensor) -> None:
        """Give a parameter or buffer other storage."""
        owner, _, leaf = name.rpartition(".")
        if owner in self._quantizers:  # a packed tensor is live itself, a parameter's is detached
            self._live[name].data = tensor
            return
        getattr(self._model.get_submodule(owner), leaf).data = tensor
        self._live[name] = tensor

    def _weight_of(self, name: str) -> tuple[str, QuantizerConfig]:
        weight = name if name in self._quantizers else name.rpartition(".")[0]
        if weight not in self._quantizers:
            raise CheckpointError(f"'{name}' is stored packed, but the config as overridden has no quantizer for it")
        return weight, self._quantizers[weight]

    def _gather(self, name: str, dtype: torch.dtype) -> Tensor:
        weight, _ = self._weight_of(name)
        if weight not in self._gathered:
            parts = [n for n in self._stored if n == weight or n.rpartition(".")[0] == weight]
            self._gathered[weight] = {
                n: torch.empty(self._stored[n].shape, dtype=self._stored[n].dtype or dtype) for n in parts
            }
            self._missing[weight] = sum(tensor.numel() for tensor in self._gathered[weight].values())
        return self._gathered[weight][name]

    def _count(self, name: str, values: int) -> None:
        weight, quantizer = self._weight_of(name)
        self._missing[weight] -= values
        if not self._missing[weight]:
            packed = {n.rpartition(".")[2]: tensor for n, tensor in self._gathered.pop(weight).items()}
            master = self._live[weight]
            master.copy_(quantizer.unpack(packed, master.dtype))
            check_unpacked(master, f"'{weight}'")

    def _pack(self, target: Target, values: Tensor, row: int) -> None:
        """Pack rows of a weight into their places, a few million at a time: packing takes several times their bytes."""
        quantizer = self._quantizers[target.name]
        for rows in values.split(max(1, WEIGHTS_AT_ONCE * len(values) // values.numel())):
            for part, tensor in quantizer.pack(rows.contiguous()).items():
                target.of(self._live[f"{target.name}.{part}"])[row : row + len(rows)].copy_(tensor)
            row += len(rows)


def _copy(place: Tensor, values: Tensor) -> None:
    """``place.copy_(values)``. Of a transposed matrix some columns at a time: a cache line of it is several rows' next
    numbers, and all columns at once would be more lines than the cache has.
    """
    if values.dim() != 2 or values.stride(0) != 1:
        place.copy_(values)
        return
    for there, here in zip(place.split(COLUMNS_AT_ONCE, dim=1), values.split(COLUMNS_AT_ONCE, dim=1), strict=True):
        there.copy_(here)
