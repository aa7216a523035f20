"""Tokens to train on: text tokenised once into memory-mapped arrays, and batches that depend on (seed, step) alone.

Since batch ``step`` can be made at any time, a run that resumes needs no state of a loader.

Axes: B sequences, T tokens of a sequence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blockzoo.checkpoints.atomic import new_folder
from blockzoo.errors import CheckpointError, InputError
from blockzoo.tokenizers import Tokenizer
from blockzoo.training.config import DataConfig
from blockzoo.training.corpus import read_corpus, split

FORMAT = 1
"""Of the folders below; part of their names."""


@dataclass(frozen=True)
class Dataset:
    """A tokenised text. ``sha256`` is of the text and of its tokens: runs with different ones are never compared.

    ``token_lengths`` (n_tokens,): how many bytes of text each token stands for.
    """

    name: str
    sha256: str
    train: np.ndarray
    held_out: np.ndarray
    token_lengths: Tensor

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Tensor:
        """(n_sequences, length + 1) int64: inputs and, one to the right, targets. Depends on the arguments alone.

        Each sequence begins anywhere, drawn from a counter-based generator (Philox: Salmon et al. 2011).
        """
        starts = np.random.Philox(key=[seed, step]).random_raw(n_sequences) % (len(self.train) - length)
        windows = np.stack([self.train[start : start + length + 1] for start in starts.tolist()])
        return torch.from_numpy(windows.astype(np.int64))

    def held_out_batches(self, n_tokens: int, n_sequences: int, length: int) -> Iterator[Tensor]:
        """The first ``n_tokens`` held-out targets (or all there are), in order: (B <= n_sequences, length + 1)."""
        n_windows = min(-(-n_tokens // length), (len(self.held_out) - 1) // length)
        tokens = torch.from_numpy(self.held_out[: n_windows * length + 1].astype(np.int64))
        windows = tokens.unfold(0, length + 1, length)
        return iter(windows.split(n_sequences))

    def check(self, length: int) -> None:
        """Raise InputError where a sequence of ``length`` tokens doesn't fit."""
        for name, tokens in (("training", self.train), ("held-out", self.held_out)):
            if len(tokens) <= length:
                raise InputError(
                    f"{self.name}: {len(tokens)} {name} tokens, a sequence has {length + 1} (train.block and its"
                    " target): give more text or a shorter block"
                )


def prepare(config: DataConfig, tokenizer: Tokenizer, tokenizer_name: str, folder: Path) -> Dataset:
    """The dataset of a config, from a cache below ``folder`` or tokenised into it.

    Raises InputError where there is no text, CheckpointError where the cache can't be written.
    """
    corpus = read_corpus(config)
    key = f"{FORMAT}\0{corpus.sha256}\0{config.held_out}\0{tokenizer_name}\0{tokenizer.n_tokens}"
    cache = folder / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not cache.exists():
        train, held_out = split(corpus, config.held_out)
        about = {
            "name": corpus.name,
            "text_sha256": corpus.sha256,
            "text_bytes": corpus.n_bytes,
            "tokenizer": tokenizer_name,
            "held_out": config.held_out,
            "skipped": corpus.skipped,
            "documents": corpus.manifest,
        }
        try:
            _write(cache, tokenizer, {"train": train, "held_out": held_out}, about)
        except CheckpointError:
            if not cache.exists():  # else another process wrote the same tokens first
                raise
    about = json.loads((cache / "data.json").read_text())
    arrays = {name: _map(cache / f"{name}.bin", about["dtype"]) for name in ("train", "held_out")}
    lengths = torch.tensor(about["token_lengths"], dtype=torch.int64)
    return Dataset(about["name"], about["sha256"], arrays["train"], arrays["held_out"], lengths)


def _write(cache: Path, tokenizer: Tokenizer, parts: dict[str, list[str]], about: dict[str, Any]) -> None:
    """Tokenise into a new folder, which appears whole or not at all."""
    dtype = np.dtype(next(t for t in ("uint8", "uint16", "uint32") if tokenizer.n_tokens - 1 <= np.iinfo(t).max))
    digest = hashlib.sha256(about["text_sha256"].encode())
    with new_folder(cache) as folder:
        for name, pieces in parts.items():
            with (folder / f"{name}.bin").open("wb") as file:
                for piece in pieces:
                    data = np.asarray(tokenizer.encode(piece), dtype=dtype).tobytes()
                    digest.update(data)
                    file.write(data)
        lengths = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.n_tokens)]
        whole = {"sha256": digest.hexdigest(), "dtype": dtype.name, **about, "token_lengths": lengths}
        (folder / "data.json").write_text(json.dumps(whole))


def _map(file: Path, dtype: str) -> np.ndarray:
    return np.memmap(file, dtype=dtype, mode="r") if file.stat().st_size else np.zeros(0, dtype)
