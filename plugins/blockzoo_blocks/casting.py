"""What autocast does to each product by itself, done once for several products of one tensor."""

from __future__ import annotations

import torch
from torch import Tensor


def cast_once(x: Tensor) -> Tensor:
    """x in autocast's dtype where it is on, else x: of several linears each would cast x, and its gradient back.

    The gradients of those linears are then added up in that dtype.
    """
    device = x.device.type
    if x.dtype != torch.float32 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))
