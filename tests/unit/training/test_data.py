"""Text, its split, its shards, and the order of batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blockzoo.errors import CheckpointError, InputError
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training import corpus as corpus_module
from blockzoo.training import shards
from blockzoo.training.corpus import TextCorpus, read_corpus, text_of
from blockzoo.training.data import Dataset, prepare
from blockzoo.training.data_config import DataConfig
from blockzoo.training.shards import ShardWriter, Tokens, open_tokens
from blockzoo.training.split import choose, cut


class WideTokenizer(ByteTokenizer):
    """Bytes, in a vocabulary that needs more than one byte an id."""

    n_tokens = 70_000

    def token_bytes(self, token: int) -> bytes:
        return bytes([token % 256])


def folder_of(cache: Path) -> Path:
    """The one data folder in a cache."""
    (folder,) = (entry for entry in cache.iterdir() if entry.is_dir())
    return folder


def texts(corpus: TextCorpus) -> list[str]:
    return ["".join(file.read()) for file in corpus.files]


# --- text ---------------------------------------------------------------------------------------------------------


def test_the_default_is_the_standard_library() -> None:
    corpus = read_corpus(DataConfig(max_bytes=200_000))
    names = [file.name for file in corpus.files]
    assert names == sorted(names)
    assert "__future__.py" in names
    assert not any("site-packages" in name or "/test" in name for name in names)
    assert corpus.n_bytes == 200_000
    assert sum(len(piece.text.encode()) for piece in corpus.pieces()) == 200_000
    everything = [file.name for file in read_corpus(DataConfig()).files]
    assert "pydoc_data/topics.py" in everything


def test_the_key_is_of_names_and_texts(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    first = read_corpus(DataConfig(path=tmp_path))
    assert [file.name for file in first.files] == ["a.txt", "b.txt"]
    assert first.key == read_corpus(DataConfig(path=tmp_path)).key
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert read_corpus(DataConfig(path=tmp_path)).key != first.key


def test_what_is_no_text_is_skipped_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\r\nmore\r\n", newline="")
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "words.txt").write_text("secret")
    corpus = read_corpus(DataConfig(path=tmp_path))
    assert texts(corpus) == ["text\nmore\n"]
    assert corpus.skipped == ("b.bin",)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 1000])
@pytest.mark.parametrize("limit", [None, 1, 4, 6, 7, 8, 9, 1000])
def test_a_file_in_chunks_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, limit: int | None
) -> None:
    text = "aé\r\n€\n\r\rb\r\n𝄞\r"
    (tmp_path / "a.txt").write_bytes(text.encode())
    monkeypatch.setattr(corpus_module, "CHUNK", chunk)
    whole = text.replace("\r\n", "\n").encode()[:limit].decode(errors="ignore")
    assert "".join(text_of(tmp_path / "a.txt", limit)) == whole


@pytest.mark.parametrize("what", ["nothing", "empty folder", "binary", "empty file"])
def test_no_text_is_an_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    if what == "empty folder":
        path.mkdir()
    elif what != "nothing":
        path.write_bytes(b"\xff\x00" if what == "binary" else b"")
    with pytest.raises(InputError, match="it: no"):
        read_corpus(DataConfig(path=path))


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line\n" * 100)
    corpus = read_corpus(DataConfig(path=tmp_path))
    (tmp_path / "a.txt").write_text("another\n" * 100)
    with pytest.raises(InputError, match=r"a\.txt: was changed while it was read"):
        list(corpus.pieces())


def test_the_split_loses_nothing_and_holds_out_what_was_asked(text: Path) -> None:
    corpus = read_corpus(DataConfig(path=text, held_out=0.1))
    pieces = list(corpus.pieces())
    assert "".join(piece.text for piece in pieces) == text.read_text()
    held_out = sum(len(piece.text) for piece in pieces if piece.held_out)
    assert 0.1 <= held_out / corpus.n_bytes < 0.15
    assert all(piece.text.endswith("\n") for piece in pieces)
    assert list(corpus.pieces()) == pieces
    with pytest.raises(InputError, match="too short"):
        list(read_corpus(DataConfig(path=text, max_bytes=1)).pieces())


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_pieces_do_not_depend_on_how_text_comes(size: int) -> None:
    text = "".join(f"{'x' * (i % 23)}\n" for i in range(200))
    whole = list(cut([text], size))
    assert "".join(whole) == text
    assert list(cut((text[i : i + 7] for i in range(0, len(text), 7)), size)) == whole
    assert all(len(piece) < 2 * size + 1 for piece in whole)


def test_one_piece_is_always_left_to_train_on() -> None:
    assert len(choose([("a", 5), ("b", 5)], 100)) == 1
    assert not choose([("a", 5)], 100)


def test_data_has_one_source() -> None:
    task: Any = {"type": "k_hop"}
    with pytest.raises(ValueError, match="path and task are given"):
        DataConfig(path=Path("a.txt"), task=task)
    with pytest.raises(ValueError, match="max_bytes means nothing"):
        DataConfig(task=task, max_bytes=10)


def test_paths_are_seen_from_the_file_that_names_them(tmp_path: Path) -> None:
    assert DataConfig(path=Path("a.txt")).seen_from(tmp_path).path == tmp_path / "a.txt"
    assert DataConfig(path=Path("/a.txt")).seen_from(tmp_path).path == Path("/a.txt")
    assert DataConfig().seen_from(tmp_path) == DataConfig()


# --- shards -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokenizer", "dtype"), [(ByteTokenizer(), "uint8"), (WideTokenizer(), "uint32")])
def test_tokens_are_made_once_in_the_smallest_dtype(
    text: Path, tmp_path: Path, tokenizer: ByteTokenizer, dtype: str
) -> None:
    first = prepare(DataConfig(path=text), tokenizer, "t", tmp_path)
    assert isinstance(first, Dataset)
    assert first.train.dtype == dtype
    tokenizer.encode = None  # type: ignore[assignment, method-assign]  # a second time must not tokenise
    second = prepare(DataConfig(path=text), tokenizer, "t", tmp_path)
    assert isinstance(second, Dataset)
    assert second.sha256 == first.sha256
    assert np.array_equal(second.train[:], first.train[:])
    assert folder_of(tmp_path)


def test_a_text_that_changed_is_another_data_set(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("one line\n" * 100)
    config = DataConfig(path=tmp_path / "words")
    first = prepare(config, ByteTokenizer(), "bytes", tmp_path / "cache")
    (tmp_path / "words" / "a.txt").write_text("one line\n" * 99 + "one Line\n")
    assert prepare(config, ByteTokenizer(), "bytes", tmp_path / "cache").sha256 != first.sha256


def test_shards_are_one_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    with ShardWriter(tmp_path, "train", tokens.dtype, size=128) as writer:
        for part in np.array_split(tokens, 7):
            writer.write(part)
    assert [shard["bytes"] for shard in writer.shards] == [128] * 15 + [80]
    about = {"dtype": "uint16", "shards": {"train": writer.shards, "held_out": []}}
    found = open_tokens(tmp_path, about)
    assert len(found["held_out"]) == 0
    assert len(found["held_out"][:]) == 0
    train = found["train"]
    assert len(train) == 1000
    for start, stop in [(0, 1000), (63, 65), (64, 128), (60, 300), (999, 1000), (5, 5), (990, 2000)]:
        assert np.array_equal(train[start:stop], tokens[start:stop])


def test_batches_do_not_depend_on_shards(dataset: Dataset) -> None:
    whole = np.asarray(dataset.train[:])
    parts = Tokens(np.array_split(whole, 9), "uint8")
    other = Dataset(dataset.name, dataset.sha256, parts, dataset.held_out, dataset.token_lengths)
    for one, two in zip(dataset.batch(0, 0, 50, 16), other.batch(0, 0, 50, 16), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("what", ["cut", "changed", "gone", "json"])
def test_damaged_tokens_are_found(text: Path, tmp_path: Path, what: str) -> None:
    prepare(DataConfig(path=text), ByteTokenizer(), "bytes", tmp_path)
    shard = folder_of(tmp_path) / "train-00000.bin"
    data = shard.read_bytes()
    if what == "json":
        (folder_of(tmp_path) / "data.json").write_text("{")
    elif what == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data[:-1] if what == "cut" else data[:-1] + b"\0")
    with pytest.raises(CheckpointError, match="delete the folder"):
        prepare(DataConfig(path=text), ByteTokenizer(), "bytes", tmp_path)


def test_many_tokens_are_hashed_on_request(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(DataConfig(path=text), ByteTokenizer(), "bytes", tmp_path)
    monkeypatch.setattr(shards, "HASHED", 10)
    shard = folder_of(tmp_path) / "train-00000.bin"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    prepare(DataConfig(path=text), ByteTokenizer(), "bytes", tmp_path)
    with pytest.raises(CheckpointError, match="hash"):
        prepare(DataConfig(path=text, verify=True), ByteTokenizer(), "bytes", tmp_path)


def test_an_interrupted_tokenisation_leaves_nothing_half_taken(text: Path, tmp_path: Path) -> None:
    class Stops(ByteTokenizer):
        def encode(self, text: str, *, control: bool = False) -> list[int]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(DataConfig(path=text), Stops(), "bytes", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]
    dead = tmp_path / ".0123456789abcdef.writing-x"  # of a process that was killed
    dead.mkdir()
    (dead / "train-00000.bin").write_bytes(b"half")
    prepare(DataConfig(path=text), ByteTokenizer(), "bytes", tmp_path)
    assert not dead.exists()
    about = json.loads((folder_of(tmp_path) / "data.json").read_text())
    assert about["format"] == 2
    assert about["documents"][0]["name"] == text.name


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_alone(dataset: Dataset) -> None:
    inputs, targets = dataset.batch(seed=1, step=7, n_sequences=4, length=16)
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, dataset.batch(1, 7, 4, 16)[0])
    assert not torch.equal(inputs, dataset.batch(1, 8, 4, 16)[0])
    assert not torch.equal(inputs, dataset.batch(2, 7, 4, 16)[0])
    assert torch.equal(inputs[:2], dataset.batch(1, 7, 2, 16)[0]), "a smaller batch is the beginning of a larger one"


def test_held_out_windows_follow_each_other(dataset: Dataset) -> None:
    batches = list(dataset.held_out_batches(n_tokens=40, n_sequences=2, length=16))
    assert [len(inputs) for inputs, _ in batches] == [2, 1]
    targets = torch.cat([targets for _, targets in batches]).flatten()
    assert torch.equal(targets, torch.from_numpy(dataset.held_out[1:49].astype(np.int64)))
    everything = list(dataset.held_out_batches(n_tokens=10**9, n_sequences=8, length=16))
    assert sum(targets.numel() for _, targets in everything) == (len(dataset.held_out) - 1) // 16 * 16


def test_what_does_not_fit_is_an_error(dataset: Dataset) -> None:
    longest = len(dataset.held_out) - 1
    dataset.check(longest, 256)
    with pytest.raises(InputError, match=f"{longest + 1} held-out tokens, a sequence has {longest + 2}"):
        dataset.check(longest + 1, 256)
    with pytest.raises(InputError, match="256 tokens, the model a vocabulary of 255"):
        dataset.check(longest, 255)
