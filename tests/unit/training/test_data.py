"""Text, its split, its tokens, and the order of batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from blockzoo.errors import InputError
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.config import DataConfig
from blockzoo.training.corpus import read_corpus, split
from blockzoo.training.data import Dataset, prepare


class WideTokenizer(ByteTokenizer):
    """Bytes, in a vocabulary that needs more than one byte an id."""

    n_tokens = 70_000

    def token_bytes(self, token: int) -> bytes:
        return bytes([token % 256])


def test_the_default_is_the_standard_library() -> None:
    corpus = read_corpus(DataConfig(max_bytes=200_000))
    names = [document.name for document in corpus.documents]
    assert names == sorted(names)
    assert "__future__.py" in names
    assert not any("site-packages" in name or "/test" in name for name in names)
    assert corpus.n_bytes == 200_000
    everything = [document.name for document in read_corpus(DataConfig()).documents]
    assert "pydoc_data/topics.py" in everything


def test_the_hash_is_of_names_and_texts(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    first = read_corpus(DataConfig(path=tmp_path))
    assert [d.name for d in first.documents] == ["a.txt", "b.txt"]
    assert first.sha256 == read_corpus(DataConfig(path=tmp_path)).sha256
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert read_corpus(DataConfig(path=tmp_path)).sha256 != first.sha256


def test_what_is_no_text_is_skipped_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\r\nmore\r\n", newline="")
    (tmp_path / "b.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / ".hidden").write_text("secret")
    corpus = read_corpus(DataConfig(path=tmp_path))
    assert [d.text for d in corpus.documents] == ["text\nmore\n"]
    assert corpus.skipped == ("b.bin",)


@pytest.mark.parametrize("what", ["nothing", "empty folder", "binary", "empty file"])
def test_no_text_is_an_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / "it"
    if what == "empty folder":
        path.mkdir()
    elif what != "nothing":
        path.write_bytes(b"\xff\x00" if what == "binary" else b"")
    with pytest.raises(InputError, match="it: no"):
        read_corpus(DataConfig(path=path))


def test_the_split_loses_nothing_and_holds_out_what_was_asked(text: Path) -> None:
    corpus = read_corpus(DataConfig(path=text))
    train, held_out = split(corpus, 0.1)
    assert sum(map(len, train + held_out)) == corpus.n_bytes
    assert 0.1 <= sum(map(len, held_out)) / corpus.n_bytes < 0.15
    assert all(piece.endswith("\n") for piece in train + held_out)
    assert split(corpus, 0.1) == (train, held_out)
    with pytest.raises(InputError, match="too short"):
        split(read_corpus(DataConfig(path=text, max_bytes=1)), 0.1)


@pytest.mark.parametrize(("tokenizer", "dtype"), [(ByteTokenizer(), "uint8"), (WideTokenizer(), "uint32")])
def test_tokens_are_made_once_in_the_smallest_dtype(
    text: Path, tmp_path: Path, tokenizer: ByteTokenizer, dtype: str
) -> None:
    first = prepare(DataConfig(path=text), tokenizer, "t", tmp_path)
    assert first.train.dtype == dtype
    tokenizer.encode = None  # type: ignore[assignment, method-assign]  # a second time must not tokenise
    second = prepare(DataConfig(path=text), tokenizer, "t", tmp_path)
    assert second.sha256 == first.sha256
    assert np.array_equal(second.train, first.train)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_batch_depends_on_seed_and_step_alone(dataset: Dataset) -> None:
    batch = dataset.batch(seed=1, step=7, n_sequences=4, length=16)
    assert batch.shape == (4, 17)
    assert batch.dtype == torch.int64
    assert torch.equal(batch, dataset.batch(1, 7, 4, 16))
    assert not torch.equal(batch, dataset.batch(1, 8, 4, 16))
    assert not torch.equal(batch, dataset.batch(2, 7, 4, 16))
    assert torch.equal(batch[:2], dataset.batch(1, 7, 2, 16)), "a smaller batch is the beginning of a larger one"


def test_held_out_windows_follow_each_other(dataset: Dataset) -> None:
    batches = list(dataset.held_out_batches(n_tokens=40, n_sequences=2, length=16))
    assert [len(batch) for batch in batches] == [2, 1]
    targets = torch.cat(batches)[:, 1:].flatten()
    assert torch.equal(targets, torch.from_numpy(dataset.held_out[1:49].astype(np.int64)))
    everything = list(dataset.held_out_batches(n_tokens=10**9, n_sequences=8, length=16))
    assert sum(batch[:, 1:].numel() for batch in everything) == (len(dataset.held_out) - 1) // 16 * 16


def test_a_text_shorter_than_a_sequence_is_an_error(dataset: Dataset) -> None:
    longest = len(dataset.held_out) - 1
    dataset.check(longest)
    with pytest.raises(InputError, match=f"{longest + 1} held-out tokens, a sequence has {longest + 2}"):
        dataset.check(longest + 1)
