"""Cross entropy that writes the gradient over the logits.

Logits are by far the largest tensor of a small model with a real vocabulary (12 x 256 x 50257 floats: 617 MB). The
usual way keeps them, their logarithms and the gradient; here one copy is all there is, worked on a few rows at a time,
so that what is in float32 for a moment stays in the processor's cache.

Axes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = {"cpu": 1 << 19}
"""Elements worked on at a time; elsewhere than on the CPU launches cost more than memory."""
LARGE_CHUNK = 1 << 26


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of logsumexp(logits) - logits[target], in nats: logits (N, V), targets (N,) -> scalar float32.

    Computed in float32 at least. Backward overwrites ``logits``: autograd raises if anybody else still needs them.
    """
    return _CrossEntropy.apply(logits, targets)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        rows = _rows(logits)
        totals = torch.cat([part.to(wide).logsumexp(-1) for part in logits.split(rows)])  # (N,)
        chosen = logits.gather(1, targets[:, None])[:, 0].to(wide)
        ctx.save_for_backward(logits, targets, totals)
        return (totals - chosen).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, totals = ctx.saved_tensors
        rows = _rows(logits)
        scale = gradient / len(logits)
        for part, target, total in zip(logits.split(rows), targets.split(rows), totals.split(rows), strict=True):
            softmax = part.sub_(total[:, None]) if part.dtype == total.dtype else part.to(total.dtype) - total[:, None]
            softmax.exp_().mul_(scale)
            softmax.scatter_add_(1, target[:, None], -scale.expand(len(target), 1))
            if softmax is not part:
                part.copy_(softmax)
        return logits, None


def _rows(logits: Tensor) -> int:
    return max(1, CHUNK.get(logits.device.type, LARGE_CHUNK) // logits.shape[-1])
