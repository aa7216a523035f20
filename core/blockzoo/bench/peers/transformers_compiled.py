"""transformers through ``torch.compile``, with its ``StaticCache``: what it does fastest on a CPU.

A program for each length of input; compiling them (minutes, less where PyTorch finds them in its cache) counts as
loading.
"""

from __future__ import annotations

from dataclasses import replace

from blockzoo.bench.peers import Job, Prepared, Refused
from blockzoo.bench.peers.transformers import Loop, Transformers, measured
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve


class TransformersCompiled(Transformers):
    """The `Peer`."""

    def prepare(self, job: Job) -> Prepared | Refused:
        """As for eager mode; one process does all repeats, so that it compiles once."""
        made = super().prepare(job)
        if isinstance(made, Refused):
            return made
        return replace(made, what=f"compiled, static cache, {made.what.removeprefix('eager, ')}", heavy=True)


PEER = TransformersCompiled()


# --- the side process -------------------------------------------------------------------------------------------------


class CompiledLoop(Loop):
    """An `Engine`."""

    def __init__(self, request: Request) -> None:
        import torch
        from transformers import StaticCache

        super().__init__(request)
        self.forward = torch.compile(self.model.forward, dynamic=False)
        capacity = len(request.prompt) + request.new_tokens
        self.cache = StaticCache(config=self.model.config, max_cache_len=capacity)
        self.step(self.read(request.prompt))

    def read(self, tokens: list[int]) -> int:
        self.cache.reset()
        return self._next(tokens)


def measure(request: Request) -> Reply:
    return measured(CompiledLoop, request)


if __name__ == "__main__":
    serve(measure)
