"""What lies beside a checkpoint's weights is copied with them, or nothing is: ``blockzoo convert`` through its verb."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from blockzoo.checkpoints import atomic, save
from blockzoo.checkpoints.beside import LIMITS
from blockzoo.cli import main

OLD = {"blockzoo.yaml": b"old", "tokenizer.json": b"its own"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An older checkpoint where the new one is to go."""
    folder = tmp_path / "old"
    folder.mkdir()
    for name, data in OLD.items():
        (folder / name).write_bytes(data)
    return folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def refused(source: Path, old: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    for random in ((), ("--random",)):
        assert main(["convert", str(source), str(old), "--to", "native", *random]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "Traceback" not in said
        assert bytes_of(old) == OLD
        assert sorted(os.listdir(old.parent)) == ["gpt2", "old"]


def zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to("../blobs/none")


def looping(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", sorted(LIMITS))
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is no regular file"),
        (os.mkdir, "is no regular file"),
        (zero, "is a link out of the folder"),
        (dangling, "can't be opened (No such file or directory); it is a link: copy the file in, or remove the link"),
        (looping, "it is a link: copy the file in, or remove the link"),
    ],
)
def test_what_is_no_file_is_seen_before_anything_is_written(
    name: str,
    make: Callable[[Path], None],
    words: str,
    checkpoint: Path,
    old: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(checkpoint / name)
    refused(checkpoint, old, f"{checkpoint / name}: ", capsys)
    refused(checkpoint, old, words, capsys)


@pytest.mark.parametrize("name", ["config.json", "blockzoo.yaml"])
@pytest.mark.parametrize("make", [dangling, looping])
def test_links_to_nothing_are_no_absent_configs(
    name: str, make: Callable[[Path], None], checkpoint: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / name).unlink(missing_ok=True)
    make(checkpoint / name)
    refused(checkpoint, old, f"{checkpoint / name}: can't be opened", capsys)


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_files_without_end_are_not_read_whole(
    name: str, checkpoint: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(checkpoint / name, "wb") as file:
        file.truncate(2 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(checkpoint, old, f"{checkpoint / name}: is larger than {LIMITS[name]} bytes", capsys)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 3 * LIMITS[name] + 2**25


@pytest.mark.parametrize("random", [(), ("--random",)])
def test_all_take_their_place_together(
    random: tuple[str, ...], checkpoint: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = {
        "tokenizer.json": b"new \xff\r\n",
        "merges.txt": b"",
        "generation_config.json": b'{"eos_token_id":  4 }',
    }
    for name, data in beside.items():
        (checkpoint / name).write_bytes(data)
    seen: list[set[str]] = []
    take = atomic._take_place

    def looking(temporary: Path, path: Path) -> None:
        seen.append(set(os.listdir(temporary)))
        take(temporary, path)

    monkeypatch.setattr(atomic, "_take_place", looking)
    assert main(["convert", str(checkpoint), str(old), "--to", "native", *random]) == 0
    assert seen == [{*beside, "blockzoo.yaml", "model.safetensors"}]
    found = bytes_of(old)
    assert found.keys() == seen[0]
    assert {name: found[name] for name in beside} == beside


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_while_the_tokenizer_is_written_leaves_the_old(
    error: type[BaseException], checkpoint: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint / "tokenizer.json").write_bytes(b"new")
    write = save.write_file

    def interrupted(path: Path, data: bytes | str) -> None:
        if path.name == "tokenizer.json":
            raise error
        write(path, data)

    monkeypatch.setattr(save, "write_file", interrupted)
    assert main(["convert", str(checkpoint), str(old), "--to", "native"]) != 0
    assert bytes_of(old) == OLD
    assert sorted(os.listdir(old.parent)) == ["gpt2", "old"]


def test_destinations_that_can_not_be(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    looping(Path("loop"))
    Path("mine", "tokenizer.json").mkdir(parents=True)
    Path("again").symlink_to("gpt2")
    for destination, words in (
        ("/", "/: holds other files ("),
        ("loop", "loop: is there already and is no folder; choose another place"),
        ("loop/below", "can't be written"),
        ("n" * 300, "can't be written"),
        ("mine", "mine: holds other files (tokenizer.json)"),
        ("gpt2/../gpt2", "is the source"),
        ("again", "is the source"),
    ):
        for random in ((), ("--random",)):
            assert main(["convert", str(checkpoint), destination, "--to", "native", *random]) == 2, destination
            assert words in capsys.readouterr().err
    assert sorted(os.listdir()) == ["again", "gpt2", "loop", "mine"]


def test_the_end_of_a_text_is_kept_where_only_config_json_has_it(checkpoint: Path, tmp_path: Path) -> None:
    said = {**json.loads((checkpoint / "config.json").read_text()), "eos_token_id": [3, 4]}
    (checkpoint / "config.json").write_text(json.dumps(said))
    for source, to, random in (("gpt2", "native", ()), ("native", "hf", ()), ("gpt2", "drawn", ("--random",))):
        layout = "native" if to == "drawn" else to
        assert main(["convert", str(tmp_path / source), str(tmp_path / to), "--to", layout, *random]) == 0
        kept = json.loads((tmp_path / to / "generation_config.json").read_text())
        assert kept == {"_from_model_config": True, "eos_token_id": [3, 4]}
    assert main(["convert", str(checkpoint), str(tmp_path / "same"), "--to", "hf"]) == 0
    assert json.loads((tmp_path / "same" / "config.json").read_text())["eos_token_id"] == [3, 4]
    assert not (tmp_path / "same" / "generation_config.json").exists()
