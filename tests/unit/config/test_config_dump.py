"""dump -> load gives an equal config; digests follow the architecture and not its spelling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blockzoo.config import ModelConfig, digest, dump, dump_yaml, load_config
from blockzoo.registry import Registry

Write = Callable[..., Path]

MIXERS = [
    "full",
    "near",
    "recur",
    "none",
    "{type: attend, heads: 4, bias: [k], norm: plain}",
    "{type: recur, quantizer: pack}",
]
FFNS = ["wide", "none", "{type: experts, n: 2, router: {bias: true}, expert: wide, shared: [wide]}"]


def again(config: ModelConfig, registry: Registry, write: Write) -> None:
    """Through a mapping and through YAML text."""
    assert load_config(dump(config, registry), registry=registry) == config
    assert load_config(write(dump_yaml(config, registry), "again.yaml"), registry=registry) == config


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mixers=st.lists(st.sampled_from(MIXERS), min_size=1, max_size=6),
    ffns=st.lists(st.sampled_from(FFNS), min_size=1, max_size=3),
    position=st.sampled_from(["turn", "none", "{type: turn, scaling: {type: stretch, factor: 2}}"]),
    quantizer=st.sampled_from(["none", "{type: pack, bits: 3}"]),
    head=st.sampled_from(["{}", "{norm: none}", "{norm: {type: plain, eps: 2}, logit_softcap: 30}"]),
    copies=st.integers(1, 3),
)
def test_round_trip_of_any_mix(
    write: Write,
    toys: Registry,
    base: str,
    mixers: list[str],
    ffns: list[str],
    position: str,
    quantizer: str,
    head: str,
    copies: int,
) -> None:
    text = base.replace("position: turn", f"position: {position}\nquantizer: {quantizer}\nhead: {head}").replace(
        "layers: {count: 4, mixer: full, ffn: wide}",
        f"layers: {{count: {copies * len(mixers)}, mixer: {{cycle: [{', '.join(mixers)}]}},"
        f" ffn: {{cycle: [{', '.join(ffns)}], partial: true}}}}",
    )
    again(load_config(write(text), registry=toys), toys, write)


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        ("{cycle: [near, full]}", {"cycle": ["attend_1", "attend_2"]}),
        (
            "{runs: [{use: near, count: 3}, full]}",
            {"runs": [{"use": "attend_1", "count": 3}, {"use": "attend_2", "count": 1}]},
        ),
        (
            "{list: [near, full, full, near]}",
            {
                "runs": [
                    {"use": "attend_1", "count": 1},
                    {"use": "attend_2", "count": 2},
                    {"use": "attend_1", "count": 1},
                ]
            },
        ),
        ("{cycle: [near, none]}", {"cycle": ["attend_1", "none"]}),
    ],
)
def test_patterns_are_found_again(write: Write, toys: Registry, base: str, mixer: str, expected: object) -> None:
    config = load_config(write(base.replace("mixer: full", f"mixer: {mixer}")), registry=toys)
    assert dump(config, toys)["layers"]["mixer"] == expected
    again(config, toys, write)


def test_names_are_canonical_and_options_complete(write: Write, toys: Registry, base: str) -> None:
    found = dump(load_config(write(base), registry=toys), toys)
    assert found["layers"]["mixer"] == {"type": "toys:attend", "heads": 2, "bias": False}
    assert found["head"]["norm"] == {"type": "toys:plain", "eps": 1e-5}


def test_digest(write: Write, toys: Registry, base: str) -> None:
    first = load_config(write(base), registry=toys)
    spelled = base.replace("mixer: full", "mixer: {cycle: ['toys:attend'], partial: true}").replace(
        "'toys:attend'", "{type: 'toys:attend', heads: 2}"
    )
    second = load_config(write(f"name: other\n{spelled}"), registry=toys)
    third = load_config(write(base), {"blocks.full.heads": 4}, registry=toys)
    assert digest(first, toys) == digest(second, toys) != digest(third, toys)
    assert len(digest(first, toys)) == 64
