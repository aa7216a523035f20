"""The suite bites: planted faults, each caught by the check of its name, in one readable line.

Beside each faulty thing the same check passes on the faultless one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from types import new_class
from typing import Any

import pytest
import torch
from torch import Tensor

from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.family import Family
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo.kernels import YES, Example, no
from blockzoo.registry import Component, Registrar, Registry
from blockzoo.testing import Check, CheckFailed, CheckSkipped, checks_of, ops, packages
from blockzoo_blocks.mixers.attention import ATTENTION
from blockzoo_gpt2.family import GPT2
from tests.conftest import builtin_registry
from tests.contract.faults import blocks, kernels, mixers, quantizers

ROOT = Path(__file__).resolve().parents[2]
CONTROLS: dict[str, type[BlockConfig]] = {
    "mixer": mixers.Attention,
    "norm": blocks.Norm,
    "ffn": blocks.FFN,
    "residual": blocks.Residual,
    "position": blocks.Position,
    "quantizer": quantizers.Quantizer,
}


def faulty_blocks() -> list[Any]:
    found = [v for module in (mixers, blocks, quantizers) for v in vars(module).values() if isinstance(v, type)]
    faults = [thing for thing in found if issubclass(thing, BlockConfig) and thing.__dict__.get("caught_by")]
    return [pytest.param(thing, id=f"{thing.kind}-{thing.__name__}-{thing.caught_by}") for thing in faults]


def registered(kind: str, name: str, thing: Any) -> tuple[Component, Registry]:
    registry = builtin_registry()
    registrar = Registrar(registry, "faults")
    if kind == "kernel":
        registrar.kernel(thing[0], replace(thing[1], name=name))
    else:
        registrar.block(kind, name, thing)
    registrar.commit()
    return Component(kind, name, "faults"), registry


def check_of(kind: str, name: str, thing: Any, check: str) -> Check:
    (found,) = [c for c in checks_of(*registered(kind, name, thing)) if c.name == check]
    return found


def caught(check: Check) -> str:
    """The message of a check that must fail."""
    with pytest.raises(CheckFailed) as failure:
        check.run()
    message = str(failure.value)
    assert "\n" not in message
    assert 20 < len(message) < 500
    assert "Traceback" not in message
    return message


def control_of(fault: type[BlockConfig]) -> type[BlockConfig]:
    """The same samples of the same kind of block, without the fault."""
    control = CONTROLS[fault.kind]
    if "samples" not in fault.__dict__:
        return control
    samples = {"samples": classmethod(fault.samples.__func__)}  # type: ignore[attr-defined]
    return new_class("Control", (control,), exec_body=lambda namespace: namespace.update(samples))


@pytest.mark.parametrize("fault", faulty_blocks())
def test_a_faulty_block_is_caught_by_name(fault: Any) -> None:
    if fault.caught_by != "config_round_trip":  # that one's sample is its fault
        check_of(fault.kind, "control", control_of(fault), fault.caught_by).run()
    message = caught(check_of(fault.kind, "faulty", fault, fault.caught_by))
    assert re.match(r"(sample \d of \d: )?faulty\(", message)


def test_a_quantizer_of_wide_groups_passes_every_check() -> None:
    for check in checks_of(*registered("quantizer", "wide", quantizers.WideGroups)):
        check.run()


def test_bits_of_scales_are_not_taken_for_precision() -> None:
    for check in ("precision", "error_bound", "packed_size"):
        check_of("quantizer", "costly", quantizers.CostlyScales, check).run()
    message = caught(check_of("quantizer", "costly", quantizers.CostlyScalesUnbounded, "precision"))
    assert "bits of scales cost as much as bits of codes" in message


def test_rows_that_move_are_not_called_zeros_that_change() -> None:
    message = caught(check_of("quantizer", "moved", quantizers.RowsMoveByOne, "extremes"))
    assert "row 2 does: rows change places" in message


@pytest.mark.parametrize("name", kernels.FAULTS)
def test_a_faulty_kernel_is_caught_by_name(name: str) -> None:
    op, kernel, check = kernels.FAULTS[name]
    if check != "layout_round_trip":
        check_of("kernel", "control", ("attention", kernels.CONTROL), check).run()
    assert caught(check_of("kernel", name, (op, kernel), check)).startswith(f"{name} on cpu")


def test_a_kernel_that_forgets_packed_weights_is_told_what_to_do() -> None:
    op, kernel, _ = kernels.FAULTS["dishonest_about_packed"]
    for check in ("equals_reference", "strided_inputs", "leaves_inputs_alone"):
        message = caught(check_of("kernel", "plain", (op, kernel), check))
        assert "KeyError: 'weight'; the weight is packed, as 'codes', 'scales': say no" in message
        assert message.endswith("where call.static['quantizer'] is not one you read")
    op, kernel, check = kernels.FAULTS["static_nobody_gives"]
    assert "read it by call.static.get('sink')" in caught(check_of("kernel", "asks", (op, kernel), check))


def test_a_kernel_of_which_nothing_is_served_fails_with_every_reason_unless_it_waits_for_another_device() -> None:
    op, kernel, check = kernels.FAULTS["serves_nothing"]
    assert "not on Sundays; has a softcap; decide by" in caught(check_of("kernel", "never", (op, kernel), check))
    waits = replace(kernels.CONTROL, supports=lambda c, call: YES if c.device == "cuda" else no("needs a GPU"))
    if not torch.cuda.is_available():
        with pytest.raises(CheckSkipped, match="another device than cpu: needs a GPU"):
            check_of("kernel", "waits", (op, waits), check).run()


def test_a_bias_left_out_is_not_blamed_on_the_quantizer() -> None:
    op, kernel, check = kernels.FAULTS["bias_left_out"]
    message = caught(check_of("kernel", "plain", (op, kernel), check))
    assert message.startswith("plain on cpu: '1 x 32 -> 48, bias' in")
    assert message.endswith("; does it add the bias?")


def draws_anew(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    for example in ATTENTION.examples(dtype, device):
        q, *rest = example.args
        yield replace(example, args=(torch.randn_like(q), *rest))


def says_nothing(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    return (replace(example, static={}) for example in ATTENTION.examples(dtype, device))


def scales_in_place(q: Tensor, *args: Any, **options: Any) -> Tensor:
    return ATTENTION.reference(q.mul_(1.5), *args, **options)


@pytest.mark.parametrize(
    ("check", "changes", "words"),
    [
        (ops.tolerances, {"tolerances": {torch.float32: 1e-5}}, "lacks a tolerance for float32 or bfloat16"),
        (ops.examples, {"examples": draws_anew}, "seed a generator"),
        (ops.examples, {"examples": says_nothing}, "the statics say nothing of head_dim"),
        (ops.pure, {"reference": scales_in_place}, "the second call gives another output"),
    ],
)
def test_a_faulty_op_is_caught_by_name(check: Any, changes: dict[str, Any], words: str) -> None:
    check(ops.OpSubject(ATTENTION))
    wrong = Check("op/attention", check.__name__, check, lambda: ops.subjects_of(replace(ATTENTION, **changes)))
    assert words in caught(wrong)


def family_check(family: Family, check: str) -> Check:
    registry = builtin_registry()
    registry.things["family", "gpt2", "gpt2"] = family
    (found,) = [c for c in checks_of(Component("family", "gpt2", "gpt2"), registry) if c.name == check]
    return found


def swapped_keys() -> KeyMap:
    """Queries where keys should be, when loading and when saving: the files come back all the same."""

    def swap(rule: Rule) -> Rule:
        names = tuple(t.translate(str.maketrans("qk", "kq")) if ".mixer." in t else t for t in rule.canonical)
        return replace(rule, canonical=names)

    keys = GPT2.layouts["hf"].keys
    return replace(keys, rules=tuple(swap(rule) for rule in keys.rules))


def takes_any_key(values: Mapping[str, Any]) -> dict[str, Any]:
    return GPT2.layouts["hf"].read_config({key: value for key, value in values.items() if key != "no_such_key"})


def drops_the_activation(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a key as it stands, and makes nothing of it."""
    return GPT2.layouts["hf"].read_config({k: v for k, v in values.items() if k != "activation_function"})


def no_dropout(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same number whatever the file says, which the sample leaves out."""
    return GPT2.layouts["hf"].read_config({**values, "attn_pdrop": 0.1})


def trips_over_null(values: Mapping[str, Any]) -> dict[str, Any]:
    """Looks a word up that may be null."""
    activation = values.get("activation_function", "gelu_new")
    known = {word: word for word in ("gelu", "gelu_new", "relu", "silu", "no_such_word")}
    return GPT2.layouts["hf"].read_config({**values, "activation_function": known[activation]})


def no_norm_weights() -> KeyMap:
    """Takes the final norm's bias for something without weight, when loading."""
    keys = GPT2.layouts["hf"].keys
    return replace(keys, weightless=(*keys.weightless, "no.such.weight"))


def final_norm(*bias: Rule) -> KeyMap:
    """The final norm's bias by other rules than its own."""
    keys = GPT2.layouts["hf"].keys
    return replace(keys, rules=(*(rule for rule in keys.rules if not rule.stored.endswith("ln_f.bias")), *bias))


@pytest.mark.parametrize(
    ("check", "changes", "words"),
    [
        (
            "comes_back",
            {"keys": final_norm(same("b", "head.norm.bias"), same("c", "head.norm.bias"))},
            "rules 'b' and 'c' both fill 'head.norm.bias': give each its own canonical name",
        ),
        (
            "comes_back",
            {"keys": final_norm(same("{prefix}ln_f.weight", "head.norm.bias"))},
            "rules for 'head.norm.weight' and 'head.norm.bias' both read 'transformer.ln_f.weight'",
        ),
        ("recorded_logits", {"keys": swapped_keys()}, "logits differ"),
        ("unknown_keys", {"read_config": takes_any_key}, "in silence"),
        ("every_value_counts", {"read_config": drops_the_activation}, "'activation_function' may have any value"),
        ("every_value_counts", {"read_config": no_dropout}, "'attn_pdrop' may have any value"),
        ("every_value_counts", {"read_config": trips_over_null}, "'activation_function' as null raises KeyError: None"),
        ("every_key_once", {"keys": no_norm_weights()}, "too many in silence"),
        ("recognized", {"recognizes": lambda values: True}, "look for your model_type"),
    ],
)
def test_a_faulty_family_is_caught_by_name(check: str, changes: dict[str, Any], words: str) -> None:
    family_check(GPT2, check).run()
    wrong = replace(GPT2, layouts={"hf": replace(GPT2.layouts["hf"], **changes)})
    assert words in caught(family_check(wrong, check))


def test_a_faulty_package_is_caught_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entry = EntryPoint("faults", "tests.contract.faults.package", "blockzoo.plugins")
    package = packages.Package("faults", builtin_registry())
    monkeypatch.setattr(packages.Package, "entry", lambda self: entry)
    for function, words in (
        (packages.imports_fast, "import what is heavy inside functions"),
        (packages.touches_no_network, "opens the network"),
        (packages.leaves_global_state_alone, "torch's default dtype"),
    ):
        check = Check("package/faults", function.__name__, function, lambda: [package])
        assert words in caught(check)


def test_there_are_many_faults() -> None:
    assert len(faulty_blocks()) + len(kernels.FAULTS) >= 90
