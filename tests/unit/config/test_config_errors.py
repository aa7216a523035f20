"""Everything that is wrong with a config at once: place, path, what was found, what would be accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import Field

from blockzoo.blocks import Dims, NormConfig
from blockzoo.config import Section, load_config, read_yaml, section
from blockzoo.errors import ConfigError
from blockzoo.registry import Registrar, Registry

Write = Callable[..., Path]
Told = Callable[[Callable[[], object]], list[str]]

WRONG = """\
vocab_size: 16
vocab_siz: 17
context_length: long
d_model: 8
norm: {type: plan}
position: {type: turn, theta: -1, scaling: {type: strech}}
embedding: {tied: no, dropuot: 0.1}
blocks:
  full: {type: attend, heds: 2, bias: [q, z]}
  moe: {type: experts, n: 2, router: {bia: true, top: 0}, expert: {type: dense, d_ff: wide, act: gellu}}
layers:
  count: 5
  mixer: {cycle: [full, fully]}
  ffn: moe
  norms: plain
"""

TOLD = """\
2:1: vocab_siz: unknown key 'vocab_siz'; did you mean 'vocab_size'?
3:17: context_length: found 'long'; should be a valid integer
5:14: norm.type: no norm 'plan'; did you mean 'plain'? (plugins not loaded: broken: import_failed: no such thing)
6:31: position.theta: found -1; should be greater than 0
6:51: position.scaling.type: found 'strech'; did you mean 'stretch'?
7:19: embedding.tied: found 'no', a string; expected true or false; write true or false
7:23: embedding.dropuot: unknown key 'dropuot'; did you mean 'dropout'?
9:9: blocks.full: missing key 'heads' (how many heads)
9:24: blocks.full.heds: unknown key 'heds'; did you mean 'heads'?
9:43: blocks.full.bias.1: found 'z'; accepted: k, q
10:39: blocks.moe.router.bia: unknown key 'bia'; did you mean 'bias'?
10:55: blocks.moe.router.top: found 0; should be greater than 0
10:87: blocks.moe.expert.d_ff: found 'wide'; should be a valid integer
10:98: blocks.moe.expert.act: found 'gellu'; did you mean 'gelu'? accepted: gelu, silu
13:11: layers.mixer.cycle: 5 layers are not a whole number of cycles of 2; change layers.count, or write \
'partial: true' beside 'cycle' if the last one is meant to break off
13:25: layers.mixer.cycle.1: no mixer 'fully'; did you mean 'full'? \
(plugins not loaded: broken: import_failed: no such thing)
15:3: layers.norms: unknown key 'norms'; did you mean 'norm'?
"""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "layers.count: 2",
            "layers.count: unknown key 'layers.count'; a dotted key is for overrides, here write layers: {count: 2}",
        ),
        ("layers.mixer.heads: 4", "here write layers: {mixer: {heads: 4}}"),
        ("embedding: {position.type: learned}", "here write position: {type: 'learned'}"),
        ("head.norm: {type: plain}", "here write head: {norm: ...}"),
        ("nothing.like.it: 1", "unknown key 'nothing.like.it'; accepted: "),
        ("layers.: 1", "unknown key 'layers.'; did you mean 'layers'?"),
    ],
)
def test_a_dotted_key_in_a_file_says_how_to_nest_it(
    line: str, told: str, write: Write, toys: Registry, problems: Told
) -> None:
    file = write(f"vocab_size: 16\n{line}\n")
    assert any(told in problem for problem in problems(lambda: load_config(file, registry=toys)))


def test_all_at_once_sorted_by_place(write: Write, toys: Registry, problems: Told) -> None:
    found = problems(lambda: load_config(write(WRONG), registry=toys))
    assert "\n".join(found) + "\n" == TOLD


def change(base: str, old: str, new: str) -> str:
    assert old in base
    return base.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("heads: 2", "heads: 3", "7:31: blocks.full.heads: d_model 8 is not a multiple of 3"),
        ("heads: 2", "heads: 2.5", "7:31: blocks.full.heads: found 2.5; should be a valid integer, got a number with"),
        ("heads: 2", "heads: '2'", "7:31: blocks.full.heads: found '2', a string; expected a number"),
        ("heads: 2", "heads: true", "7:31: blocks.full.heads: found true, true or false; expected a number"),
        ("heads: 2", "heads: null", "7:31: blocks.full.heads: found null; should be a valid integer"),
        ("heads: 2", "heads: [2]", "7:31: blocks.full.heads: found a list; should be a valid integer"),
        ("d_model: 8", "d_model: 0", "3:10: d_model: found 0; should be greater than 0"),
        ("d_model: 8", "d_model: 9999999999999", "3:10: d_model: found 9999999999999; should be less than or equal to"),
        ("d_model: 8\n", "", "1:1: missing key 'd_model' (width of the residual stream)"),
        ("norm: plain\n", "", "1:1: missing key 'norm'; give it here or in 'layers'"),
        ("norm: plain", "norm: none", "4:7: norm: a layer needs a norm; it can't be none"),
        ("norm: plain", "norm: {type: plain, eps: .inf}", "4:26: norm.eps: found inf; should be a finite number"),
        ("norm: plain", "norm: {eps: 3}", "4:7: norm: a block needs 'type' or 'use'"),
        ("norm: plain", "norm: {type: attend}", "4:14: norm.type: no norm 'attend'; accepted"),
        ("type: attend, heads: 2", "type: none, heads: 2", "7:22: blocks.full.heads: 'heads' of a mixer that is none"),
        ("  near:", "  none:", "8:3: blocks.none: 'none' means that there is no block"),
        ("window: 4", "windw: 4", "8:21: blocks.near.windw: unknown key 'windw'; did you mean 'window'?"),
        ("use: full", "use: 3", "8:15: blocks.near.use: found 3; expected the name of a block"),
        ("mixer: full", "mixer: {type: 3}", "10:34: layers.mixer.type: found 3; expected the name of a type"),
        ("type: dense", "type: dens", "9:16: blocks.wide.type: no ffn 'dens'; did you mean 'dense'?"),
        ("layers: {count: 4, mixer: full, ffn: wide}", "layers: 3", "10:9: layers: found 3; expected a mapping with"),
        ("layers: {count: 4,", "layers: {", "10:9: layers: missing key 'count'"),
        ("count: 4", "count: 10001", "10:17: layers.count: found 10001; expected a whole number from 1 to 10,000"),
        ("position: turn", "position: {type: turn, scaling: {low: 3}}", "5:33: position.scaling: missing key 'type'"),
        ("position: turn", "head: 3\nposition: turn", "5:7: head: found 3; should be a"),
        ("position: turn", "head: {norm: 3}\nposition: turn", "5:14: head.norm: found 3; expected the name of a block"),
        (
            "position: turn",
            "embedding: {scale: sqrt}",
            "5:20: embedding.scale: found 'sqrt'; should be a valid number or",
        ),
        (
            "position: turn",
            "quantizer: {type: pack, bits: 99}\nposition: turn",
            "5:12: quantizer: ffn.weight (8, 8): packs 99 weights or more, found 8",
        ),
        ("position: turn", "overides: []", "5:1: overides: unknown key 'overides'"),
        ("position: turn", "family: 3", "5:9: family: found 3; should be a valid string"),
    ],
)
def test_one_thing_wrong(
    write: Write, toys: Registry, problems: Told, base: str, old: str, new: str, expected: str
) -> None:
    found = problems(lambda: load_config(write(change(base, old, new)), registry=toys))
    assert any(line.startswith(expected) for line in found), found
    assert not any("pydantic" in line or "Input should" in line for line in found)


def test_blocks_that_nobody_uses_are_checked_too(write: Write, toys: Registry, problems: Told, base: str) -> None:
    spare = "  near:\n    {type: attend, windw: 3}\n  odd: {type: atend}\n  partial: {type: attend, window: 3}\n"
    found = problems(lambda: load_config(write(change(base, "  near: {use: full, window: 4}\n", spare)), registry=toys))
    assert found == [
        "9:20: blocks.near.windw: unknown key 'windw'; did you mean 'window'?",
        "10:15: blocks.odd.type: no block of type 'atend'; did you mean 'attend'?"
        " (plugins not loaded: broken: import_failed: no such thing)",
    ]


def test_a_check_that_raises_is_told_with_its_place(write: Write, toys: Registry, problems: Told, base: str) -> None:
    class Broken(NormConfig):
        """A norm whose check is broken."""

        def check(self, dims: Dims) -> Iterator[tuple[str, str]]:
            raise KeyError("oops")

    registrar = Registrar(toys, "third")
    registrar.block("norm", "broken_check", Broken)
    registrar.commit()
    found = problems(lambda: load_config(write(change(base, "norm: plain", "norm: broken_check")), registry=toys))
    assert found == ["4:7: norm: the check of third:broken_check failed: KeyError: 'oops'"]


def test_many_problems_are_cut_short(write: Write, toys: Registry, problems: Told) -> None:
    found = problems(lambda: load_config(write("".join(f"key{i}: 1\n" for i in range(500))), registry=toys))
    assert len(found) == 101
    assert found[-1].startswith("and 40")


def test_sections_of_other_files_fail_the_same_way(write: Write, toys: Registry, problems: Told) -> None:
    class Train(Section):
        """YAML of somebody else's file."""

        steps: int = Field(description="how many", gt=0)
        norm: NormConfig | None = Field(None, description="some block")

    assert section(Train, read_yaml(write("steps: 3\nnorm: plain\n")), toys).steps == 3
    found = problems(lambda: section(Train, read_yaml(write("stps: 3\nnorm: plan\n")), toys))
    assert found == [
        "1:1: missing key 'steps' (how many)",
        "1:1: stps: unknown key 'stps'; did you mean 'steps'?",
        "2:7: norm: no norm 'plan'; did you mean 'plain'? (plugins not loaded: broken: import_failed: no such thing)",
    ]
    with pytest.raises(ConfigError, match="expected a mapping"):
        section(Train, read_yaml(write("[1]")))
