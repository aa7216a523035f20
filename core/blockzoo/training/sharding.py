"""One model over several processes: a copy in each (DDP), or a part in each (FSDP2).

Distributed data parallel: Li et al. 2020, arXiv:2006.15704. Fully sharded: Zhao et al. 2023, arXiv:2304.11277, as
``torch.distributed.fsdp.fully_shard`` does it: each layer's weights are whole only while it computes.

Weights are gathered in float32 and autocast inside the layer, as in one process, so the numbers stay its numbers.
"""

from __future__ import annotations

import contextlib
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from blockzoo import building
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig
from blockzoo.training.distributed import World

Parallel = Literal["none", "ddp", "fsdp"]


def parallel_of(train: TrainConfig, world: World) -> Parallel:
    """How the model is spread. Raises InputError where several processes have no way, or nothing to divide."""
    if world.size == 1:
        return "none"
    if train.parallel == "none":
        raise InputError(
            f"torchrun started {world.size} processes and train.parallel is none: set train.parallel=ddp (each holds"
            " the whole model) or fsdp (each holds a part), or start one process"
        )
    sequences = train.batch_size * train.accumulation
    if sequences % world.size:
        raise InputError(
            f"a step has {sequences} sequences (train.batch_size x train.accumulation), which {world.size} processes"
            " can't share evenly: make it a multiple"
        )
    return "ddp" if train.parallel == "auto" else train.parallel


def build(config: ModelConfig, train: TrainConfig, world: World, *, registry: Registry) -> Decoder:
    """A model to train, freshly drawn; under fsdp, this process's part. No process ever draws more than one parameter.

    Raises InputError for a model that can't be split.
    """
    device, seed = world.device(train.device), train.seeds.init
    if parallel_of(train, world) != "fsdp":
        return building.build(config, registry=registry, device=device, seed=seed, trainable=True)
    model = building.empty(config, registry=registry, device="meta", trainable=True)
    scalars = [name for name, parameter in model.named_parameters() if parameter.dim() == 0]
    if scalars:
        raise InputError(f"train.parallel is fsdp, which can't split the number {scalars[0]}: set ddp")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(torch.device(device).type, (world.size,))
    for module in (*model.layers, model):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no average
    model.to_empty(device=device)
    building.initialize(model, seed, place=place)
    model.bind()
    return model


def callable_of(model: Decoder, train: TrainConfig, world: World) -> nn.Module:
    """What a training step calls: the model, or DDP around it."""
    if parallel_of(train, world) != "ddp":
        return model
    devices = None if model.device.type == "cpu" else [model.device]
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def summed_up(model: nn.Module, last: bool) -> contextlib.AbstractContextManager[None]:
    """Around a forward and backward of a step: only its last exchanges gradients, where each process has them whole."""
    if last or not isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext()
    return model.no_sync()


def settle(model: nn.Module) -> None:
    """After a forward without a backward: let go of gathered weights."""
    if any(map(_is_split, model.parameters())):
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.reshard()


def whole(tensors: dict[str, Tensor], world: World) -> dict[str, Tensor]:
    """Split tensors put together, one after another; only the first process keeps them, on the CPU."""
    found = {}
    for name, tensor in tensors.items():
        value = joined(tensor)
        if world.is_first:
            found[name] = value if value is tensor else value.cpu()
    return found


def whole_model(model: Decoder, world: World, *, registry: Registry) -> Decoder | None:
    """The model, put together on the CPU where it is split; None in all processes but the first."""
    if not any(map(_is_split, model.parameters())):
        return model if world.is_first else None
    weights = whole(model.state_dict(), world)
    if not world.is_first:
        return None
    found = building.empty(model.config, registry=registry, trainable=True)
    found.load_state_dict(weights)
    return found


def place(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as ``like`` holds it: this process's part of it, where it is split."""
    if not _is_split(like):
        return value.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def joined(value: Tensor) -> Tensor:
    """A tensor of which each process may hold a part, whole. All of them must ask."""
    if not _is_split(value):
        return value
    from torch.distributed.tensor import DTensor

    assert isinstance(value, DTensor)
    return value.full_tensor()


def _is_split(tensor: Tensor) -> bool:
    """Whether it is a DTensor. Their module takes a second to import, and nobody needs it who trains alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
