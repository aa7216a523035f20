"""Merging: mappings merge, lists replace, another type replaces the whole block, null deletes."""

from __future__ import annotations

from typing import Any

import pytest

from blockzoo.config.merge import merge
from blockzoo.config.node import Problems, from_python


def merged(base: Any, over: Any) -> Any:
    problems = Problems()
    node = merge(from_python(base, "base", problems), from_python(over, "over", problems))
    problems.raise_any()
    return node.plain()


@pytest.mark.parametrize(
    ("base", "over", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": 1}, {"b": None}, {"a": 1, "b": None}),
        ({"n": {"type": "rms", "eps": 1}}, {"n": {"type": "layer"}}, {"n": {"type": "layer"}}),
        ({"n": {"type": "rms", "eps": 1}}, {"n": {"type": "rms", "x": 2}}, {"n": {"type": "rms", "eps": 1, "x": 2}}),
        ({"n": {"type": "a:rms", "eps": 1}}, {"n": {"type": "rms"}}, {"n": {"type": "rms", "eps": 1}}),
        ({"n": {"type": "a:rms", "eps": 1}}, {"n": {"type": "b:rms"}}, {"n": {"type": "b:rms"}}),
        ({"n": {"type": "rms", "eps": 1}}, {"n": "layer"}, {"n": "layer"}),
        ({"n": "rms"}, {"n": {"eps": 2}}, {"n": {"use": "rms", "eps": 2}}),
        ({"m": {"cycle": ["a", "b"]}}, {"m": {"runs": ["a"]}}, {"m": {"runs": ["a"]}}),
        (
            {"m": {"cycle": ["a", "b"], "partial": True}},
            {"m": {"cycle": ["c"]}},
            {"m": {"cycle": ["c"], "partial": True}},
        ),
        ({"m": {"use": "a", "x": 1}}, {"m": {"use": "b"}}, {"m": {"use": "b"}}),
    ],
)
def test_merge(base: Any, over: Any, expected: Any) -> None:
    assert merged(base, over) == expected


def test_each_value_keeps_the_place_it_was_written_at() -> None:
    problems = Problems()
    node = merge(from_python({"a": {"b": 1, "c": 2}}, "base", problems), from_python({"a": {"c": 3}}, "over", problems))
    assert str(node.mapping["a"].mapping["b"].place) == "base"
    assert str(node.mapping["a"].mapping["c"].place) == "over"
