"""Every argument of every op matters in some example of every phase and dtype: a kernel that ignores one fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.kernels import PHASES, YES, Call, Capabilities, Kernel, Op, Verdict, no
from blockzoo.registry import Registry
from blockzoo.step import Keys, Phase
from blockzoo.testing.check import CheckFailed
from blockzoo.testing.kernel_subjects import KernelSubject, subjects_of
from blockzoo.testing.kernels import equals_reference
from blockzoo_blocks.mixers.attention import visible
from tests.conftest import builtin_registry

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
Change = Callable[[dict[str, Any]], None]

NOT_SAID = {
    ("attention", "dropout"): "numbers drawn at random: docs/plugin-authors/kernel.md says so",
    ("stream_sum", "x"): "its only argument",
}
SAME_IN_FLOAT32 = {("rms_norm", "scale_in_fp32")}
"""Two roundings that only a narrower dtype tells apart."""


def places(length: int, rows: int) -> Tensor:
    return torch.arange(length).expand(rows, length)


def scale_of_the_width(call: dict[str, Any]) -> None:
    call["scale"] = call["q"].shape[-1] ** -0.5


def queries_by_index(call: dict[str, Any]) -> None:
    rows, _, tokens, _ = call["q"].shape
    n_keys = call["k"].shape[2]
    call["positions"] = places(n_keys, rows)[:, n_keys - tokens :]


def keys_by_index(call: dict[str, Any]) -> None:
    call["keys"] = Keys(places(call["k"].shape[2], len(call["k"])), True)


def by_index(call: dict[str, Any]) -> None:
    queries_by_index(call)
    keys_by_index(call)


def distance_by_index(call: dict[str, Any]) -> None:
    """Padding is seen, the distance is not."""
    real = call["keys"].positions >= 0
    by_index(call)
    call["keys"] = Keys(call["keys"].positions.where(real, -1), False)


def first_rows_positions(call: dict[str, Any]) -> None:
    call["positions"] = call["positions"][:1].expand_as(call["positions"])
    call["keys"] = Keys(call["keys"].positions[:1].expand_as(call["keys"].positions), call["keys"].consecutive)


def first_heads_keys(call: dict[str, Any]) -> None:
    heads, n_heads = call["k"].shape[1], call["q"].shape[1]
    for part in ("k", "v"):
        call[part] = call[part][:, torch.arange(n_heads) % heads]  # head h of h % Hk, not of h // groups


def even_counts(call: dict[str, Any]) -> None:
    experts, rows = len(call["counts"]), len(call["x"])
    call["counts"] = [rows // experts + (expert < rows % experts) for expert in range(experts)]


def first_expert(call: dict[str, Any]) -> None:
    call["chosen"] = torch.zeros_like(call["chosen"])


def no_angles(name: str) -> Change:
    return lambda call: call.update({name: torch.full_like(call[name], float(name == "cos"))})


TAKEN_FOR_GRANTED: dict[str, dict[str, Change]] = {
    "attention": {
        "scale of the width": scale_of_the_width,
        "positions": queries_by_index,
        "keys": keys_by_index,
        "positions and keys": by_index,
        "distance": distance_by_index,
        "the first row's positions": first_rows_positions,
        "heads of a group": first_heads_keys,
    },
    "expert_linear": {"counts": even_counts},
    "chosen_linear": {"chosen": first_expert},
    "rotary": {"cos": no_angles("cos"), "sin": no_angles("sin")},
}
"""What a kernel may get wrong beside an argument that it takes for a constant."""


def passed(op: Op, *args: Any, **kwargs: Any) -> dict[str, Any]:
    call = inspect.signature(op.reference).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def constants(op: Op, argument: str, subject: KernelSubject) -> list[Any]:
    """What a kernel may take an argument for: each value that it has in examples, of a tensor none."""
    found = [passed(op, *example.args, **example.kwargs)[argument] for example in subject.examples(torch.float32)]
    plain = [value for value in found if not isinstance(value, (Tensor, Mapping, Keys, list))]
    return list({repr(value): value for value in plain}.values())


def setter(argument: str, value: Any) -> Change:
    return lambda call: call.update({argument: value})


def subject_of(op: Op, registry: Registry, function: Callable[..., Tensor], supports: Any) -> KernelSubject:
    return subjects_of(op.name, Kernel("ignores", function, supports, backward=True), registry)[0]


def faults() -> Iterator[Any]:
    registry = builtin_registry()
    for op in registry.ops().values():
        subject = subject_of(op, registry, op.reference, None)
        for argument in inspect.signature(op.reference).parameters:
            for value in constants(op, argument, subject):
                if (op.name, argument) not in NOT_SAID:
                    yield pytest.param(op, argument, setter(argument, value), id=f"{op.name}-{argument}={value!r:.40}")
        for name, change in TAKEN_FOR_GRANTED.get(op.name, {}).items():
            yield pytest.param(op, name, change, id=f"{op.name}-{name}")


@pytest.mark.parametrize(("op", "argument", "change"), list(faults()))
def test_a_kernel_that_takes_an_argument_for_granted_fails(
    registry: Registry, op: Op, argument: str, change: Change
) -> None:
    def ignores(*args: Any, **kwargs: Any) -> Tensor:
        call = passed(op, *args, **kwargs)
        change(call)
        return op.reference(**call)

    for phase in PHASES:
        for dtype in DTYPES:
            if dtype == torch.float32 and (op.name, argument) in SAME_IN_FLOAT32:
                continue
            assert fails(subject_of(op, registry, ignores, only(phase, dtype))), f"green in {phase} in {dtype}"


def fails(subject: KernelSubject) -> bool:
    try:
        equals_reference(subject)
    except CheckFailed:
        return True
    return False


def only(phase: Phase, dtype: torch.dtype) -> Callable[[Capabilities, Call], Verdict]:
    def supports(capabilities: Capabilities, call: Call) -> Verdict:
        return YES if (call.phase, call.dtype) == (phase, dtype) else no("another phase or dtype")

    return supports


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("op", "option", "plain"),
    [
        *(("attention", option, None) for option in ("window", "softcap", "sinks", "bias")),
        ("gate", "activation_scale", 1.0),
        ("gate", "limit", None),
        ("gate", "up_shift", 0.0),
        ("rms_norm", "eps", 1e-6),
        ("rms_norm", "scale_in_fp32", True),
        ("rms_norm", "weight_offset", 0.0),
    ],
)
def test_an_option_ignored_fails_where_the_others_are_refused(
    registry: Registry, op: str, option: str, plain: Any, phase: Phase
) -> None:
    known = registry.ops()[op]
    first = next(iter(known.examples(torch.float32, CPU))).static
    others = {"window", "softcap", "sinks", "bias", "limit", "up_shift", "activation_scale", "weight_offset"} - {option}

    def supports(capabilities: Capabilities, call: Call) -> Verdict:
        refused = [name for name in others if (call.static.get(name) or None) != (first.get(name) or None)]
        return no(f"has no {refused}") if refused or call.phase != phase else YES

    def ignores(*args: Any, **kwargs: Any) -> Tensor:
        return known.reference(*args, **{**kwargs, option: plain})

    with pytest.raises(CheckFailed, match=option):
        equals_reference(subject_of(known, registry, ignores, supports))


@pytest.mark.parametrize("phase", PHASES)
def test_nan_where_a_query_sees_nothing_fails(registry: Registry, phase: Phase) -> None:
    attention = registry.ops()["attention"]

    def nothing_is_nan(*args: Any, **kwargs: Any) -> Tensor:
        positions, keys = args[3], args[4]
        seen = visible(positions, keys.positions, kwargs.get("window")).any(-1, keepdim=True)
        return attention.reference(*args, **kwargs).where(seen, float("nan"))

    assert fails(subject_of(attention, registry, nothing_is_nan, only(phase, torch.float32)))
