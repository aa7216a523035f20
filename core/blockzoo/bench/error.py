"""What speed costs in exactness: `python -m blockzoo.bench.error` compares a configuration with the exact model.

The exact one computes the stored weights in float32 by every op's reference. Both read the same prompt and then the
same tokens, whatever they would have chosen: the exact one all at once, the other one token at a time, as in decoding.
One is loaded after the other.

Axes: T tokens, V vocabulary.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blockzoo.bench.ours import Opening
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve
from blockzoo.kernels import REFERENCE, Slot
from blockzoo.model import Decoder

TOKENS = 32
"""Tokens that are compared, at most."""


def divergence(exact: Tensor, found: Tensor) -> dict[str, float]:
    """Logits (T, V) against exact ones: ``relative``, the greatest error over the greatest exact logit; ``kl``, the
    mean Kullback-Leibler divergence in nats a token; ``top1``, the share of tokens with the same likeliest next one.
    """
    exact, found = exact.double(), found.double()
    logs, other = exact.log_softmax(-1), found.log_softmax(-1)
    return {
        "relative": float((found - exact).abs().max() / exact.abs().max()),
        "kl": float((logs.exp() * (logs - other)).sum(-1).mean()),
        "top1": float((exact.argmax(-1) == found.argmax(-1)).double().mean()),
        "tokens": len(exact),
    }


def logits_of(model: Decoder, prompt: list[int], forced: list[int], *, at_once: bool) -> Tensor:
    """(T, V) float32: what follows each forced token."""
    cache = model.new_cache(max_length=len(prompt) + len(forced))
    model(torch.tensor([prompt]), cache=cache, last_only=True)
    parts = [forced] if at_once else [[token] for token in forced]
    return torch.cat([model(torch.tensor([part]), cache=cache)[0].float() for part in parts])


def exact_kernels(model: Decoder) -> Mapping[str, str]:
    """The reference for every op that the model has."""
    return {module.op.name: REFERENCE for module in model.modules() if isinstance(module, Slot)}


def measure(request: Request) -> Reply:
    """``options``: those of `Opening`, and ``forced``, the tokens."""
    options: dict[str, Any] = dict(request.options)
    forced = options.pop("forced")
    exact = Opening({}, False).model(Request(**{**request.__dict__, "dtype": "float32"}))
    exact.bind(exact_kernels(exact))
    wanted = logits_of(exact, request.prompt, forced, at_once=True)
    del exact
    gc.collect()
    found = logits_of(Opening(**options).model(request), request.prompt, forced, at_once=False)
    return Reply(extra=divergence(wanted, found))


if __name__ == "__main__":
    serve(measure)
