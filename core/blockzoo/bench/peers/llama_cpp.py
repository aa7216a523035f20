"""llama.cpp as a peer: the same weights as a GGUF file, token ids in, greedy tokens out.

Two packages bring it. ``xllamacpp`` has prebuilt libraries for any x86-64 machine of the last ten years (AVX2) and
leaves AVX-512 unused. ``llama-cpp-python`` is compiled on installation for the machine it is on: where it is there, it
is preferred, because it shows llama.cpp at its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

from blockzoo.bench.peers import Job, Prepared, Refused
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.side import serve
from blockzoo.errors import InputError

if TYPE_CHECKING:
    from blockzoo.config.schema import ModelConfig
    from blockzoo.registry import Registry

SPARE_BYTES = 10**9
"""For caches and buffers beside the weights."""


class LlamaCpp:
    """The `Peer`."""

    packages = ("gguf", "xllamacpp")

    def prepare(self, job: Job) -> Prepared | Refused:
        """Write the weights as GGUF; refuse what llama.cpp can't compute or this machine can't hold."""
        from blockzoo.bench.peers.gguf import planned_bytes, write_gguf
        from blockzoo.bench.peers.gguf_source import Source
        from blockzoo.plugins import host

        registry = host().registry
        path = job.scratch / "model.gguf"
        try:
            source = Source(job.folder, registry)
            config = with_quantizers(source.config, job.quantize, registry)
            size = planned_bytes(config, job.dtype, registry)
            if size + SPARE_BYTES > job.memory:
                return Refused(
                    f"its file would have {size / 1e9:.1f} GB, and {job.memory / 1e9:.1f} GB of memory are free"
                )
            if size > (room := disk_usage(job.scratch).free):
                return Refused(
                    f"llama.cpp's file would have {size / 1e9:.1f} GB, and {job.scratch} has {room / 1e9:.1f} GB free"
                )
            kinds = write_gguf(source, path, config, job.dtype, registry)
        except InputError as error:
            return Refused(str(error))
        stored = ", ".join(f"{kind.lower()} {count / 1e9:.2f} GB" for kind, count in kinds.items())
        return Prepared(path, f"GGUF: {stored}", {"capacity": job.capacity})


PEER = LlamaCpp()


def with_quantizers(config: ModelConfig, quantize: Sequence[str], registry: Registry) -> ModelConfig:
    """The model with what ``--quantize`` asks for: ``rest=int8``, ``mixer=none``. Raises InputError."""
    from blockzoo.memory_plan import quantized

    asked: dict[str, Any] = {}
    for text in quantize:
        part, _, name = text.partition("=")
        asked[part] = None if name == "none" else registry.get("quantizer", name)()
    return quantized(config, asked) if asked else config


# --- the side process -------------------------------------------------------------------------------------------------


def measure(request: Request) -> Reply:
    """Time one file, with the library that was compiled for this machine, else with the prebuilt one."""
    if find_spec("llama_cpp"):
        from blockzoo.bench.peers.llama_cpp_compiled import measure as with_library
    else:
        from blockzoo.bench.peers.llama_cpp_served import measure as with_library
    return with_library(request)


def instructions(told: str) -> str:
    """What of the processor a library uses, by its own words: ``CPU : AVX2 = 1 | FMA = 1 | `` -> ``AVX2 FMA``."""
    pairs = (pair.partition("=") for pair in told.split("|"))
    return " ".join(name.split(":")[-1].strip() for name, _, value in pairs if value.strip() == "1")


if __name__ == "__main__":
    serve(measure)
