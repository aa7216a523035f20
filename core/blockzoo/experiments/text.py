"""Text that is at hand without a download, to train on for a moment."""

from __future__ import annotations

import torch
from torch import Tensor


def text() -> Tensor:
    """Bytes of Python's documentation of its own language, which every installation has: (N,) int64."""
    from pydoc_data.topics import topics

    return torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()
