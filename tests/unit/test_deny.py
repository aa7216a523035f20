"""Editing the deny list: one assignment changes, everything else stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo.deny import allow, deny, read_deny
from blockzoo.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "blockzoo" / "plugins.toml"


def test_a_new_file_and_back(file: Path) -> None:
    assert deny("slow", file)
    assert not deny("slow", file)
    assert deny("raises", file)
    assert read_deny(file) == ["slow", "raises"]
    assert allow("slow", file)
    assert not allow("slow", file)
    assert read_deny(file) == ["raises"]
    assert [path.name for path in file.parent.iterdir()] == ["plugins.toml"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('# mine\ndeny = ["a"]  # why\n\n# end\n', '# mine\ndeny = ["a", "b"]  # why\n\n# end\n'),
        ('deny = [\n  "a",\n]\n', 'deny = ["a", "b"]\n'),
        ("'deny'=['a']", 'deny = ["a", "b"]'),
        ('deny = ["a"]\n', 'deny = ["a", "b"]\n'),
    ],
)
def test_the_rest_of_the_file_stays(file: Path, before: str, after: str) -> None:
    file.parent.mkdir()
    file.write_text(before)
    assert deny("b", file)
    assert file.read_text() == after


def test_a_file_of_comments_alone(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("# nothing yet\n")
    deny("a", file)
    assert file.read_text() == '# nothing yet\ndeny = ["a"]\n'


def test_what_cannot_be_edited_safely_is_left_alone(file: Path) -> None:
    file.parent.mkdir()
    text = 'deny = [  # ]\n  "a",\n]\n'
    file.write_text(text)
    with pytest.raises(InputError, match=r"""write 'deny = \["a", "b"\]' into it by hand"""):
        deny("b", file)
    assert file.read_text() == text


def test_a_broken_file_is_not_overwritten(file: Path) -> None:
    file.parent.mkdir()
    file.write_text("deny = 3\n")
    with pytest.raises(InputError, match="must be a list"):
        deny("b", file)
    assert file.read_text() == "deny = 3\n"


def test_a_link_keeps_pointing(file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    target = tmp_path / "dotfiles.toml"
    target.write_text("deny = []\n")
    file.symlink_to(target)
    deny("a", file)
    assert file.is_symlink()
    assert target.read_text() == 'deny = ["a"]\n'
