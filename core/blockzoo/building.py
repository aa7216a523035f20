"""From a complete config to a model: modules on the meta device, storage, weights, kernels."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from blockzoo.accounting import account
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError, PluginError
from blockzoo.initialization import draw
from blockzoo.linear import StoredLinear
from blockzoo.model import Decoder
from blockzoo.quantization import packed_names, quantize
from blockzoo.registry import Registry


def empty(
    config: ModelConfig,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    trainable: bool = False,
) -> Decoder:
    """A model whose weights are allocated and not filled, and which is not bound yet: for loading a checkpoint into.

    Until ``bind``, the tensors of ``state_dict()`` are the live storage. Raises ConfigError where a quantizer refuses
    a shape, InputError for a device that can't be used here and a dtype that is no float.
    """
    check_device(device)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype!r}; a model's is a float one, such as torch.float32 or torch.bfloat16")
    cost = account(config, context=1).cost
    packed = packed_names(config, cost.parameters)
    with torch.device("meta"):
        model = Decoder(config, trainable=trainable)
    _check_names(model, config, set(cost.parameters), set(cost.buffers), set(packed) if not trainable else set())
    quantize(model, packed, trainable=trainable)
    model.to(dtype)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
    model._kernels = registry.kernels()
    return model.eval()


def check_device(device: torch.device | str) -> None:
    """Raise InputError for a device that torch can't use here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{device}' can't be used here: {str(error).splitlines()[0]}") from error


def build(
    config: ModelConfig,
    *,
    registry: Registry,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    trainable: bool = False,
    kernels: Mapping[str, str] | None = None,
) -> Decoder:
    """A model with freshly drawn weights, in evaluation mode, bound to ``device``; "meta" allocates nothing.

    ``trainable``: quantized weights keep float masters and train through straight-through rounding; otherwise they
    are held packed only.
    """
    model = empty(config, registry=registry, device=device, dtype=dtype, trainable=trainable)
    if model.device.type != "meta":
        _initialize(model, seed)
    model.bind(kernels)
    return model


@torch.no_grad()
def _initialize(model: Decoder, seed: int) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stored = {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, StoredLinear)}
    cost = account(model.config, context=1).cost
    for name, parameter in {**cost.parameters, **cost.buffers}.items():
        value = draw(model.config, name, parameter, seed)
        if name in stored:
            module = stored[name]
            assert module.quantizer is not None
            packed = module.quantizer.pack(value)
            module.set_canonical({part: tensor.to(model.device) for part, tensor in packed.items()})
        else:
            tensors[name].copy_(value)


def _check_names(
    model: Decoder, config: ModelConfig, parameters: set[str], buffers: set[str], stored: set[str]
) -> None:
    """A block whose ``cost`` names other parameters than its module has is a defect of its plugin: say which."""
    built = {name for name, _ in model.named_parameters()}
    held = {name for name, _ in model.named_buffers() if not name.startswith("embedding.tokens.")}
    if "embedding.tokens.weight" in stored:
        built.add("embedding.tokens.weight")
    for have, said, what in ((built, parameters, "parameters"), (held, buffers, "buffers")):
        if have != said:
            raise PluginError(
                f"model '{config.name}': cost() and the built modules disagree on {what}:"
                f" only in the modules {sorted(have - said)[:5]}, only in cost {sorted(said - have)[:5]}"
            )
