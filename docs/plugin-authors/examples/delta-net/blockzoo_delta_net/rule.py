"""The gated delta rule: Yang et al. 2024, arXiv:2412.06464; without the gate Schlag et al. 2021, arXiv:2102.11174.

A memory maps keys to values. Each token first lets it fade, then corrects what it answers for the token's key:

    memory_t = a_t memory_(t-1) + k_t^T b_t (v_t - k_t a_t memory_(t-1)),   y_t = q_t memory_t

Two forms that compute the same: token by token, and chunk by chunk, where the corrections of a chunk solve one
triangular system. a_t = 1 and b_t = 0 leave the memory as it is.

Axes: B batch, H heads, T tokens, C tokens of a chunk, Dk and Dv widths of keys and values. All tensors of one dtype:
q and k (B, H, T, Dk), v (B, H, T, Dv), log_decay (ln a, at most 0) and beta (B, H, T), memory (B, H, Dk, Dv).
Both return y (B, H, T, Dv) and the memory after the last token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """Token by token: the definition, and the cheapest for one token."""
    outputs = []
    for t in range(q.shape[2]):
        q_t, k_t, v_t = q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1]
        memory = memory * log_decay[:, :, t, None, None].exp()
        correction = beta[:, :, t, None, None] * (v_t - k_t @ memory)  # (B, H, 1, Dv)
        memory = memory + k_t.mT @ correction
        outputs.append(q_t @ memory)
    return torch.cat(outputs, dim=2), memory


def chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, memory: Tensor, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """``chunk`` tokens at a time: the same by matrix products, T / C steps instead of T."""
    outputs = []
    parts = [tensor.split(chunk, dim=2) for tensor in (q, k, v, log_decay, beta)]
    for q_c, k_c, v_c, log_decay_c, beta_c in zip(*parts, strict=True):
        faded = log_decay_c.cumsum(dim=-1)  # (B, H, C): since the chunk's beginning, this token included
        # what is left at token i of what token j wrote; the upper half is zeroed before exp, where it might overflow
        left = (faded[..., :, None] - faded[..., None, :]).tril().exp().tril()  # (B, H, C, C)
        since_start = faded.exp()[..., None]
        k_beta = k_c * beta_c[..., None]
        others = (k_beta @ k_c.mT) * left  # below the diagonal: how far a correction depends on the earlier ones
        wanted = v_c * beta_c[..., None] - (k_beta * since_start) @ memory
        correction = torch.linalg.solve_triangular(others, wanted, upper=False, unitriangular=True)  # (B, H, C, Dv)
        outputs.append((q_c * since_start) @ memory + ((q_c @ k_c.mT) * left) @ correction)
        until_end = (faded[..., -1:] - faded).exp()[..., None]
        memory = memory * since_start[..., -1:, :] + (k_c * until_end).mT @ correction
    return torch.cat(outputs, dim=2), memory
