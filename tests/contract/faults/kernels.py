"""Kernels for the ops ``attention``, ``linear`` and ``expert_linear`` with one fault each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blockzoo.kernels import YES, Call, Capabilities, Kernel, Layout, Verdict, no
from blockzoo.linear import EXPERT_LINEAR, linear_reference
from blockzoo.step import Keys
from blockzoo_blocks.ffn.gate import GATE
from blockzoo_blocks.mixers.attention import attention_reference


def supports(capabilities: Capabilities, call: Call) -> Verdict:
    return no("has no softcap") if call.static.get("softcap") is not None else YES


def attend(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
    assert options.get("softcap") is None
    return attention_reference(q, k, v, positions, keys, **options)


CONTROL = Kernel("control", attend, supports, backward=True, compile_safe=True)


def changes_its_input(q: Tensor, *args: Any, **options: Any) -> Tensor:
    scale = options.pop("scale")
    return attend(q.mul_(scale), *args, scale=1.0, **options)


def wrong_at_decode(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
    if q.shape[2] == 1:
        keys = Keys(torch.arange(k.shape[2]).expand(len(q), -1) + 1, True)
    return attend(q, k, v, positions, keys, **options)


def ignores_padding(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, keys: Keys, **options: Any) -> Tensor:
    return attend(q, k, v, positions, Keys(keys.positions.clamp(min=0), False), **options)


def other_dtype(*args: Any, **options: Any) -> Tensor:
    return attend(*args, **options).float()


def wrong_backward(q: Tensor, *args: Any, **options: Any) -> Tensor:
    y = attend(q, *args, **options)
    return y + (q - q.detach()) * 0.1


def drops_the_gradient_of_sinks(*args: Any, **options: Any) -> Tensor:
    sinks = options.pop("sinks", None)
    return attend(*args, sinks=None if sinks is None else sinks.detach(), **options)


def takes_memory_for_contiguous(q: Tensor, *args: Any, **options: Any) -> Tensor:
    return attend(torch.as_strided(q, q.shape, torch.empty(q.shape).stride()), *args, **options)


def looks_at_values(q: Tensor, *args: Any, **options: Any) -> Tensor:
    return attend(q, *args, **options) * (1 if q.sum().item() != 0.5 else 2)


def interleave(weight: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([t[0::2], t[1::2]]) for name, t in weight.items()}


def not_quite_back(weight: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.flip(0) for name, t in weight.items()}


def linear_over(weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: Any) -> Tensor:
    back = {name: torch.empty_like(t) for name, t in weight.items()}
    for name, t in weight.items():
        half = (len(t) + 1) // 2
        back[name][0::2], back[name][1::2] = t[:half], t[half:]
    return linear_reference(back, x, bias, quantizer=quantizer)


def unpacked_only(weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: Any) -> Tensor:
    return F.linear(x, weight["weight"], bias)


def without_quantizer(weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight["weight"], bias)


def without_bias(weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, *, quantizer: Any) -> Tensor:
    return linear_reference(weight, x, None, quantizer=quantizer)


def bias_for_granted(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, counts: Sequence[int], *, quantizer: Any
) -> Tensor:
    assert bias is not None
    return EXPERT_LINEAR.reference(weight, x, bias, counts, quantizer=quantizer)


def three_experts(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, counts: Sequence[int], *, quantizer: Any
) -> Tensor:
    first, second, third = counts
    return EXPERT_LINEAR.reference(weight, x, bias, [first, second, third], quantizer=quantizer)


def some_rows(
    weight: Mapping[str, Tensor], x: Tensor, bias: Tensor | None, counts: Sequence[int], *, quantizer: Any
) -> Tensor:
    busy = [expert for expert, count in enumerate(counts) if count]
    assert busy, "no expert has rows"
    return EXPERT_LINEAR.reference(weight, x, bias, counts, quantizer=quantizer)


def rounds_too_often(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    """The reference where it is wide; the result in steps of a sixty-fourth else."""
    y = GATE.reference(gate, up, **options)
    return y if y.dtype.itemsize > 2 else torch.ldexp(torch.frexp(y)[0].mul(256).round() / 256, torch.frexp(y)[1])


def rounds_once(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    """Without a fault: in float32, or wider, and cast at the end."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return GATE.reference(gate.to(wide), up.to(wide), **options).to(gate.dtype)


def without_the_tail(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    """Eight numbers at once, and never the rest."""
    y = GATE.reference(gate, up, **options).flatten()
    y[len(y) - len(y) % 8 :] = float("nan")
    return y.view_as(gate)


def overflows(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    """silu by a power of e that is infinite beyond 88."""
    if options != {"activation": "silu", "activation_scale": 1.0, "limit": None, "up_shift": 0.0}:
        return rounds_once(gate, up, **options)
    wide = gate.to(torch.promote_types(gate.dtype, torch.float32))
    return (wide * wide.exp() / (1 + wide.exp()) * up).to(gate.dtype)


def saturates(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    return GATE.reference(gate.clamp(-60, 60), up, **options)


def numbers_for_nan(gate: Tensor, up: Tensor, **options: Any) -> Tensor:
    """In bfloat16 alone."""
    return GATE.reference(gate.nan_to_num() if gate.dtype == torch.bfloat16 else gate, up, **options)


def never(capabilities: Capabilities, call: Call) -> Verdict:
    return no("has a softcap") if call.static.get("softcap") is not None else no("not on Sundays")


def always(capabilities: Capabilities, call: Call) -> Verdict:
    return YES


def asks_for_the_quantizer(capabilities: Capabilities, call: Call) -> Verdict:
    return no("reads plain weights only") if call.static["quantizer"] is not None else YES


def packed_alone(capabilities: Capabilities, call: Call) -> Verdict:
    return no("reads packed weights only") if call.static["quantizer"] is None else YES


def asks_for_what_nobody_says(capabilities: Capabilities, call: Call) -> Verdict:
    return no("has no sinks") if call.static["sink"] else YES


LAYOUT = Layout("odd rows last", interleave, not_quite_back)

# name of the fault -> op, kernel, check that must catch it
FAULTS: dict[str, tuple[str, Kernel, str]] = {
    "changes_its_input": ("attention", replace(CONTROL, function=changes_its_input), "leaves_inputs_alone"),
    "wrong_at_decode": ("attention", replace(CONTROL, function=wrong_at_decode), "equals_reference"),
    "ignores_padding": ("attention", replace(CONTROL, function=ignores_padding), "equals_reference"),
    "other_dtype": ("attention", replace(CONTROL, function=other_dtype), "equals_reference"),
    "dishonest_yes": ("attention", replace(CONTROL, supports=always), "equals_reference"),
    "dishonest_about_packed": ("linear", Kernel("plain", unpacked_only, always), "equals_reference"),
    "takes_no_quantizer": ("linear", Kernel("plain", without_quantizer, packed_alone), "equals_reference"),
    "for_another_op": ("attention", Kernel("plain", unpacked_only, asks_for_the_quantizer), "verdicts"),
    "calls_another_op": ("attention", Kernel("plain", unpacked_only, always), "equals_reference"),
    "bias_left_out": ("linear", Kernel("plain", without_bias, always), "equals_reference"),
    "bias_for_granted": ("expert_linear", Kernel("plain", bias_for_granted, always), "equals_reference"),
    "three_experts": ("expert_linear", Kernel("plain", three_experts, always), "equals_reference"),
    "some_rows": ("expert_linear", Kernel("plain", some_rows, always), "equals_reference"),
    "rounds_too_often": ("gate", Kernel("coarse", rounds_too_often, always), "equals_reference"),
    "tail_left_out": ("gate", Kernel("eights", without_the_tail, always, builds_itself=True), "equals_reference"),
    "overflows": ("gate", Kernel("powers", overflows, always), "extremes"),
    "saturates": ("gate", Kernel("flat", saturates, always), "extremes"),
    "numbers_for_nan": ("gate", Kernel("numbers", numbers_for_nan, always), "extremes"),
    "no_verdict": ("attention", replace(CONTROL, supports=lambda c, call: True), "equals_reference"),  # type: ignore
    "serves_nothing": ("attention", replace(CONTROL, supports=never), "equals_reference"),
    "static_nobody_gives": ("attention", replace(CONTROL, supports=asks_for_what_nobody_says), "verdicts"),
    "no_without_reason": ("attention", replace(CONTROL, supports=lambda c, call: Verdict(False)), "verdicts"),
    "wrong_backward": ("attention", replace(CONTROL, function=wrong_backward), "backward"),
    "sinks_without_gradient": ("attention", replace(CONTROL, function=drops_the_gradient_of_sinks), "backward"),
    "contiguous_only": ("attention", replace(CONTROL, function=takes_memory_for_contiguous), "strided_inputs"),
    "not_compile_safe": ("attention", replace(CONTROL, function=looks_at_values), "compiles"),
    "layout_does_not_come_back": ("linear", Kernel("odd", linear_over, always, layout=LAYOUT), "layout_round_trip"),
}
