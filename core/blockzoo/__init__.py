"""blockzoo: language models assembled from interchangeable blocks.

The public surface, on the process-wide registry of plugins. Importing this module is cheap: torch and plugins load on
the first call that needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from blockzoo.accounting import Account
    from blockzoo.config.schema import ModelConfig
    from blockzoo.model import Decoder
    from blockzoo.registry import Registry
    from blockzoo.tokenizers import Tokenizer

__version__ = "0.1.0"
__all__ = [
    "account",
    "build",
    "from_pretrained",
    "generate",
    "load_config",
    "load_tokenizer",
    "save_pretrained",
]


def _registry() -> Registry:
    """The process-wide registry, with all selected plugins loaded."""
    from blockzoo.plugins import host

    return host().registry


def load_config(ref: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> ModelConfig:
    """The complete config of a model: a shipped name, a path to a YAML file, or a mapping.

    ``overrides`` are dotted keys: ``load_config("gpt2", {"layers.count": 6})``. Raises ConfigError with every problem
    at once, each with its file, line and column.
    """
    from blockzoo.config import load_config as load

    return load(ref, overrides, registry=_registry())


def build(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    *,
    trainable: bool = False,
    kernels: Mapping[str, str] | None = None,
) -> Decoder:
    """A model with freshly drawn weights (float32 unless ``dtype`` says otherwise), in evaluation mode.

    ``device="meta"`` allocates nothing. ``trainable`` keeps float masters of quantized weights. ``kernels`` names a
    kernel for an op, e.g. ``{"attention": "reference"}``; one that can't run raises KernelError with its reasons.
    """
    import torch

    from blockzoo.building import build as build_model

    return build_model(
        config,
        registry=_registry(),
        device=device,
        dtype=torch.float32 if dtype is None else dtype,
        seed=seed,
        trainable=trainable,
        kernels=kernels,
    )


def from_pretrained(
    ref: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["stored"] | None = None,
    *,
    trainable: bool = False,
    overrides: Mapping[str, Any] | None = None,
    mapped: bool = False,
) -> Decoder:
    """A model with the weights of a checkpoint: a local folder or a hub id, in any layout that a family knows.

    ``dtype`` (default bfloat16) is that of float weights; "stored" keeps each as it is stored. Packed weights stay
    packed, unless ``trainable`` asks for float masters. ``overrides`` are dotted keys laid on the config.
    ``mapped`` leaves on the CPU what can be left in its file, as it is: there at once, and resident as it is used. The
    file must stay as it is meanwhile, and its values aren't checked. Raises CheckpointError where the folder and the
    config disagree in any tensor.
    """
    import torch

    from blockzoo.checkpoints import from_pretrained as load

    dtype = torch.bfloat16 if dtype is None else dtype
    return load(
        ref,
        device=device,
        dtype=dtype,
        trainable=trainable,
        overrides=overrides,
        mapped=mapped,
        registry=_registry(),
    )


def save_pretrained(model: Decoder, folder: str | Path, layout: str = "hf") -> None:
    """Write a checkpoint folder, whole or not at all: "hf" (transformers reads it), "original" (gpt-oss) or "native".

    Raises CheckpointError where the layout can't say what the model is.
    """
    from blockzoo.checkpoints import save_pretrained as save

    save(model, folder, layout=layout, registry=_registry())


def load_tokenizer(ref: str | Path) -> Tokenizer:
    """A tokenizer: "bytes", a tiktoken encoding, a shipped model's name, or a folder. ``.encode(str)``,
    ``.decode(list[int])``.
    """
    from blockzoo.tokenizers import load_tokenizer as load

    return load(ref, registry=_registry())


def generate(model: Decoder, prompt_ids: Sequence[int], **options: Any) -> Iterator[int]:
    """Token ids that continue a prompt, one by one; options as in ``blockzoo.generation.generate`` (max_new_tokens,
    temperature, top_k, top_p, seed, stop).
    """
    from blockzoo.generation import generate as run

    return run(model, prompt_ids, **options)


def account(config: ModelConfig, context: int | None = None) -> Account:
    """What a model costs, without building it: parameters, weight bytes, cache bytes, FLOPs."""
    from blockzoo.accounting import account as run

    return run(config, context)
