"""Our own side: `python -m blockzoo.bench.ours` loads a folder as `from_pretrained` does, reads and decodes.

Its request's options are those of `Opening`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve, timed
from blockzoo.uncollected import uncollected

if TYPE_CHECKING:
    from blockzoo.checkpoints.filling import Mapped
    from blockzoo.model import Decoder


@dataclass(frozen=True)
class Opening:
    """How a folder is opened. ``overrides`` change its config; ``mapped``: which weights stay in the files."""

    overrides: dict[str, Any]
    mapped: Mapped

    def model(self, request: Request) -> Decoder:
        """The model, for inference."""
        with uncollected():
            import torch

            from blockzoo.checkpoints import from_pretrained
            from blockzoo.plugins import host

        torch.set_num_threads(request.threads)
        torch.set_grad_enabled(False)
        return from_pretrained(
            request.path,
            registry=host().registry,
            dtype="stored" if request.dtype == "stored" else getattr(torch, request.dtype),
            overrides=self.overrides,
            mapped=self.mapped,
        )


class Ours:
    """An `Engine`: what `generate` does at temperature 0, without text."""

    def __init__(self, model: Decoder, capacity: int) -> None:
        from blockzoo.recording import Steps

        self.cache = model.new_cache(max_length=capacity)
        self.steps = Steps(model, self.cache)

    def read(self, tokens: list[int]) -> int:
        self.cache.reset()
        return self._next(tokens)

    def step(self, token: int) -> int:
        return self._next([token])

    def _next(self, tokens: list[int]) -> int:
        import torch

        return int(self.steps(torch.tensor([tokens])).max(-1).indices)  # argmax takes three to five times as long


def measure(request: Request) -> Reply:
    opening = Opening(**request.options)
    return timed(lambda: Ours(opening.model(request), len(request.prompt) + request.new_tokens), request)


if __name__ == "__main__":
    serve(measure)
