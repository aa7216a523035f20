"""Whether everything of a block counts: each option that a sample sets, and each weight, does something somewhere.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from blockzoo.blocks import BlockConfig, FFNConfig, Parameter, QuantizableConfig, QuantizerConfig, ResidualConfig
from blockzoo.kernels import Slot
from blockzoo.testing.check import need
from blockzoo.testing.inputs import DIMS, draw, inputs, step_of
from blockzoo.testing.packing import pack_alike
from blockzoo.testing.samples import kin_of, with_reports
from blockzoo.testing.subjects import BlockSubject

SCALES = (1.0, 0.01, 30.0)
"""Of inputs: small ones show an eps, large ones a clamp or a softcap."""
SEED = 5

Option = tuple[str, ...]
"""Where an option stands: its name, after those of the sections that it is in."""


def options_count(subject: BlockSubject) -> None:
    """An option that a sample sets does something there: to outputs, training, reports, the cost, or what is packed."""
    alike = "give equal outputs from equal weights"
    if isinstance(subject.config, QuantizerConfig):
        alike = "pack and unpack every weight tried alike"
    for option in _set(subject.config):
        counts = _counts(subject, option)
        if counts is False and not any(_counts(one, option) for one in kin_of(subject) if option in _set(one.config)):
            need(
                False,
                f"'{'.'.join(option)}' does nothing: {_shown(subject.config, option)} and the default {alike}: use it,"
                " or bring a sample in which it counts",
            )


def _set(config: BaseModel) -> list[Option]:
    """The options at another value than their default, those inside sections too; a block inside another, and the
    quantizer of a block, are held to by checks of their own.
    """
    found: list[Option] = []
    for name, info in type(config).model_fields.items():
        value, required = getattr(config, name), info.is_required()
        if name in QuantizableConfig.model_fields:
            continue
        if required or value != info.get_default(call_default_factory=True):
            found += [] if required else [(name,)]
            if isinstance(value, BaseModel) and not isinstance(value, BlockConfig):
                found += [(name, *inner) for inner in _set(value)]
    return found


def _shown(config: BaseModel, option: Option) -> str:
    value = repr(functools.reduce(getattr, option, config))
    return value if len(value) <= 60 else f"{value[:60]}..."


def _without(config: BaseModel, option: Option) -> BaseModel:
    """The config with an option left out. Raises ValidationError where another one needs it."""
    name, *inner = option
    said = {field: getattr(config, field) for field in config.model_fields_set}
    if inner:
        said[name] = _without(getattr(config, name), tuple(inner))
    else:
        del said[name]
    return type(config).model_validate(said)


def _counts(subject: BlockSubject, option: Option) -> bool | None:
    """Whether a sample is another without one of its options; None where it is none then, or is the same by right."""
    config = subject.config
    try:
        without = _without(config, option)
    except ValidationError:  # needed by another option
        return None
    assert isinstance(without, BlockConfig)
    if any(without.check(DIMS)) or without.explicit(DIMS) == config.explicit(DIMS):
        return None
    if isinstance(config, QuantizerConfig):
        assert isinstance(without, QuantizerConfig)
        return not pack_alike(config, without)
    twin = next((one for one in kin_of(subject, [without]) if one.around == subject.around), None)
    return twin is None or _costs(subject) != _costs(twin) or _differ(subject, twin)


def _costs(subject: BlockSubject) -> list[Any]:
    """What cost() says of short and of long contexts, with what each init draws."""
    said = []
    for context in (1, DIMS.context_length):
        cost = subject.cost(context)
        tensors = {**cost.parameters, **cost.buffers}
        said.append((cost.flops, cost.cache, {name: _drawn(tensor) for name, tensor in tensors.items()}))
    return said


def _drawn(parameter: Parameter) -> tuple[object, ...]:
    values = None
    if parameter.init is not None:
        tensor = torch.empty(parameter.shape)
        parameter.init(tensor, torch.Generator().manual_seed(SEED))
        values = tensor.tolist()
    return parameter.shape, parameter.role, parameter.active_numel, values


def _differ(one: BlockSubject, other: BlockSubject) -> bool:
    """Whether two samples of equal weights compute, report or remember another thing, bit by bit."""
    if _told(one) != _told(other):
        return True
    pairs = zip(_results(one), _results(other), strict=True)
    return any(len(a) != len(b) or not all(map(_same, a, b)) for a, b in pairs)


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return one == other


def _told(subject: BlockSubject) -> list[str]:
    """What kernels are told: one may do what the reference leaves."""
    slots = [(name, inner) for name, inner in subject.build().named_modules() if isinstance(inner, Slot)]
    return [f"{name}: {slot.op.name} {sorted(slot.static.items(), key=str)}" for name, slot in slots]


def _results(subject: BlockSubject) -> Iterator[list[object]]:
    """The output (B, T, ...) and reports, of inputs of several sizes, in evaluation, then in training; in training the
    graph behind them too: another way to the same numbers, in chunks say, is no option without effect.
    """
    length = DIMS.context_length
    for train, dtype in ((False, torch.float32), (True, torch.float32), (False, torch.bfloat16)):
        for scale in SCALES:
            module = subject.build(dtype).train(train)
            x = inputs(dtype, length=length) * scale
            torch.manual_seed(SEED)  # dropout draws from here
            with torch.set_grad_enabled(train):
                found = _all(subject, module, x.requires_grad_(train))
            graph = [step for value in found for step in _graph(value)] if train else []
            yield [*(value.detach() for value in found), *module.buffers(), *graph]


def _all(subject: BlockSubject, module: Any, x: Tensor) -> list[Tensor]:
    """The output and what is reported beside it."""
    step = step_of(length=x.shape[1])
    if isinstance(subject.config, FFNConfig):
        y, aux = with_reports(module, x)
    elif isinstance(subject.config, ResidualConfig):
        y, aux = module(x, step)
    else:
        y, aux = subject.call(module, x, step), {}
    return [y, *(aux[name] for name in sorted(aux))]


def _graph(value: Tensor) -> Iterator[str]:
    """The names of the operations that a value follows from, each once."""
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
            yield node.name()


# --- weights ---


def weights_count(subject: BlockSubject) -> None:
    """Every parameter moves the output or what is reported, in training or out of it, in one sample at least."""
    idle = _idle(subject)
    for other in kin_of(subject) if idle else ():
        has = {name for name, _ in other.build().named_parameters()}
        idle = [name for name in idle if name not in has or name in _idle(other)]
        if not idle:
            return
    need(
        not idle,
        f"'{', '.join(idle)}' moves nothing: no gradient reaches it but 0, and another value gives the same output;"
        " let it take part, or bring a sample in which it does",
    )


def _idle(subject: BlockSubject) -> Sequence[str]:
    """The parameters without a gradient (so has what selects experts) of which another value changes nothing either."""
    module = subject.build().train()
    found = [value for value in _all(subject, module, inputs()) if value.requires_grad]
    if found:
        torch.stack([(value * draw(*value.shape, seed=9)).sum() for value in found]).sum().backward()
    still = [
        name for name, parameter in module.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    return [name for name in still if not _moves(subject, name)]


@torch.no_grad()
def _moves(subject: BlockSubject, name: str) -> bool:
    """Whether another value of a parameter changes something, in training or in evaluation."""
    x = inputs(length=DIMS.context_length)
    for train in (True, False):
        module = subject.build().train(train)
        outputs = []
        for factor in (0.0, 1.0):
            parameter = module.get_parameter(name)
            parameter.add_(factor * 3 * draw(*parameter.shape, seed=8))
            torch.manual_seed(SEED)
            outputs.append(_all(subject, module, x))
        if not all(map(_same, *outputs)):
            return True
    return False


CHECKS = (options_count, weights_count)
