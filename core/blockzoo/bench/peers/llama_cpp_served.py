"""llama.cpp through its own server, without the network between: ``xllamacpp``, prebuilt.

It counts time itself: the prompt's from its start to the first token, decoding's from there to the last token. Weights
are read into memory, not mapped: llama.cpp reorders some of them, and a map would keep both copies resident.
"""

from __future__ import annotations

import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import xllamacpp

from blockzoo.bench.peers.llama_cpp import instructions
from blockzoo.bench.protocol import SHORT_PROMPT, Reply, Request


class Server:
    """A loaded GGUF file of ``write_gguf``, whose tokens have their ids as names."""

    def __init__(self, path: str | Path, capacity: int, threads: int, dtype: str) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = params.n_batch = capacity
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
        if dtype == "float32":  # its flash attention rounds to float16, as its cache does
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.n_parallel = 1
        params.fit_params = params.warmup = params.cache_prompt = False
        params.cache_ram_mib = params.n_ctx_checkpoints = 0  # no copies of old prompts
        self._server = xllamacpp.Server(params)

    def complete(self, prompt: list[int], count: int) -> tuple[list[int], dict[str, float]]:
        """The greedy continuation, and the server's own timings."""
        asked = {"prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer: dict[str, Any] = self._server.handle_completions(asked)
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp's server answered {answer}")
        found = [int(token) for token in re.findall(r"t(\d+)", answer["choices"][0]["text"])]
        return found, answer["timings"]


def measure(request: Request) -> Reply:
    """Time one file."""
    server = Server(request.path, request.options["capacity"], request.threads, request.dtype)
    server.complete(request.prompt[:SHORT_PROMPT], 1)
    loading = time.time() - request.started
    prefill, decode = [], []
    for _ in range(1 + request.repeats):
        _, timings = server.complete(request.prompt, 1 + request.new_tokens)  # the first one is the prompt's
        prefill.append(timings["prompt_ms"] / 1000)
        decode.append(timings["predicted_ms"] / 1000)
    told = instructions(xllamacpp.get_system_info())
    return Reply([loading], prefill[1:], decode[1:], versions={"xllamacpp": f"{version('xllamacpp')} ({told})"})
