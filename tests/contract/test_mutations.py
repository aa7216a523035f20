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
from pydantic import BaseModel
from torch import Tensor

from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.config_json import ConfigJSON
from blockzoo.checkpoints.family import Family, Sample
from blockzoo.checkpoints.keymap import KeyMap, Rule, same
from blockzoo.config.schema import ModelConfig
from blockzoo.kernels import YES, Example, Kernel, no
from blockzoo.registry import Component, Registrar, Registry
from blockzoo.testing import Check, CheckFailed, CheckSkipped, checks_of, configs, ops, packages
from blockzoo.testing import kernels as kernel_checks
from blockzoo.testing.check import error_of
from blockzoo.testing.suite import BY_KIND
from blockzoo.words import title
from blockzoo_blocks.ffn.gate import GATE
from blockzoo_blocks.mixers.attention import ATTENTION
from blockzoo_blocks.norms.rms_norm import RMS_NORM
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


class InnerKeys(BaseModel):
    """A section of a block, with a method of the same name."""

    def keys(self, of: int) -> int:
        return of


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
        if check.name != "options_tried":
            check.run()


def test_a_quantizer_with_a_scale_for_each_row_passes_every_check() -> None:
    for check in checks_of(*registered("quantizer", "rows", quantizers.ScaleOfARow)):
        check.run()


def test_scales_that_rows_or_experts_share_are_told_in_one_sentence() -> None:
    words = "'scales' has 1 row for 16 rows of the weight: rows are packed independently, repeat what rows share"
    for check in ("rows_alone", "packed_size", "matrix_products", "in_qwen3"):
        assert caught(check_of("quantizer", "blocks", quantizers.ScalesOfBlocksOfRows, check)).endswith(words)
    message = caught(check_of("quantizer", "shared", quantizers.ScalesSharedByExperts, "matrix_products"))
    assert "'scales' has 1 expert for 3 experts of the weight: experts are packed independently" in message


def test_padding_of_a_rows_end_is_no_bits_a_weight() -> None:
    check_of("quantizer", "padded", quantizers.PaddedRows, "packed_size").run()


def test_bits_of_scales_are_not_taken_for_precision() -> None:
    for check in ("precision", "error_bound", "packed_size"):
        check_of("quantizer", "costly", quantizers.CostlyScales, check).run()
    message = caught(check_of("quantizer", "costly", quantizers.CostlyScalesUnbounded, "precision"))
    assert "bits of scales cost as much as bits of codes" in message


def test_of_linears_that_are_multiplied_one_is_the_output_and_of_normed_ones_none() -> None:
    check_of("ffn", "gated", blocks.LinearGate, "output_role").run()
    with pytest.raises(CheckSkipped, match="no linear stands last"):
        check_of("ffn", "normed", blocks.NormedOutput, "output_role").run()
    assert "'other.weight' writes" in caught(check_of("ffn", "two", blocks.TwoOutputs, "output_role"))


def test_an_option_that_does_nothing_is_told_and_no_other() -> None:
    for thing in (blocks.TakesAnActivation, blocks.ActivatesInTraining, blocks.AnotherWayToTheSame):
        check_of("ffn", "takes", thing, "options_count").run()
    message = caught(check_of("ffn", "forgets", blocks.ForgetsTheActivation, "options_count"))
    assert message.startswith("sample 2 of 2: forgets(activation='relu'): 'activation' does nothing: 'relu' and the")


def test_zero_points_that_reach_to_zero_pass_at_every_edge() -> None:
    for check in ("error_bound", "precision", "extremes"):
        check_of("quantizer", "zeros", quantizers.ZeroPoints, check).run()
    for thing, check, words in (
        (quantizers.RangeWithoutZero, "error_bound", r"a weight of 1\S* is off by "),
        (quantizers.LimitOfOneSign, "extremes", r"weights from -8\.38861e\+06 to 8\.38861e\+06 in a group do not come"),
    ):
        assert re.search(words, caught(check_of("quantizer", "edge", thing, check)))


def test_an_option_of_a_section_that_does_nothing_is_told_by_its_path() -> None:
    message = caught(check_of("ffn", "part", blocks.ForgetsPartOfASection, "options_count"))
    assert message.startswith("sample 2 of 2: part(around=Around): 'around.shift' does nothing: 1.0 and the default")


def test_a_quantizers_option_that_does_nothing_is_told() -> None:
    message = caught(check_of("quantizer", "idle", quantizers.GroupSizeIgnored, "options_count"))
    assert "'group_size' does nothing: 16 and the default pack and unpack every weight tried alike" in message


def test_the_first_number_that_does_not_come_back_is_told_by_its_place() -> None:
    message = caught(check_of("quantizer", "off", quantizers.OffByOneCode, "exact_on_its_own_values"))
    assert re.search(r"does not come back: \S+ becomes \S+ \(row 0, input \d+\)$", message)


def test_a_position_that_is_not_heeded_is_told_with_what_to_do() -> None:
    message = caught(check_of("mixer", "blind", mixers.TurnsNothing, "position_counts"))
    assert " with Rope: takes positions of form 'rotating', but any two of them give the same outputs" in message
    assert "self.position.rotate(q, k, step); or take 'rotating' out of `positions`" in message
    message = caught(check_of("mixer", "blind", mixers.BiasLeftOut, "position_counts"))
    assert "add bias=self.position.bias(step.positions, keys.positions) to the call" in message


def test_logits_are_judged_by_the_digits_recorded() -> None:
    def recorded(digits: int) -> Check:
        layout = GPT2.layouts["hf"]
        samples = tuple(
            replace(s, logits=s.logits and tuple(round(x, digits) for x in s.logits)) for s in layout.samples
        )
        return family_check(replace(GPT2, layouts={"hf": replace(layout, samples=samples)}), "recorded_logits")

    recorded(5).run()
    assert "too few digits to show a mistake" in caught(recorded(1))


def test_an_option_of_a_sample_that_cannot_be_stacked_is_tried_without_what_forbids_it() -> None:
    check_of("ffn", "control", blocks.FFN, "stacks").run()
    message = caught(check_of("ffn", "in_part", blocks.StacksInPart, "stacks"))
    assert message.startswith("sample 2 of 2: in_part(gain=True, twice=True): stacked experts differ from single ones")
    assert "pass *which on to every matrix (tried without 'gain') (TypeError: " in message
    (check,) = [c for c in checks_of(Component("ffn", "moe", "blocks"), builtin_registry()) if c.name == "stacks"]
    with pytest.raises(CheckSkipped, match="stackable = False"):
        check.run()


def test_activations_handed_on_are_no_table_of_another_layer() -> None:
    check_of("mixer", "values", mixers.HandsValuesOn, "tables_are_its_own").run()


def test_a_table_that_fits_no_other_layer_is_told_by_its_key() -> None:
    message = caught(check_of("mixer", "wide", mixers.OneTableOfAnotherWidth, "tables_are_its_own"))
    assert re.search(r"widen its table keys, 'factors', .* \(RuntimeError: .*faults/mixers\.py:\d+\)", message)


def test_a_property_where_a_class_is_asked_is_told_so() -> None:
    message = caught(check_of("norm", "computed", blocks.ComputesWhatGrows, "declarations"))
    assert message.endswith("`scales` is a property: it must be a class variable, for it is read without an instance")


def test_a_declaration_of_no_word_is_told_the_nearest() -> None:
    for kind, thing, words in (
        (
            "mixer",
            mixers.PositionsMisspelt,
            "has 'rotary', which is no form of position; accepted: additive, biasing, none, rotating",
        ),
        ("norm", blocks.GrowsAnOptionThatItLacks, "scales names 'epz', which is no option; did you mean 'eps'?"),
        ("norm", blocks.GrowsBySomethingUnknown, "scales says 'eps' grows by 'heads'; accepted: d_ff, experts, width"),
    ):
        assert words in caught(check_of(kind, "misspelt", thing, "declarations"))


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
        assert re.search(
            r"KeyError: 'weight' \(.*kernels\.py:\d+\); the weight is packed, as 'codes', 'scales': say", message
        )
        assert message.endswith("where call.static['quantizer'] is not one you read")
    op, kernel, check = kernels.FAULTS["static_nobody_gives"]
    assert "read it by call.static.get('sink')" in caught(check_of("kernel", "asks", (op, kernel), check))


def test_what_a_kernel_takes_for_granted_is_told_by_its_line() -> None:
    for name, words in (
        ("bias_for_granted", r"'counts \[2, 2, 2\]' in torch.float64: .* AssertionError: assert bias is not None"),
        ("three_experts", r"'counts \[3, 0, 2, 0, 1\]' in .* ValueError: too many values to unpack"),
        ("some_rows", r"'counts \[0, 0, 0\], bias' in .* AssertionError: no expert has rows"),
    ):
        op, kernel, check = kernels.FAULTS[name]
        message = caught(check_of("kernel", name, (op, kernel), check))
        assert re.search(rf"{words}.* \(.*faults/kernels\.py:\d+\)", message), message


def test_a_supports_without_a_verdict_is_told_so_by_every_check() -> None:
    op, kernel, _ = kernels.FAULTS["no_verdict"]
    for check in checks_of(*registered("kernel", "says_true", (op, kernel))):
        if check.name not in ("layout_round_trip", "examples_tried"):  # skipped: it has none; never fails
            assert "supports() gives True, not a Verdict: YES, or no('why')" in caught(check)


def test_a_kernel_for_a_misspelt_op_is_told_the_nearest() -> None:
    message = caught(check_of("kernel", "far", ("experts_linear", kernels.CONTROL), "verdicts"))
    assert message.endswith("is for op 'experts_linear', which nobody registers; did you mean 'expert_linear'?")


def fits_outside_the_compiler(q: Tensor, *args: Any, **options: Any) -> Tensor:
    """Shapes that don't match are what the compiler tells of in its log, line by line."""
    y = ATTENTION.reference(q, *args, **options)
    return y + (q @ q).sum() if torch.compiler.is_compiling() else y


def test_a_compiler_that_fails_logs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    kernel = replace(kernels.CONTROL, function=fits_outside_the_compiler)
    assert "making fake tensor call" in caught(check_of("kernel", "outside", ("attention", kernel), "compiles"))
    assert capfd.readouterr().err == ""


def test_a_kernel_of_which_nothing_is_served_fails_with_every_reason_unless_it_waits_for_another_device() -> None:
    op, kernel, check = kernels.FAULTS["serves_nothing"]
    assert "not on Sundays; has a softcap; decide by" in caught(check_of("kernel", "never", (op, kernel), check))
    waits = replace(kernels.CONTROL, supports=lambda c, call: YES if c.device == "cuda" else no("needs a GPU"))
    if not torch.cuda.is_available():
        with pytest.raises(CheckSkipped, match="another device than cpu: needs a GPU"):
            check_of("kernel", "waits", (op, waits), check).run()


@pytest.mark.parametrize("name", ["for_another_op", "calls_another_op"])
def test_a_kernel_registered_for_another_op_is_told_so(name: str) -> None:
    op, kernel, check = kernels.FAULTS[name]
    message = caught(check_of("kernel", "mine", (op, kernel), check))
    assert message.startswith("mine on cpu for `attention`: ")
    assert "it is registered for `attention`; " in message
    keys = "`quantizer` is a key of" if name == "for_another_op" else "its function takes the arguments of"
    assert re.search(rf"{keys} .*`linear`.*: name the op it is for in registry\.kernel", message)


def test_a_kernel_without_an_argument_by_name_is_told_to_take_it() -> None:
    op, kernel, check = kernels.FAULTS["takes_no_quantizer"]
    message = caught(check_of("kernel", "mine", (op, kernel), check))
    assert message.endswith("its function lacks `quantizer`, which calls of `linear` pass by name: take `*, quantizer`")


def test_a_bias_left_out_is_not_blamed_on_the_quantizer() -> None:
    op, kernel, check = kernels.FAULTS["bias_left_out"]
    message = caught(check_of("kernel", "plain", (op, kernel), check))
    assert message.startswith("plain on cpu for `linear`: '1 x 32 -> 48, bias' in")
    assert message.endswith("; it ignores `bias`")


def test_a_kernel_that_rounds_less_often_than_the_reference_passes() -> None:
    half = {example.name: example for example in GATE.examples(torch.float16, torch.device("cpu"))}
    example = half["clamped, (1,)"]
    reference, once = (f(*example.args, **example.kwargs) for f in (GATE.reference, kernels.rounds_once))
    assert error_of(once, reference) > GATE.tolerances[torch.float16]
    once_rounded = Kernel("once", kernels.rounds_once, kernels.always, backward=True)
    for check in ("equals_reference", "backward"):
        check_of("kernel", "once", ("gate", once_rounded), check).run()


def test_what_becomes_of_large_inputs_and_of_nan_is_told() -> None:
    for name, words in (
        ("overflows", "`gate` up to 10000: gives nan where the reference gives "),
        ("saturates", "does a number saturate?"),
        ("numbers_for_nan", "of a NaN, and the reference NaN: fminf, fmaxf and comparisons drop it"),
    ):
        op, kernel, check = kernels.FAULTS[name]
        assert words in caught(check_of("kernel", name, (op, kernel), check))
        check_of("kernel", name, (op, kernel), "equals_reference").run()
    once = Kernel("once", kernels.rounds_once, kernels.always)
    check_of("kernel", "once", ("gate", once), "extremes").run()


def test_a_kernel_that_builds_itself_is_told_on_how_few_examples_it_is_tried() -> None:
    op, kernel, _ = kernels.FAULTS["tail_left_out"]
    with pytest.raises(CheckSkipped, match=r"tried on 3 of 30 examples in torch.float64, as it declares builds_itself"):
        check_of("kernel", "eights", (op, kernel), "examples_tried").run()
    check_of("kernel", "control", ("attention", kernels.CONTROL), "examples_tried").run()


def test_a_kernel_that_rounds_too_often_is_told_where_to_round() -> None:
    op, kernel, check = kernels.FAULTS["rounds_too_often"]
    message = caught(check_of("kernel", "coarse", (op, kernel), check))
    assert " in torch.float16: is " in message
    assert message.endswith("compute in float32, round once, or say no to torch.float16")
    late = Kernel("late", rounds_late, kernels.always)
    message = caught(check_of("kernel", "late", ("rms_norm", late), check))
    assert message.endswith("; it ignores `scale_in_fp32`: heed it, or say no to it in supports()")


def test_what_sets_the_failing_examples_apart_is_told() -> None:
    def at_two(*args: Any, limit: float | None, **options: Any) -> Tensor:
        return GATE.reference(*args, limit=None if limit is None else 2.0, **options)

    def shift_has_no_gradient(gate: Tensor, up: Tensor, *, up_shift: float, **options: Any) -> Tensor:
        plain = GATE.reference(gate, up, up_shift=0.0, **options)
        return plain + (GATE.reference(gate, up, up_shift=up_shift, **options) - plain).detach()

    for function, check, words in (
        (at_two, "equals_reference", "so is every example with `limit` 1.5, and no other"),
        (shift_has_no_gradient, "backward", "so is every example with `up_shift` 1.0, and no other"),
    ):
        half = Kernel("half", function, kernels.always, backward=True)
        assert caught(check_of("kernel", "half", ("gate", half), check)).endswith(f"; {words}")


def rounds_late(x: Tensor, weight: Tensor, *, scale_in_fp32: bool, **options: Any) -> Tensor:
    return RMS_NORM.reference(x, weight, scale_in_fp32=True, **options)


def test_an_option_is_blamed_only_where_the_kernel_ignores_it() -> None:
    def faulty(function: Any) -> str:
        kernel = replace(kernels.CONTROL, function=function, supports=kernels.always)
        return caught(check_of("kernel", "mine", ("attention", kernel), "equals_reference"))

    def without(*names: str) -> Any:
        return lambda *args, **options: ATTENTION.reference(
            *args, **{name: value for name, value in options.items() if name not in names}
        )

    assert "; it ignores `window`: heed it, or say no to it" in faulty(without("window"))
    three = faulty(without("window", "sinks", "softcap", "bias"))
    assert "it ignores" in three
    wrong_at_sinks = faulty(
        lambda *args, sinks=None, **options: ATTENTION.reference(
            *args, sinks=None if sinks is None else -sinks, **options
        )
    )
    assert "ignores" not in wrong_at_sinks


def draws_anew(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    for example in ATTENTION.examples(dtype, device):
        q, *rest = example.args
        yield replace(example, args=(torch.randn_like(q), *rest))


def says_nothing(dtype: torch.dtype, device: torch.device) -> Iterator[Example]:
    return (replace(example, static={}) for example in ATTENTION.examples(dtype, device))


def scales_in_place(q: Tensor, *args: Any, **options: Any) -> Tensor:
    return ATTENTION.reference(q.mul_(1.5), *args, **options)


OP_FAULTS: list[tuple[Any, dict[str, Any], str]] = [
    (ops.tolerances, {"tolerances": {torch.float32: 1e-5}}, "lacks a tolerance for float32 or bfloat16"),
    (ops.examples, {"examples": draws_anew}, "seed a generator"),
    (ops.examples, {"examples": says_nothing}, "the statics say nothing of head_dim"),
    (ops.pure, {"reference": scales_in_place}, "the second call gives another output"),
]


@pytest.mark.parametrize(("check", "changes", "words"), OP_FAULTS)
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


def drops_a_key_that_no_sample_has(values: Mapping[str, Any]) -> dict[str, Any]:
    ConfigJSON(values).number("hidden_dropout", default=0.0)
    return GPT2.layouts["hf"].read_config({k: v for k, v in values.items() if k != "hidden_dropout"})


def refuses_a_key_that_no_sample_has(values: Mapping[str, Any]) -> dict[str, Any]:
    keys = ConfigJSON(values)
    keys.must_be("hidden_dropout", 0.0, 0)
    if keys.problems:
        keys.fail("hidden_dropout", "is more")
    return drops_a_key_that_no_sample_has(values)


def trips_over_null(values: Mapping[str, Any]) -> dict[str, Any]:
    """Looks a word up that may be null."""
    activation = values.get("activation_function", "gelu_new")
    known = {word: word for word in ("gelu", "gelu_new", "relu", "silu", "no_such_word")}
    return GPT2.layouts["hf"].read_config({**values, "activation_function": known[activation]})


def a_window_by_default(values: Mapping[str, Any]) -> dict[str, Any]:
    """A window where the file says null."""
    return with_window(values, ConfigJSON(values).integer("sliding_window", default=16))


def with_window(values: Mapping[str, Any], window: int | None) -> dict[str, Any]:
    config = GPT2.layouts["hf"].read_config({k: v for k, v in values.items() if k != "sliding_window"})
    mixer = config["layers"]["mixer"]
    for one in mixer.get("list", [mixer]):
        one["window"] = window
    return config


def no_window_by_null(values: Mapping[str, Any]) -> dict[str, Any]:
    return with_window(values, None) if ConfigJSON(values).is_null("sliding_window") else a_window_by_default(values)


def writes_the_window(config: ModelConfig) -> dict[str, Any]:
    return {**GPT2.layouts["hf"].write_config(config), "sliding_window": config.layers[0].mixer.window}  # type: ignore


def writes_another_eps(config: ModelConfig) -> dict[str, Any]:
    return {**GPT2.layouts["hf"].write_config(config), "layer_norm_epsilon": 1e-3}


def another_rule() -> KeyMap:
    """For a tensor that GPT-2 has not."""
    keys = GPT2.layouts["hf"].keys
    return replace(keys, rules=(*keys.rules, same("h.{layer}.attn.sinks", "layers.{layer}.mixer.sinks")))


def heads_that_do_not_divide(values: Mapping[str, Any]) -> dict[str, Any]:
    config = GPT2.layouts["hf"].read_config(values)
    config["layers"]["mixer"]["n_heads"] += 1
    return config


def no_norm_weights() -> KeyMap:
    """Takes the final norm's bias for something without weight, when loading."""
    keys = GPT2.layouts["hf"].keys
    return replace(keys, weightless=(*keys.weightless, "no.such.weight"))


def final_norm(*bias: Rule) -> KeyMap:
    """The final norm's bias by other rules than its own."""
    keys = GPT2.layouts["hf"].keys
    return replace(keys, rules=(*(rule for rule in keys.rules if not rule.stored.endswith("ln_f.bias")), *bias))


FAMILY_FAULTS: list[tuple[str, dict[str, Any], str]] = [
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
    (
        "config_round_trip",
        {"write_config": writes_another_eps},
        "a config written and read again differs in head, layers",
    ),
    ("unknown_keys", {"read_config": takes_any_key}, "in silence"),
    ("every_value_counts", {"read_config": drops_the_activation}, "'activation_function' may have any value"),
    ("every_value_counts", {"read_config": no_dropout}, "'attn_pdrop' may have any value"),
    (
        "every_key_counts",
        {"read_config": drops_a_key_that_no_sample_has},
        "read_config asks for config.json's 'hidden_dropout' and no sample has it; whatever is put there",
    ),
    ("null_is_none", {"read_config": trips_over_null}, "'activation_function' as null raises KeyError: None"),
    (
        "null_is_none",
        {"read_config": a_window_by_default, "write_config": writes_the_window},
        "'sliding_window' as null reads as its default, as if it were left out, though GQAConfig.window may",
    ),
    ("every_rule_counts", {"keys": another_rule()}, "for 1 of the rules, 'h.{layer}.attn.sinks': add a Sample"),
    (
        "comes_back",
        {"read_config": heads_that_do_not_divide},
        "sample 1 of 3: what read_config makes of config.json is no model: layers.mixer.n_heads",
    ),
    (
        "comes_back",
        {"read_config": heads_that_do_not_divide},
        "layers.mixer.n_heads comes from config.json's 'n_head'",
    ),
    ("every_key_once", {"keys": no_norm_weights()}, "too many in silence"),
    ("recognized", {"recognizes": lambda values: True}, "look for your model_type"),
    (
        "recognized",
        {"recognizes": lambda v: "n_embd" in v or "hidden_size" in v},
        "claims a config.json of gpt_oss (hf)",
    ),
]


@pytest.mark.parametrize(("check", "changes", "words"), FAMILY_FAULTS)
def test_a_faulty_family_is_caught_by_name(check: str, changes: dict[str, Any], words: str) -> None:
    family_check(GPT2, check).run()
    wrong = replace(GPT2, layouts={"hf": replace(GPT2.layouts["hf"], **changes)})
    assert words in caught(family_check(wrong, check))


@pytest.mark.parametrize(
    "changes",
    [
        {"read_config": no_window_by_null},
        {"read_config": a_window_by_default, "null_is_default": frozenset({"sliding_window"})},
    ],
    ids=["none", "said"],
)
def test_null_may_be_none_or_said_to_be_the_default(changes: dict[str, Any]) -> None:
    layout = replace(GPT2.layouts["hf"], write_config=writes_the_window, **changes)
    family_check(replace(GPT2, layouts={"hf": layout}), "null_is_none").run()


@pytest.mark.parametrize(
    "changes",
    [
        {"read_config": refuses_a_key_that_no_sample_has},
        {
            "read_config": drops_a_key_that_no_sample_has,
            "harmless": GPT2.layouts["hf"].harmless | {"hidden_dropout"},
        },
    ],
    ids=["refused", "harmless"],
)
def test_a_key_that_no_sample_has_may_be_refused_or_harmless(changes: dict[str, Any]) -> None:
    layout = replace(GPT2.layouts["hf"], **changes)
    family_check(replace(GPT2, layouts={"hf": layout}), "every_key_counts").run()


def test_without_finish_no_check_leads_astray() -> None:
    wrong = replace(GPT2, layouts={"hf": replace(GPT2.layouts["hf"], read_config=takes_any_key)})
    for check in ("every_value_counts", "every_key_counts", "null_is_none"):
        with pytest.raises(CheckSkipped, match=r"doesn't end with keys\.finish\(\).* see unknown_keys"):
            family_check(wrong, check).run()


def shared_norm(values: Mapping[str, Any]) -> dict[str, Any]:
    config = GPT2.layouts["hf"].read_config({key: value for key, value in values.items() if key != "shared"})
    return {**config, "residual": {"type": "parallel", "shared_norm": values.get("shared", False)}}


def test_a_rule_that_another_sample_needs_is_not_blamed() -> None:
    """Two rules share a stored name, one for a norm of both branches and one for the mixer's; another is missing."""
    layout = GPT2.layouts["hf"]
    first = layout.samples[0].config_json
    both = {part: same("{prefix}h.{layer}.ln_1." + part, "layers.{layer}.norm." + part) for part in ("weight", "bias")}
    rules = (*(rule for rule in layout.keys.rules if "ln_2" not in rule.stored), *both.values())
    broken = replace(
        layout,
        keys=replace(layout.keys, rules=rules),
        read_config=shared_norm,
        samples=(Sample({**first, "shared": True}), Sample(first)),
    )
    message = caught(family_check(replace(GPT2, layouts={"hf": broken}), "every_rule_counts"))
    assert "no place for these tensors: layers.0.ffn_norm.bias" in message
    assert "misspelt" not in message


def test_recorded_windows_that_show_nothing_are_refused() -> None:
    family = builtin_registry().families()["qwen3"]
    layout = family.layouts["hf"]
    wide = tuple(
        replace(sample, config_json={**sample.config_json, "sliding_window": 12})
        for sample in layout.samples
        if "sliding_window" in sample.config_json
    )
    registry = builtin_registry()
    registry.things["family", "qwen3", "qwen3"] = replace(family, layouts={"hf": replace(layout, samples=wide)})
    (check,) = [c for c in checks_of(Component("family", "qwen3", "qwen3"), registry) if c.name == "recorded_logits"]
    assert "windows of 12 or more, so they can't show a wrong one: record a sample with" in caught(check)


@pytest.mark.parametrize("check", ["compiles", "exports"])
def test_what_is_wrong_without_a_compiler_is_not_blamed_on_it(check: str) -> None:
    message = caught(check_of("ffn", "faulty", blocks.BareTensor, check))
    assert message.endswith("returns Tensor, not (y, aux): return (y, {})")


def test_somebody_elses_kernel_is_named() -> None:
    def doubled(q: Tensor, *args: Any, **options: Any) -> Tensor:
        return ATTENTION.reference(q * (1 + (q.shape[2] == 1)), *args, **options)

    registry = builtin_registry()
    registrar = Registrar(registry, "others")
    kernel = replace(kernels.CONTROL, name="fast", function=doubled, supports=kernels.always, priority=99)
    registrar.kernel("attention", kernel)
    registrar.commit()
    (check,) = [c for c in checks_of(Component("norm", "rms_norm", "blocks"), registry) if c.name == "in_qwen3"]
    message = caught(check)
    assert "decoding with a cache differs" in message
    assert "it passes without kernel 'fast' of plugin 'others': `blockzoo --plugins blocks plugins check" in message


def test_a_model_with_a_mixer_is_told_of_without_another_position() -> None:
    message = caught(check_of("mixer", "faulty", mixers.DropsAKeyHead, "in_qwen3"))
    assert " with " not in message.partition(": ")[0]
    assert re.search(r"\(.*faults/mixers\.py:\d+\)$", message)


PACKAGE_FAULTS: dict[str, list[tuple[Any, str]]] = {  # module -> the checks that catch it
    "package": [
        (packages.imports_fast, "import what is heavy inside functions"),
        (packages.touches_no_network, "opens the network"),
        (packages.leaves_global_state_alone, "torch's default dtype"),
    ],
    "package_twice": [(packages.registers_twice, "registers other things the second time")],
    "package_anew": [(packages.registers_twice, "package_anew.py:10: another object than in the call before; make it")],
}


@pytest.mark.parametrize("module", PACKAGE_FAULTS)
def test_a_faulty_package_is_caught_by_name(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    entry = EntryPoint("faults", f"tests.contract.faults.{module}", "blockzoo.plugins")
    package = packages.Package("faults", builtin_registry())
    monkeypatch.setattr(packages.Package, "entry", lambda self: entry)
    for function, words in PACKAGE_FAULTS[module]:
        check = Check("package/faults", function.__name__, function, lambda: [package])
        assert words in caught(check)


WITHOUT_A_FAULT = {
    packages.touches_no_gpu,  # takes a GPU
    packages.absence,  # of our registry's making
    configs.options_tried,  # never fails: see below
    kernel_checks.examples_tried,  # neither does this
}


def test_every_check_has_a_fault() -> None:
    planted = {(fault.values[0].kind, fault.values[0].caught_by) for fault in faulty_blocks()}
    planted |= {("kernel", check) for _, _, check in kernels.FAULTS.values()}
    planted |= {("family", check) for check, _, _ in FAMILY_FAULTS}
    found = {
        function
        for kind, functions in BY_KIND.items()
        for function in functions
        if (kind, function.__name__) in planted
    }
    found |= {
        function for function, *_ in (*OP_FAULTS, *(fault for faults in PACKAGE_FAULTS.values() for fault in faults))
    }
    owed = {function for functions in (packages.CHECKS, *BY_KIND.values()) for function in functions}
    assert {f"{f.__module__}.{f.__name__}" for f in owed - found - WITHOUT_A_FAULT} == set()


def test_a_config_with_a_method_named_as_a_mappings_is_none() -> None:
    for check in ("described", "config_round_trip", "config_errors", "copies", "options_count", "in_qwen3"):
        check_of("mixer", "keyed", mixers.HasKeys, check).run()
    assert title(InnerKeys(), builtin_registry()) == "InnerKeys"


def test_options_that_no_sample_sets_are_told() -> None:
    told = check_of("norm", "idle", blocks.GrowsAnOptionThatItLacks, "options_tried")
    with pytest.raises(
        CheckSkipped, match=r"^no sample sets eps to another value than the default: nothing tries it so$"
    ):
        told.run()
    check_of("norm", "none", blocks.Norm, "options_tried").run()


def test_widths_that_a_norm_refuses_are_skipped_visibly() -> None:
    for check in checks_of(*registered("norm", "pairs", blocks.NormsPairsAndSaysSo)):
        if check.name in ("any_width", "statics"):
            continue
        check.run()
    with pytest.raises(CheckSkipped, match=r"tried at 8, 24: refuses\(27\) says 'it norms pairs, found 27 features'"):
        check_of("norm", "pairs", blocks.NormsPairsAndSaysSo, "any_width").run()
    message = caught(check_of("norm", "pairs", blocks.NormsPairs, "any_width"))
    assert message.startswith("pairs(): at width 27: RuntimeError: ")
    assert message.endswith("make it work there, or have refuses(dim) say why it can't")


def test_there_are_many_faults() -> None:
    assert len(faulty_blocks()) + len(kernels.FAULTS) >= 90
