"""What the module of any block owes: it is what ``cost`` says, comes from nowhere but its weights, and comes back.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from blockzoo.blocks import Role
from blockzoo.linear import ExpertLinear
from blockzoo.testing.check import need, need_close
from blockzoo.testing.constructed import need_no_other_values
from blockzoo.testing.inputs import inputs, step_of
from blockzoo.testing.subjects import BlockSubject

BUFFER = "; say Cost(buffers={'%s': Parameter(shape, Role.OTHER, init=...)}), whose init fills it"
SMALL = 64  # elements: what a constructor may keep for itself on the host


def builds_on_meta(subject: BlockSubject) -> None:
    """Constructing it on the meta device allocates nothing, and it works once its weights have storage."""
    with _Allocations() as allocations, torch.device("meta"):
        module = subject.make()
    need(not allocations.found, f"allocates {allocations.found[:1]} off the meta device while it is constructed")
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        need(tensor.is_meta, f"'{name}' is on {tensor.device}: construct it on the current device")
    for path, inner in module.named_modules():
        for name, value in vars(inner).items():
            where = f"{path}.{name}".lstrip(".")
            need(
                not isinstance(value, torch.Tensor),
                f"'{where}' is a plain tensor attribute and is lost on the way from the meta device:"
                " compute it in forward, or register a buffer and name it in cost()",
            )
    with torch.no_grad():
        y = subject.call(subject.build(), inputs(), step_of())
    need(y.isfinite().all(), "the output of plain inputs is not finite")


class _Allocations(TorchDispatchMode):
    """Every tensor of more than a few elements that is made outside the meta device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta and tensor.numel() > SMALL:
                self.found.append(f"{tuple(tensor.shape)} by {function}")
        return out


def parameters(subject: BlockSubject) -> None:
    """Parameters and buffers are exactly those that cost() names, shape by shape."""
    with torch.device("meta"):
        module = subject.make()
    cost = subject.cost(1)
    for built, said, what in (
        (dict(module.named_parameters()), cost.parameters, "parameter"),
        (dict(module.named_buffers()), cost.buffers, "buffer"),
    ):
        extra, missing = sorted(built.keys() - said.keys()), sorted(said.keys() - built.keys())
        hint = BUFFER % extra[0] if extra and what == "buffer" else ""
        need(not extra and not missing, f"{what}s differ: only in the module {extra}, only in cost() {missing}{hint}")
        for name, tensor in built.items():
            shapes = tuple(tensor.shape), said[name].shape
            need(shapes[0] == shapes[1], f"{what} '{name}' has shape {shapes[0]}, cost() says {shapes[1]}")


def roles(subject: BlockSubject) -> None:
    """Every parameter's role fits what it is: roles decide weight decay, initialization and quantization."""
    with torch.device("meta"):
        module = subject.make()
    matrices = {f"{path}.weight" for path, m in module.named_modules() if isinstance(m, (nn.Linear, ExpertLinear))}
    biases = {f"{path}.bias" for path, m in module.named_modules() if isinstance(m, (nn.Linear, ExpertLinear))}
    for name, parameter in subject.cost(1).parameters.items():
        role = parameter.role
        need(isinstance(role, Role), f"'{name}' has role {role!r}: it must be a blockzoo.blocks.Role")
        if name in matrices:
            fits = role in (Role.HIDDEN, Role.RESIDUAL_OUTPUT, Role.ROUTER)
            need(fits, f"'{name}' is a linear's weight with role {role}: say HIDDEN, RESIDUAL_OUTPUT or ROUTER")
        elif role in (Role.HIDDEN, Role.RESIDUAL_OUTPUT):
            need(False, f"'{name}' has role {role} but is no linear's weight: say GAIN, BIAS or OTHER")
        if name in biases:
            need(role is Role.BIAS, f"'{name}' is a bias with role {role}: say BIAS")
        active = parameter.active_numel
        need(0 < active <= parameter.numel, f"'{name}' says {active} active elements of {parameter.numel}")


def initialization(subject: BlockSubject) -> None:
    """An init fills all of its parameter, repeatably, with finite numbers; the constructor sets no others."""
    for name, parameter in {**subject.cost(1).parameters, **subject.cost(1).buffers}.items():
        if parameter.init is None:
            continue
        drawn = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            random.seed(seed)
            tensor = torch.full(parameter.shape, torch.nan)
            parameter.init(tensor, torch.Generator().manual_seed(0))
            drawn.append(tensor)
        need(drawn[0].isfinite().all(), f"the init of '{name}' leaves elements unfilled or not finite")
        need(torch.equal(*drawn), f"the init of '{name}' is not repeatable: draw from the generator it is given only")
    need_no_other_values(subject)


def depends_on_weights_alone(subject: BlockSubject) -> None:
    """Two modules with equal weights give equal outputs, however the random state stood when they were built."""
    outputs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        with torch.no_grad():
            outputs.append(subject.call(subject.build(), inputs(), step_of()))
    need(
        torch.equal(*outputs),
        "two builds with equal weights give different outputs: it draws random numbers outside its parameters",
    )


def state_dict(subject: BlockSubject) -> None:
    """A state dict has cost()'s names, and loaded into another instance gives the same outputs."""
    one, other = subject.build(seed=1), subject.build(seed=2)
    cost = subject.cost(1)
    names, said = set(one.state_dict()), {*cost.parameters, *cost.buffers}
    unsaved = sorted(dict(one.named_buffers()).keys() - names)
    need(not unsaved, f"the buffers {unsaved} are not persistent: leave persistent=False out, checkpoints hold buffers")
    need(names == said, f"the state dict's names differ from cost()'s in {sorted(names ^ said)}")
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    with torch.no_grad():
        outputs = [subject.call(module, inputs(), step_of()) for module in (one, other)]
    need(torch.equal(*outputs), "an instance that loaded another's state dict gives other outputs: state is elsewhere")


def module_copies(subject: BlockSubject) -> None:
    """copy.deepcopy gives a module of its own with the same outputs."""
    module = subject.build()
    try:
        twin = copy.deepcopy(module)
    except Exception as error:
        need(False, f"can't be deep-copied: {error}; keep no generators, locks or graphs in the module")
    with torch.no_grad():
        before = subject.call(module, inputs(), step_of())
        need_close(subject.call(twin, inputs(), step_of()), before, 0, "a deep copy gives other outputs")
        for parameter in twin.parameters():
            parameter.fill_(0.3)
        need(
            torch.equal(subject.call(module, inputs(), step_of()), before),
            "changing a deep copy changes the original: they share a tensor",
        )


CHECKS = (
    builds_on_meta,
    parameters,
    roles,
    initialization,
    depends_on_weights_alone,
    state_dict,
    module_copies,
)
