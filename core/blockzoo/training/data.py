"""Tokens to train on: text tokenised once into memory-mapped shards, and batches that depend on (seed, step) alone.

Since batch ``step`` can be made at any time, a run that resumes needs no state of a loader.

Axes: B sequences, T tokens of a sequence.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blockzoo.checkpoints.atomic import new_folder
from blockzoo.errors import InputError
from blockzoo.tokenizers import Tokenizer
from blockzoo.training.corpus import Corpus, read_corpus
from blockzoo.training.data_config import DataConfig
from blockzoo.training.datasets import DatasetCorpus
from blockzoo.training.lock import alone
from blockzoo.training.shards import PARTS, ShardWriter, Tokens, open_tokens, read_about
from blockzoo.training.source import Batch, Source
from blockzoo.training.tasks.source import TaskSource

FORMAT = 2
"""Of the folders below; part of their names and of every data set's hash."""


@dataclass(frozen=True)
class Dataset:
    """A tokenised text. ``sha256`` is of the text and of its tokens: runs with different ones are never compared.

    ``token_lengths`` (n_tokens,): how many bytes of text each token stands for.
    """

    name: str
    sha256: str
    train: np.ndarray | Tokens
    held_out: np.ndarray | Tokens
    token_lengths: Tensor
    metric: ClassVar[str] = "bits_per_byte"
    lower_is_better: ClassVar[bool] = True
    scores_all: ClassVar[bool] = True

    @property
    def n_tokens(self) -> int:
        """Of the tokenizer."""
        return len(self.token_lengths)

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        """Inputs and, one to the right, targets: (n_sequences, length) each. Depends on the arguments alone.

        Each sequence begins anywhere, drawn from a counter-based generator (Philox: Salmon et al. 2011).
        """
        starts = np.random.Philox(key=[seed, step]).random_raw(n_sequences) % (len(self.train) - length)
        windows = np.stack([self.train[start : start + length + 1] for start in starts.tolist()])
        return _shifted(torch.from_numpy(windows.astype(np.int64)))

    def held_out_batches(self, n_tokens: int, n_sequences: int, length: int) -> Iterator[Batch]:
        """The first ``n_tokens`` held-out targets (or all there are), in order, in windows that don't overlap.

        So every token is predicted from those before it in its window.
        """
        n_windows = min(-(-n_tokens // length), (len(self.held_out) - 1) // length)
        tokens = torch.from_numpy(self.held_out[: n_windows * length + 1].astype(np.int64))
        windows = tokens.unfold(0, length + 1, length)
        return map(_shifted, windows.split(n_sequences))

    def tally(self, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Nats, and the bytes of text that the targets stand for."""
        n_bytes = self.token_lengths[targets.cpu()].sum()
        return torch.stack([losses.cpu().double().sum(), n_bytes.double()])

    def figures(self, totals: Tensor) -> dict[str, float]:
        nats, n_bytes = totals.tolist()
        return {self.metric: nats / math.log(2) / n_bytes}

    def check(self, length: int, vocab_size: int) -> None:
        """Raise InputError where a sequence of ``length`` tokens doesn't fit, or ids don't into a vocabulary."""
        for name, tokens in (("training", self.train), ("held-out", self.held_out)):
            if len(tokens) <= length:
                raise InputError(
                    f"{self.name}: {len(tokens)} {name} tokens, a sequence has {length + 1} (train.block and its"
                    " target): give more text or a shorter block"
                )
        if self.n_tokens > vocab_size:
            raise InputError(
                f"{self.name}: its tokenizer has {self.n_tokens} tokens, the model a vocabulary of {vocab_size}: set"
                " vocab_size, or name another tokenizer"
            )


def prepare(config: DataConfig, tokenizer: Tokenizer, tokenizer_name: str, folder: Path) -> Source:
    """The data of a config: a task, or text from a cache below ``folder``, or tokenised into it.

    Raises InputError where there is no text, CheckpointError where the cache is damaged or can't be written.
    """
    if config.task is not None:
        return TaskSource(config.task, config.held_out)
    corpus: Corpus = (
        read_corpus(config)
        if config.dataset is None
        else DatasetCorpus(config.dataset, config.held_out, config.max_bytes)
    )
    key = f"{FORMAT}\0{corpus.key}\0{config.held_out}\0{tokenizer_name}\0{tokenizer.n_tokens}"
    cache = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not cache.exists():
        with alone(folder, f"{folder}: another process makes tokens here", wait=True):
            # whoever was here before may have done it, or died over it
            for left in folder.glob(".*.writing-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not cache.exists():
                _tokenize(corpus, tokenizer, tokenizer_name, config.held_out, cache)
    about = read_about(cache)
    parts = open_tokens(cache, about, verify=config.verify)
    lengths = torch.tensor(about["token_lengths"], dtype=torch.int64)
    return Dataset(corpus.name, about["sha256"], parts["train"], parts["held_out"], lengths)


def _tokenize(corpus: Corpus, tokenizer: Tokenizer, tokenizer_name: str, fraction: float, cache: Path) -> None:
    """Tokenise into a new folder, which appears whole or not at all, holding one piece of text at a time."""
    dtype = np.dtype(next(t for t in ("uint8", "uint16", "uint32") if tokenizer.n_tokens - 1 <= np.iinfo(t).max))
    with new_folder(cache) as folder:
        with ShardWriter(folder, "train", dtype) as train, ShardWriter(folder, "held_out", dtype) as held_out:
            for text, is_held_out in corpus.pieces():
                (held_out if is_held_out else train).write(tokenizer.encode(text))
        shards = {"train": train.shards, "held_out": held_out.shards}
        about = {"name": corpus.name, "tokenizer": tokenizer_name, "held_out": fraction, **corpus.about()}
        hashes = {part: [shard["sha256"] for shard in shards[part]] for part in PARTS}
        decides = [FORMAT, about["text_sha256"], tokenizer_name, dtype.name, hashes]
        sha256 = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.n_tokens)]
        whole = {
            "format": FORMAT,
            "sha256": sha256,
            "dtype": dtype.name,
            "shards": shards,
            **about,
            "token_lengths": lengths,
        }
        (folder / "data.json").write_text(json.dumps(whole), encoding="utf-8")


def _shifted(windows: Tensor) -> Batch:
    """(B, T + 1) -> inputs and targets."""
    return windows[:, :-1], windows[:, 1:]
