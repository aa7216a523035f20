"""transformers: ``AutoModelForCausalLM`` in eager mode with its ``DynamicCache``.

A loop of our own takes the place of ``generate``, which spends milliseconds a token on checks that aren't compared.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from blockzoo.bench.peers import Job, Prepared, Refused
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import Engine, serve, timed

RUNTIME = 700 * 10**6
"""What Python with torch and transformers takes beside the weights."""


class Transformers:
    """The `Peer`."""

    packages = ("transformers",)

    def prepare(self, job: Job) -> Prepared | Refused:
        return prepared(job, "eager")


PEER = Transformers()


def prepared(job: Job, how: str) -> Prepared | Refused:
    """A folder in Hugging Face's layout, converted where it isn't; refused where floats don't fit.

    ``how``: the engine, for the reader.
    """
    import torch

    from blockzoo.bench.traffic import decoding
    from blockzoo.checkpoints.load import recognize
    from blockzoo.memory_plan import PACKABLE, quantized, stored_bytes
    from blockzoo.plugins import host

    source = recognize(job.folder, registry=host().registry)
    dtype = getattr(torch, job.dtype)
    plain = quantized(source.config, dict.fromkeys(PACKABLE))
    needed = RUNTIME + sum(nbytes for _, nbytes in stored_bytes(plain, dtype).values())
    if needed > job.memory:
        return Refused(
            f"transformers holds all weights as {job.dtype} on a CPU: {needed / 1e9:.1f} GB,"
            f" and {job.memory / 1e9:.1f} GB are free"
        )
    folder, converted = job.folder, ""
    if source.layout != "hf":
        folder, converted = job.scratch / "hf", f", converted from layout {source.layout}"
        if (refusal := _convert(job.folder, folder)) is not None:
            return Refused(refusal)
    weights = sum(decoding(plain, dtype, 1, 1).weights.values())
    kept = ", quantization left out" if job.quantize else ""
    return Prepared(folder, f"{how}, {job.dtype}{converted}{kept}", weight_bytes_per_token=weights)


def _convert(source: Path, target: Path) -> str | None:
    """Why there is no such folder, or None. In a process of its own: its memory is given back."""
    command = [sys.executable, "-P", "-m", "blockzoo", "convert", str(source), str(target), "--to", "hf"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"can't be converted to layout hf: {done.stderr.strip()[-300:]}"


# --- the side process -------------------------------------------------------------------------------------------------


def opened(request: Request) -> Any:
    """The model, for inference."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request.threads)
    torch.set_grad_enabled(False)
    return AutoModelForCausalLM.from_pretrained(request.path, dtype=getattr(torch, request.dtype)).eval()


class Loop:
    """An `Engine`."""

    def __init__(self, request: Request) -> None:
        self.model = opened(request)
        self.cache: Any = None

    def read(self, tokens: list[int]) -> int:
        from transformers import DynamicCache

        self.cache = DynamicCache(config=self.model.config)
        return self._next(tokens)

    def step(self, token: int) -> int:
        return self._next([token])

    def _next(self, tokens: list[int]) -> int:
        return next_token(self.model, self.cache, tokens)


def next_token(forward: Callable[..., Any], cache: Any, tokens: list[int]) -> int:
    """The likeliest after these."""
    import torch

    out = forward(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return int(out.logits[0, -1].argmax())


def measured(engine: Callable[[Request], Engine], request: Request) -> Reply:
    """An engine of transformers, timed."""
    reply = timed(lambda: engine(request), request)
    import transformers

    return replace(reply, versions={"transformers": transformers.__version__})


def measure(request: Request) -> Reply:
    return measured(Loop, request)


if __name__ == "__main__":
    serve(measure)
