"""The op ``attention``, one query head after another: the scores of one head are all that is in memory at a time."""

import torch

from blockzoo.kernels import YES, Kernel, no


def supports(capabilities, call):
    if call.static.get("dropout"):
        return no("per_head has no dropout")
    return YES


def attend(q, k, v, positions, keys, *, scale, window=None, sinks=None, softcap=None, bias=None, dropout=0.0):
    assert dropout == 0.0
    distance = positions[:, :, None] - keys.positions[:, None, :]  # (B, T, S)
    hidden = (distance < 0) | (keys.positions < 0)[:, None, :]
    if window is not None:
        hidden = hidden | (distance >= window)
    heads = []
    for head in range(q.shape[1]):
        kv_head = head * k.shape[1] // q.shape[1]
        scores = (q[:, head] @ k[:, kv_head].transpose(-1, -2)).float() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias[:, head]
        scores = scores.masked_fill(hidden, -1e30)
        sink = -1e29 if sinks is None else sinks[head].float()  # where a query sees nothing, all weight goes there
        scores = torch.cat([scores, torch.zeros_like(scores[..., :1]) + sink], dim=-1)
        heads.append(scores.softmax(-1)[..., :-1].to(q.dtype) @ v[:, kv_head])
    return torch.stack(heads, dim=1)


PER_HEAD = Kernel("per_head", attend, supports, backward=True, compile_safe=True, priority=5)
