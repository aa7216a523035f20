"""What a decoded token's attention costs as the context grows: sliding layers stay flat, full ones read their cache.

Run it by hand: ``python tests/benchmarks/long_context.py [--json] [--threads N]``. Layers have gpt-oss-20b's attention
(64 query heads over 8 key heads of 64, sinks, window 128) in bfloat16 at a small d_model; the cache is filled
with random keys, without a prefill. Times are of the mixers alone; ``bytes`` are the keys and values that a full
layer reads, ``share`` of the bandwidth of a plain read of as much memory in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch

import blockzoo
from blockzoo.cache import ModelCache, TokenState
from blockzoo.model import Decoder

CONTEXTS = (1024, 8192, 32768)
TOKENS = 25
LAYERS = 2  # of each kind
FULL = {"type": "gqa", "n_heads": 64, "n_kv_heads": 8, "head_dim": 64, "bias": True, "sinks": True}
CONFIG = {
    "name": "long-context",
    "vocab_size": 64,
    "context_length": 131072,
    "d_model": 64,
    "norm": {"type": "rms_norm"},
    "position": {
        "type": "rope",
        "theta": 150000,
        "scaling": {"type": "yarn", "factor": 32, "original_context_length": 4096, "truncate": False},
    },
    "blocks": {"full": FULL, "sliding": {"use": "full", "window": 128}},
    "layers": {"count": 2 * LAYERS, "mixer": {"cycle": ["sliding", "full"]}, "ffn": "none"},
}


def filled(model: Decoder, context: int) -> ModelCache:
    """A cache that holds ``context`` random tokens."""
    cache = model.new_cache(max_length=context + 2 * TOKENS)
    step = cache.step((1, context), None, "prefill")
    for state in cache.states:
        assert isinstance(state, TokenState)
        new = [torch.randn(1, 8, context, 64, dtype=torch.bfloat16) for _ in state.tensors]
        state.extend(step, *new)
    cache.advance(step)
    return cache


def milliseconds(model: Decoder, cache: ModelCache) -> tuple[float, float]:
    """Time of one token in all sliding and in all full layers, the fastest of several."""
    times: dict[bool, list[float]] = {True: [], False: []}
    x = torch.randn(1, 1, model.config.d_model, dtype=torch.bfloat16)
    for _ in range(TOKENS):
        step = cache.step((1, 1), None, "decode")
        spent = {True: 0.0, False: 0.0}
        for layer, state in zip(model.layers, cache.states, strict=True):
            assert isinstance(state, TokenState)
            begin = time.perf_counter()
            layer.mixer(x, step, state)
            spent[state.window is None] += time.perf_counter() - begin
        cache.advance(step)
        for full, seconds in spent.items():
            times[full].append(seconds * 1e3)
    return min(times[False]), min(times[True])


def fastest(run: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        begin = time.perf_counter()
        run()
        found.append(time.perf_counter() - begin)
    return min(found)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = blockzoo.build(blockzoo.load_config(CONFIG), dtype=torch.bfloat16, seed=0)
    kernel = next(line.kernel for line in model.bindings if line.op == "attention" and line.phase == "decode")
    rows = []
    for context in CONTEXTS:
        cache = filled(model, context)
        sliding, full = milliseconds(model, cache)
        n_bytes = LAYERS * 2 * context * 8 * 64 * 2
        memory = torch.ones(n_bytes // 8, dtype=torch.int64)
        plain = n_bytes / fastest(lambda held=memory: held.sum())  # type: ignore[misc]
        share = n_bytes / (full / 1e3) / plain
        rows.append({"context": context, "sliding_ms": sliding, "full_ms": full, "full_bytes": n_bytes, "share": share})
    if asked.json:
        print(json.dumps({"kernel": kernel, "threads": asked.threads, "layers_of_each": LAYERS, "rows": rows}))
        return
    print(f"attention by {kernel}, {asked.threads} thread(s), {LAYERS} layers of each kind, ms a token")
    print(f"{'context':>8} {'sliding':>9} {'full':>9} {'MB read':>9} {'share of a plain read':>22}")
    for row in rows:
        print(
            f"{row['context']:8} {row['sliding_ms']:9.3f} {row['full_ms']:9.3f} {row['full_bytes'] / 1e6:9.1f}"
            f" {row['share']:22.2f}"
        )


if __name__ == "__main__":
    main()
