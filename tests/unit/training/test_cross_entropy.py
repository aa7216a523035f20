"""The cross entropy that writes its gradient over the logits, against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from blockzoo.training import cross_entropy as module
from blockzoo.training.cross_entropy import cross_entropy


@pytest.mark.parametrize("chunk", [1, 40, 10**6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_value_and_gradient(monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype) -> None:
    monkeypatch.setattr(module, "CHUNK", {"cpu": chunk})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 7, generator=generator, dtype=dtype)
    weight = torch.randn(13, 7, generator=generator, dtype=dtype)
    targets = torch.randint(13, (10,), generator=generator)

    def gradient(loss_of: object) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = weight.clone().requires_grad_()
        loss = loss_of(F.linear(hidden, leaf), targets)  # type: ignore[operator]
        (3 * loss).backward()
        assert leaf.grad is not None
        return loss.detach(), leaf.grad

    ours = gradient(cross_entropy)
    reference = gradient(lambda logits, t: F.cross_entropy(logits.to(torch.promote_types(dtype, torch.float32)), t))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def test_who_else_needs_the_logits_is_told() -> None:
    hidden = torch.randn(4, 5, requires_grad=True)
    logits = hidden.exp()  # exp keeps its output for backward
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
