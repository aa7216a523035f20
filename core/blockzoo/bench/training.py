"""Tokens a second of blockzoo's training loop on drawn tokens: `python -m blockzoo.bench.training`.

The model is drawn from the config, in float32 masters; bfloat16 means autocast, as in `blockzoo train`.
"""

from __future__ import annotations

import time
from typing import cast

import torch

from blockzoo import building
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve
from blockzoo.checkpoints import read_config
from blockzoo.experiments.speed import Noise
from blockzoo.plugins import host
from blockzoo.training.config import TrainConfig
from blockzoo.training.loop import Training
from blockzoo.training.source import Source


def measure(request: Request) -> Reply:
    """``options``: ``batch_size`` and ``block``. ``extra``: ``step_s``, seconds of each step after an uncounted one."""
    torch.set_num_threads(request.threads)
    registry = host().registry
    config = read_config(request.path, registry=registry)
    model = building.build(config, registry=registry, trainable=True).train()
    recipe = TrainConfig(steps=1 + request.repeats, dtype=request.dtype, **request.options)
    training = Training(model, recipe, cast(Source, Noise(config.vocab_size)))
    seconds = []
    for _ in range(1 + request.repeats):
        begin = time.perf_counter()
        float(training.advance()["loss"])
        seconds.append(time.perf_counter() - begin)
    return Reply(extra={"step_s": seconds[1:], "tokens_per_step": recipe.tokens_per_step})


if __name__ == "__main__":
    serve(measure)
