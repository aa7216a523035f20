"""Counting FLOPs as torch does, and telling the products one by one where the count isn't what ``cost`` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from blockzoo.testing.check import need


def _fused_flops(q: torch.Size, k: torch.Size, v: torch.Size, *rest: Any, out_shape: Any, **options: Any) -> int:
    return sdpa_flop_count(q, k, v)


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops}
"""Fused attention on the CPU, which torch's counter leaves out."""
SHOWN = 8


class _Products(TorchDispatchMode):
    """The shapes of every matrix product, with its FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if (flops := flop_registry.get(function.overloadpacket)) is not None:
            shapes = ", ".join(str(tuple(arg.shape)) for arg in args if isinstance(arg, Tensor))
            name = f"{function.overloadpacket.__name__} of {shapes}"
            self.found[name] += flops(*args, **(kwargs or {}), out_val=out)
        return out


@contextmanager
def need_flops(said: int, what: str) -> Iterator[None]:
    """Raises CheckFailed unless torch counts ``said`` FLOPs of matrix products inside."""
    with torch.no_grad(), _Products() as products, FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        yield
    counted = counter.get_total_flops()
    listed = "; ".join(f"{flops} in {name}" for name, flops in products.found.most_common(SHOWN))
    need(
        counted == said,
        f"{what} takes {counted} FLOPs, cost() says {said}: two for each multiply-add of a matrix product, none for"
        f" what goes element by element; counted: {listed or 'no product'}",
    )
