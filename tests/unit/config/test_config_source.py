"""YAML as YAML: what scalars mean, what is refused, and where."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockzoo.config import parse_override, read_yaml
from blockzoo.errors import BlockzooError

Write = Callable[..., Path]
Told = Callable[[Callable[[], object]], list[str]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1.0e-5", 1e-5),
        ("5e6", 5e6),
        ("-.5", -0.5),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        (".inf", float("inf")),
        ("<<", "<<"),
    ],
)
def test_scalars_are_yaml_1_2(write: Write, text: str, value: object) -> None:
    got = read_yaml(write(f"a: {text}\n")).plain()["a"]
    assert got == value
    assert type(got) is type(value)


def test_every_key_and_value_knows_its_place(write: Write) -> None:
    path = write("a:\n  b: [1,\n      2]\nno: x\n")
    root = read_yaml(path)
    second = root.mapping["a"].mapping["b"].items[1]
    assert (str(second.place), second.path) == (f"{path}:3:7", "a.b.1")
    assert str(root.mapping["a"].key_place("b")) == f"{path}:2:3"
    assert "no" in root.mapping


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["3:1: a: key given twice; first at line 1"]),
        ("a: {b: 1, b: 2}\n", ["1:11: a.b: key given twice; first at line 1"]),
        ("1: x\n? [a]\n: y\n", ["1:1: key 1 is not a string", "2:3: key a collection is not a string"]),
        ("a: !!python/name:os.system x\n", ["1:4: tag 'tag:yaml.org,2002:python/name:os.system'"]),
        ("a: !mine 3\n", ["1:4: tag '!mine'"]),
        ("a: !!int x\n", ["1:4: tag 'tag:yaml.org,2002:int'"]),
        ("a: !!float x\n", ["1:4: tag 'tag:yaml.org,2002:float'"]),
        ("a:\n\tb: 1\n", ["2:1: not YAML: a tab can't indent YAML"]),
        ("a: [1, 2\n", ["2:1: not YAML"]),
        ("a: 1\n---\nb: 2\n", ["2:1: not YAML: expected a single document"]),
        ("", ["1:1: empty"]),
        ("# nothing\n", ["1:1: empty"]),
        ("a: \x01\n", ["1:4: character"]),
        ("a: &x [*x]\n", ["1:4: a.0: an alias inside its own anchor"]),
        ("a: *x\n", ["1:4: not YAML: found undefined alias"]),
        ("a: " + "[" * 100, ["1:67: not YAML: nested more than 64 deep"]),
        ("a: " + "9" * 5000, ["1:4: a: a number of 5000 characters"]),
    ],
)
def test_refused(write: Write, problems: Told, text: str, expected: list[str]) -> None:
    found = problems(lambda: read_yaml(write(text)))
    assert len(found) == len(expected)
    assert all(a.startswith(b) for a, b in zip(found, expected, strict=True)), found


def test_alias_expansion_is_bounded_in_time(write: Write, problems: Told) -> None:
    lines = ["a0: &a0 [" + "x, " * 9 + "x]"]
    lines += [f"a{i}: &a{i} [" + f"*a{i - 1}, " * 9 + f"*a{i - 1}]" for i in range(1, 12)]
    start = time.monotonic()
    found = problems(lambda: read_yaml(write("\n".join(lines))))
    assert "more than 200,000 values" in found[0]
    assert time.monotonic() - start < 30


def test_files_that_are_none(tmp_path: Path, write: Write, problems: Told) -> None:
    assert "can't be read: No such file" in problems(lambda: read_yaml(tmp_path / "none.yaml"))[0]
    assert "not a regular file" in problems(lambda: read_yaml(tmp_path))[0]
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "not a regular file" in problems(lambda: read_yaml(tmp_path / "pipe.yaml"))[0]
    assert "more than 512 KiB" in problems(lambda: read_yaml(write("a: " + "x" * 600_000)))[0]
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: 1\nb: \xff\xfe\n")
    assert problems(lambda: read_yaml(binary)) == ["2:4: not UTF-8 text"]


def test_overrides_are_read_as_yaml() -> None:
    assert parse_override("layers.count=4") == ("layers.count", 4)
    assert parse_override("norm={type: plain, eps: 1e-6}") == ("norm", {"type": "plain", "eps": 1e-6})
    assert parse_override("a=") == ("a", None)
    assert parse_override("a=b=c") == ("a", "b=c")
    for bad in ("layers.count", "=3", "a=[1"):
        with pytest.raises(BlockzooError, match="override"):
            parse_override(bad)
