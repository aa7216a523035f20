"""The op that measures read bandwidth: a sum over a vector reads every byte once and computes next to nothing."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from blockzoo.kernels import Example, Op


def stream_sum_reference(x: Tensor) -> Tensor:
    """x (N,) -> its sum (), of x's dtype."""
    return x.sum()


def _examples(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 31, 64, 4097, 8192, 100_003):
        # positive: where values cancel, a sum in another order differs by more than its own size
        x = torch.rand(n, generator=generator).to(device, dtype)
        yield Example(f"{n} values", (x,), phases=("prefill", "decode"))


STREAM_SUM = Op("stream_sum", stream_sum_reference, _examples, {torch.float32: 1e-5, torch.bfloat16: 1e-2})
