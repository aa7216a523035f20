"""Key maps by themselves: the same views serve loading and saving."""

from __future__ import annotations

import pytest
import torch

from blockzoo.checkpoints.keymap import KeyMap, Rule, Want, same
from blockzoo.errors import CheckpointError

GATE_UP = ("layers.{layer}.gate", "layers.{layer}.up")


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("axis", [-1, -2])
def test_views_are_the_parts(transposed: bool, interleaved: bool, axis: int) -> None:
    rule = Rule("x", ("a", "b"), transposed, axis, interleaved)
    a, b = torch.randn(3, 6, 4), torch.randn(3, 6, 4)
    shapes = [(3, 6, 4), (3, 6, 4)]
    stored = torch.zeros(rule.stored_shape(shapes))
    for view, part in zip(rule.views(stored, shapes), (a, b), strict=True):
        view.copy_(part)
    woven = torch.stack([a, b], dim=axis).flatten(axis - 1, axis)
    expected = woven if interleaved else torch.cat([a, b], dim=axis)
    assert torch.equal(stored, expected.transpose(-1, -2) if transposed else expected)


def test_parts_of_unequal_size() -> None:
    rule = Rule("qkv", ("q", "k", "v"), axis=-2)
    shapes = [(8, 5), (2, 5), (2, 5)]
    assert rule.stored_shape(shapes) == (12, 5)
    assert [tuple(view.shape) for view in rule.views(torch.zeros(12, 5), shapes)] == shapes


def test_entries_of_a_model() -> None:
    keys = KeyMap(
        rules=(
            same("{prefix}embed", "embedding"),
            Rule("{prefix}{layer}.gate_up", GATE_UP),
            same("{prefix}{layer}.e.{expert}", "layers.{layer}.experts[{expert}]"),
        ),
        prefixes=("model.", ""),
        weightless=("{prefix}{layer}.mask",),
    )
    wanted = {
        "embedding": Want((9, 4), None),
        "layers.0.gate": Want((6,), None),
        "layers.0.up": Want((6,), None),
        "layers.1.experts": Want((2, 6, 4), None),
    }
    found = {entry.stored: entry.shape for entry in keys.entries(wanted)}
    assert found == {"model.embed": (9, 4), "model.0.gate_up": (12,), "model.1.e.0": (6, 4), "model.1.e.1": (6, 4)}
    assert {entry.stored for entry in keys.entries(wanted, "")} >= {"embed", "1.e.1"}
    assert keys.prefix_of(["model.embed", "head"]) == "model."
    assert keys.prefix_of(["embed", "head"]) == ""
    assert keys.is_weightless("model.12.mask", "model.")
    assert not any(
        keys.is_weightless(name, "model.") for name in ("12.mask", "model..mask", "model.1.x.mask", "model.1.maskx")
    )
    with pytest.raises(CheckpointError, match=r"but the model has no layers\.0\.up"):
        keys.entries({"layers.0.gate": Want((6,), None)})
    with pytest.raises(CheckpointError, match=r"(?s)no place for these tensors:.*layers.0.sinks"):
        keys.entries({**wanted, "layers.0.sinks": Want((6,), None)})


def test_a_string_in_place_of_the_tuple_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match=r"""^the rule 'a\.\{layer\}': canonical is a tuple: write \("layers.*q",\)$"""):
        Rule("a.{layer}", "layers.{layer}.mixer.q", transposed=True)  # type: ignore[arg-type]


def test_a_misspelt_place_is_told_with_its_rule() -> None:
    names = ("layers.{layer}.mixer.query.weight", "layers.{layer}.mixer.q.bias", "layers.{layer}.mixer.k.weight")
    keys = KeyMap(tuple(same(f"{{layer}}.{i}", name) for i, name in enumerate(names)))
    wanted = {f"layers.1.mixer.{part}.weight": Want((4, 4), None) for part in "qk"}
    with pytest.raises(
        CheckpointError, match=r"the rule '\{layer\}\.0' names 'layers\.1\.mixer\.query\.weight', which"
    ):
        keys.entries(wanted)
    with pytest.raises(CheckpointError) as error:  # another model of the family has the rule's place: it is spelt right
        keys.entries(wanted, samples=lambda: [{"layers.0.mixer.query.weight": Want((4, 4), None)}])
    assert "misspelt" not in str(error.value)
    with pytest.raises(CheckpointError) as error:
        KeyMap(keys.rules[1:]).entries(wanted)
    assert "misspelt" not in str(error.value)
