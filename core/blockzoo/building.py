"""From a complete config to a model: modules on the meta device, storage, weights, kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from blockzoo.accounting import account
from blockzoo.blocks import BlockConfig, Cost
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError, PluginError
from blockzoo.faults import title
from blockzoo.initialization import draw
from blockzoo.linear import StoredLinear
from blockzoo.memory import check_memory
from blockzoo.model import Decoder
from blockzoo.quantization import packed_names, quantize
from blockzoo.registry import Registry
from blockzoo.storage import room


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
    _check_promises(model, cost, set() if trainable else set(packed))
    quantize(model, packed, trainable=trainable)
    model.to(dtype)
    if torch.device(device).type != "meta":
        model._apply(lambda tensor: room(tensor.shape, tensor.dtype, device))
    model._kernels, model.players = registry.kernels(), registry.players()
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
    """A model with freshly drawn weights, in evaluation mode, bound to ``device``; "meta" allocates nothing. Raises
    InputError where it finds no room in memory.

    ``trainable``: quantized weights keep float masters and train through straight-through rounding; otherwise they
    are held packed only.
    """
    model = empty(config, registry=registry, device=device, dtype=dtype, trainable=trainable)
    check_room(model)
    if model.device.type != "meta":
        initialize(model, seed)
    model.bind(kernels)
    return model


def check_room(model: Decoder, mapped: int = 0) -> None:
    """Raise InputError where a model on the host, less the bytes of it that are mapped, finds no room in memory."""
    if model.device.type == "cpu":
        needed = sum(tensor.nbytes for tensor in model.state_dict().values()) - mapped
        check_memory(needed, f"the rest of {model.config.name}" if mapped else model.config.name)


def _whole(value: Tensor, like: Tensor) -> Tensor:
    return value


@torch.no_grad()
def initialize(model: Decoder, seed: int, place: Callable[[Tensor, Tensor], Tensor] = _whole) -> None:
    """Draw the weights of a model whose storage is allocated. ``place(value, like)``: what goes into ``like``, of a
    parameter that is split over processes.
    """
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
            tensors[name].copy_(place(value, tensors[name]))


def _check_promises(model: Decoder, cost: Cost, stored: set[str]) -> None:
    """A block whose ``cost`` says other parameters than its module has is a defect of its plugin: say whose."""
    built = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    held = {n: tuple(t.shape) for n, t in model.named_buffers() if not n.startswith("embedding.tokens.")}
    if (table := "embedding.tokens.weight") in stored:
        built[table] = cost.parameters[table].shape
    for have, promised, what in ((built, cost.parameters, "parameter"), (held, cost.buffers, "buffer")):
        said = {name: parameter.shape for name, parameter in promised.items()}
        for name in sorted(have.keys() | said.keys()):
            if have.get(name) != said.get(name):
                loose = name in have and name in said and said[name][1:] == have[name]
                raise PluginError(
                    f"{_owner(model.config, name)}: the module and cost() disagree on the {what} '{name}':"
                    f" {_shape(have.get(name))} in the module, {_shape(said.get(name))} in cost()"
                    + (": what isn't made by linear() can't be stacked as experts" if loose else "")
                )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "it is not" if shape is None else f"its shape is {shape}"


def _owner(config: ModelConfig, name: str) -> str:
    """The block that a parameter belongs to, by its name in the state dict, and its plugin."""
    part, index, *rest = name.split(".")
    block: BlockConfig | None = {"position": config.embedding.position, "norm": config.embedding.norm}.get(index)
    if part == "head":
        block = config.head.norm
    if part == "layers":
        layer = config.layers[int(index)]
        norms = dict.fromkeys(layer.residual.norms(layer.mixer is not None, layer.ffn is not None), layer.norm)
        block = {**norms, "mixer": layer.mixer, "ffn": layer.ffn}.get(rest[0]) or layer.residual
    return f"model '{config.name}'" if block is None else title(block)
