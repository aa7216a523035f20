"""llama.cpp through its C interface: ``llama-cpp-python``, compiled for this machine.

Weights are read into memory, not mapped: llama.cpp reorders some of them, and a map would keep both copies resident.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import llama_cpp
import numpy as np

from blockzoo.bench.peers.llama_cpp import instructions
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import timed

TOKENS_AT_ONCE = 512
"""Of a prompt, in one pass through the layers: llama.cpp's default."""
F32 = 0
"""ggml's number of it. A cache is float16 unless asked otherwise."""


class Llama:
    """A loaded GGUF file with a cache of its own: an `Engine`. Raises RuntimeError where llama.cpp refuses."""

    def __init__(self, path: str | Path, capacity: int, threads: int, dtype: str) -> None:
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        loading.n_gpu_layers = 0
        loading.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), loading)
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {path}; its reasons are above")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = capacity, capacity, min(capacity, TOKENS_AT_ONCE)
        params.n_threads = params.n_threads_batch = threads
        if dtype == "float32":  # its flash attention rounds to float16
            params.type_k = params.type_v = F32
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.swa_full = False  # a sliding layer keeps its window only, as ours do
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp can't run {path} at a capacity of {capacity}; its reasons are above")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def read(self, tokens: list[int]) -> int:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        return int(self.logits(tokens).argmax())

    def step(self, token: int) -> int:
        return int(self.logits([token]).argmax())

    def logits(self, tokens: list[int]) -> np.ndarray:
        """(vocab,): what follows these tokens, which go into the cache; valid until the next call."""
        held = (llama_cpp.llama_token * len(tokens))(*tokens)  # the batch points into it
        status = llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(held, len(tokens)))
        if status:
            raise RuntimeError(f"llama.cpp stopped with status {status}; its reasons are above")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, -1), (self._vocab_size,))


def measure(request: Request) -> Reply:
    """Time one file."""
    reply = timed(partial(Llama, request.path, request.options["capacity"], request.threads, request.dtype), request)
    told = instructions(llama_cpp.llama_print_system_info().decode())
    return replace(reply, versions={"llama-cpp-python": f"{version('llama-cpp-python')} ({told})"})
