"""Which plugins may load."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo.errors import InputError
from blockzoo.selection import Selection, parse


@pytest.mark.parametrize(
    ("text", "only"),
    [("", None), (" ", None), ("none", frozenset()), ("a", {"a"}), ("a, b,", {"a", "b"})],
)
def test_parse(text: str, only: object) -> None:
    assert parse(text) == only


def test_none_stands_alone() -> None:
    with pytest.raises(InputError, match="'none' stands alone"):
        parse("a,none")


def test_refusals() -> None:
    selection = Selection(frozenset({"a", "b"}), {"b": "BLOCKZOO_DENY_PLUGINS", "blocks": "a file"})
    assert selection.refusal("a", optional=True) is None
    assert selection.refusal("gpt2", optional=False) is None
    assert selection.refusal("b", optional=True) == "denied by BLOCKZOO_DENY_PLUGINS"
    assert selection.refusal("blocks", optional=False) == "denied by a file"
    assert "leaves it out" in str(selection.refusal("c", optional=True))


@pytest.mark.parametrize("only", [None, frozenset(), frozenset({"a", "b"})])
@pytest.mark.parametrize("deny", [(), ("c", "d")])
def test_export_is_read_back(only: frozenset[str] | None, deny: tuple[str, ...], tmp_path: Path) -> None:
    environ = {"BLOCKZOO_PLUGINS": "stale", "XDG_CONFIG_HOME": str(tmp_path)}
    Selection(only, dict.fromkeys(deny, "somebody")).export(environ)
    again = Selection.from_environment(environ)
    assert again.only == only
    assert set(again.deny) == set(deny)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('deny = "a"', r"plugins\.toml: deny must be a list of plugin names"),
        ("deny = [1]", r"plugins\.toml: deny must be a list"),
        ("dney = []", r"plugins\.toml: unknown key 'dney'; did you mean 'deny'"),
        ("deny = [", r"plugins\.toml: "),
    ],
)
def test_a_bad_deny_file_names_itself(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "blockzoo").mkdir()
    (tmp_path / "blockzoo" / "plugins.toml").write_text(content)
    with pytest.raises(InputError, match=words):
        Selection.from_environment({"XDG_CONFIG_HOME": str(tmp_path)})
