"""The one loop that every way of generating runs: choose a token for each row, hand them out, read them.

Axes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor

from blockzoo.generation.sampling import Sampler


def never() -> bool:
    return False


def decode(
    read: Callable[[Tensor], Tensor],
    logits: Tensor,
    sampler: Sampler,
    generators: Sequence[torch.Generator],
    *,
    max_new_tokens: int,
    stop: Collection[int] = (),
    leave: Callable[[list[int]], None] | None = None,
    stopped: Callable[[], bool] = never,
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (row, token) pairs of each step; rows are counted as in the first ``logits`` (B, 1, V).

    ``read`` maps tokens (B, 1) to their logits (B, 1, V); the last tokens that are given out are not read. A row that
    comes to a token of ``stop`` ends before it: ``leave`` is told which of the rows that are left go on, if not all.
    Ends where no row does, after ``max_new_tokens``, or when ``stopped()`` is true. The caller turns gradients off.
    """
    rows = list(range(len(generators)))
    for left in range(max_new_tokens, 0, -1):
        if stopped():
            return
        chosen = sampler(logits[:, -1], [generators[row] for row in rows])
        going = [i for i, token in enumerate(chosen) if token not in stop]
        if not going:
            return
        if len(going) < len(rows):
            rows, chosen = [rows[i] for i in going], [chosen[i] for i in going]
            if leave is not None:
                leave(going)
        yield list(zip(rows, chosen, strict=True))
        if left > 1:
            logits = read(torch.tensor(chosen, device=logits.device)[:, None])
