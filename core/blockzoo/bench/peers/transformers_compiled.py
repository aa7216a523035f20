"""transformers through ``torch.compile``, with its ``StaticCache``: what it does fastest on a CPU.

A program for each length of input; compiling them (minutes, less where PyTorch finds them in its cache) counts as
loading. A model that would be compiled anew for each token fails: from the ninth program on PyTorch runs eagerly, and
the figures would be another engine's. So do windows in transformers 5.23, whose cache counts tokens in Python.
"""

from __future__ import annotations

from blockzoo.bench.peers import Job, Prepared, Refused
from blockzoo.bench.peers.transformers import measured, next_token, opened, prepared
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve


class TransformersCompiled:
    """The `Peer`."""

    packages = ("transformers",)

    def prepare(self, job: Job) -> Prepared | Refused:
        """As in eager mode."""
        return prepared(job, "compiled, static cache")


PEER = TransformersCompiled()


# --- the side process -------------------------------------------------------------------------------------------------


class CompiledLoop:
    """An `Engine`."""

    def __init__(self, request: Request) -> None:
        import torch
        from torch._dynamo import config
        from transformers import StaticCache

        config.fail_on_recompile_limit_hit = True
        model = opened(request)
        self.forward = torch.compile(model.forward, dynamic=False)
        self.cache = StaticCache(config=model.config, max_cache_len=len(request.prompt) + request.new_tokens)
        self.step(self.read(request.prompt))

    def read(self, tokens: list[int]) -> int:
        self.cache.reset()
        return self._next(tokens)

    def step(self, token: int) -> int:
        return self._next([token])

    def _next(self, tokens: list[int]) -> int:
        return next_token(self.forward, self.cache, tokens)


def measure(request: Request) -> Reply:
    return measured(CompiledLoop, request)


if __name__ == "__main__":
    serve(measure)
