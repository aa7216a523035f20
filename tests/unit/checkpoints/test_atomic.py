"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from blockzoo.checkpoints.atomic import new_file, new_folder, write_file
from blockzoo.errors import CheckpointError


def replaceable(name: str) -> bool:
    return name.endswith(".ours")


def test_a_file_replaces_another_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_file(path, "old")
    with new_file(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    write_file(tmp_path / "a.txt", "old")

    def fails() -> None:
        with new_file(tmp_path / "a.txt") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fails()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "run").mkdir()
    write_file(tmp_path / "run" / "a.ours", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_file(tmp_path / "b.txt", "new")
    with (
        pytest.raises(CheckpointError, match="No space left on device"),
        new_folder(tmp_path / "run", replaceable) as new,
    ):
        (new / "a.ours").write_text("new")
    assert (tmp_path / "run" / "a.ours").read_text() == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_what_a_killed_writer_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    (tmp_path / ".run.writing-dead").mkdir()
    (tmp_path / ".run.writing-dead" / "a.ours").write_text("half")
    (tmp_path / ".a.txt.writing-dead").write_text("half")
    (tmp_path / ".other.writing-dead").mkdir()
    (tmp_path / ".run.writing-new").mkdir()  # its writer may be about to lock it
    for left in tmp_path.glob(".*-dead"):
        os.utime(left, (0, 0))
    with new_folder(tmp_path / "run", replaceable) as one:
        write_file(tmp_path / "a.txt", "whole")
        with new_folder(tmp_path / "run", replaceable) as other:
            assert one.is_dir()
            (other / "a.ours").write_text("other")
        (one / "a.ours").write_text("one")
    assert (tmp_path / "run" / "a.ours").read_text() == "one"
    assert sorted(os.listdir(tmp_path)) == [".other.writing-dead", ".run.writing-new", "a.txt", "run"]


def test_a_folder_that_a_killed_writer_had_put_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".run.replaced-x").mkdir()
    (tmp_path / ".run.replaced-x" / "a.ours").write_text("old")
    os.utime(tmp_path / ".run.replaced-x", (0, 0))
    with pytest.raises(RuntimeError), new_folder(tmp_path / "run", replaceable):
        raise RuntimeError
    assert (tmp_path / "run" / "a.ours").read_text() == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be written"):
        write_file(tmp_path / "absent" / "a.txt", "")
    with pytest.raises(CheckpointError, match="is a folder"):
        write_file(tmp_path, "")
    write_file(tmp_path / "file", "")
    with pytest.raises(CheckpointError, match="is no folder"), new_folder(tmp_path / "file"):
        pass
    with pytest.raises(CheckpointError, match="can't be written"), new_folder(tmp_path / "file" / "below"):
        pass


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with new_folder(path) as new:
        (new / "a.ours").write_text("1")
        assert not path.exists()
    assert (path / "a.ours").read_text() == "1"
    with new_folder(path, replaceable) as new:
        (new / "b.ours").write_text("2")
    assert os.listdir(path) == ["b.ours"]
    assert os.listdir(path.parent) == ["run"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    write_file(tmp_path / "run" / "notes.txt", "mine")
    with (
        pytest.raises(CheckpointError, match=r"holds other files \(notes.txt\)"),
        new_folder(tmp_path / "run", replaceable),
    ):
        raise AssertionError
    with pytest.raises(RuntimeError), new_folder(tmp_path / "other", replaceable):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["run"]


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_folder(tmp_path / "run") as new:
        (new / "a.ours").write_text("old")
    rename = os.rename

    def fails_for_new(source: Any, target: Any) -> None:
        if ".writing-" in str(source):
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_for_new)
    with pytest.raises(CheckpointError, match="broken"), new_folder(tmp_path / "run", replaceable) as new:
        (new / "a.ours").write_text("new")
    assert (tmp_path / "run" / "a.ours").read_text() == "old"
    assert os.listdir(tmp_path) == ["run"]
