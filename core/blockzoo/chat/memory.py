"""What the model has read already, so that a turn reads only what is new.

A prompt that begins with what was read goes on from there. One that departs (formats drop earlier thinking) goes back
to where it departs, if every layer can; else to the bookmark set when the last prompt had been read, if the new one
begins with that; else everything is read anew. Each gives the logits that reading anew gives.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from blockzoo.cache import Bookmark
from blockzoo.generation import Sampler, decode, never
from blockzoo.model import Decoder
from blockzoo.recording import Steps

CHUNK = 512
"""Tokens read at once: how often a stop is looked for while a prompt is read."""


class Memory:
    """One model's cache of one conversation, ``max_length`` tokens at most.

    ``n_read``: how many tokens of the last prompt went through the model.
    """

    def __init__(self, model: Decoder, max_length: int, dtype: torch.dtype | None = None) -> None:
        self.model = model
        self.n_read = 0
        self._cache = model.new_cache(batch_size=1, max_length=max_length, dtype=dtype)
        self._steps = Steps(model, self._cache)
        self._tokens: list[int] = []
        self._bookmark: tuple[int, Bookmark] | None = None

    def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampler: Sampler,
        generator: torch.Generator,
        stop: Collection[int],
        stopped: Callable[[], bool] = never,
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt; ends after ``max_new_tokens``, before a token of ``stop``, or soon
        after ``stopped()`` is true.
        """
        logits = self.read(prompt, stopped)
        if logits is None:
            return
        for [(_, token)] in decode(
            self._run, logits, sampler, [generator], max_new_tokens=max_new_tokens, stop=stop, stopped=stopped
        ):
            yield token

    def read(self, prompt: Sequence[int], stopped: Callable[[], bool] = never) -> Tensor | None:
        """Logits (1, 1, V) after a prompt; None where it was stopped."""
        prompt = list(prompt)
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self._tokens, prompt, strict=False))
        # the last token is always read: logits are not kept
        self._go_back(min(sum(1 for _ in pairs), len(prompt) - 1))
        first, logits = len(self._tokens), None
        self.n_read = len(prompt) - first
        for start in range(first, len(prompt), CHUNK):
            if stopped():
                return None
            logits = self._run(torch.tensor([prompt[start : start + CHUNK]], device=self.model.device))
        self._bookmark = (len(prompt), self._cache.bookmark())
        return logits

    def forget(self) -> None:
        self._cache.reset()
        self._tokens, self._bookmark = [], None

    def _go_back(self, length: int) -> None:
        """To the first ``length`` tokens, or fewer."""
        if length == len(self._tokens):
            return
        if self._cache.can_rollback(length):
            self._cache.rollback(length)
        elif self._bookmark is not None and self._bookmark[0] <= length:
            length, place = self._bookmark
            self._cache.return_to(place)
        else:
            self.forget()
            return
        del self._tokens[length:]
        if self._bookmark is not None and self._bookmark[0] > length:
            self._bookmark = None

    @torch.no_grad()
    def _run(self, tokens: Tensor) -> Tensor:
        """Read tokens (1, T)."""
        try:
            logits = self._steps(tokens)
        except BaseException:  # some layers have these tokens, others don't
            self.forget()
            raise
        self._tokens += tokens[0].tolist()
        return logits
