"""What a mixer's cache owes: it changes nothing but the time, and costs what the config says.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from blockzoo.cache import ModelCache, Rollback, make_cache
from blockzoo.step import Phase
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.inputs import BATCH, LENGTH, inputs
from blockzoo.testing.mixers import CACHED, config_of, full_pass
from blockzoo.testing.products import need_flops
from blockzoo.testing.subjects import BlockSubject

CPU = torch.device("cpu")
SPLITS = ([0, LENGTH], [0, *range(1, LENGTH + 1)], [0, 5, *range(6, LENGTH + 1)], [0, 1, 4, 10, LENGTH], [0, 7, LENGTH])

PADDED = {"on the left": [-1, -1, 0, 1, 2, 3], "on the right": [0, 1, 2, 3, -1, -1], "in between": [0, -1, 1, 2, -1, 3]}


def new_cache(module: Any, batch: int = BATCH, length: int = LENGTH) -> ModelCache:
    return make_cache([module], batch, length, CPU, torch.float32)


def advance(module: Any, cache: ModelCache, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """One further pass: x (B, T, D) -> (B, T, D)."""
    phase: Phase = "decode" if x.shape[1] == 1 else "prefill"
    step = cache.step((x.shape[0], x.shape[1]), positions, phase)
    y = module(x, step, cache.states[0])
    cache.advance(step)
    return y


def in_parts(module: Any, cache: ModelCache, x: Tensor, cuts: Sequence[int]) -> Tensor:
    """All of x, cut into passes."""
    return torch.cat([advance(module, cache, x[:, a:b]) for a, b in pairwise(cuts)], dim=1)


def cache(subject: BlockSubject) -> None:
    """Prefill and decoding give what the full pass gives, however the tokens are split."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = full_pass(subject, module, x)
        for cuts in SPLITS:
            found = in_parts(module, new_cache(module), x, cuts)
            sizes = "+".join(str(b - a) for a, b in pairwise(cuts))
            need_close(found, full, CACHED, f"cached in passes of {sizes} tokens it differs from the full pass")


def cache_with_padding(subject: BlockSubject) -> None:
    """Rows of different length, padded wherever, decode on as each would alone."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = full_pass(subject, module, x)
        for where, places in PADDED.items():
            _padded_row(module, x, full, f"a prompt padded {where}", torch.tensor(places))


def _padded_row(module: Any, x: Tensor, full: Tensor, what: str, places: Tensor) -> None:
    """The second row's tokens stand at ``places``, with padding of -1; the first has no padding."""
    held, prompt, there = new_cache(module), len(places), places >= 0
    length = int(there.sum())
    padded = x[:, :prompt].clone()
    padded[1], padded[1, there] = 50.0, x[1, :length]
    y = advance(module, held, padded, torch.stack([torch.arange(prompt), places]))
    need_close(y[1, there], full[1, :length], CACHED, f"{what} with a cache differs from the row alone")
    for offset in range(LENGTH - prompt):
        new = torch.stack([x[0, prompt + offset], x[1, length + offset]])[:, None]
        expected = torch.stack([full[0, prompt + offset], full[1, length + offset]])
        y = advance(module, held, new)[:, 0]
        need_close(y, expected, CACHED, f"after {what}, decoded token {offset} differs from the row alone")


def cache_rows(subject: BlockSubject) -> None:
    """A state follows select (rows kept, repeated, reordered) and reset."""
    module, x, half = subject.build(), inputs(), LENGTH // 2
    with torch.no_grad():
        full, held = full_pass(subject, module, x), new_cache(module)
        in_parts(module, held, x, [0, half])
        held.select(torch.tensor([1, 0, 1]))
        found = advance(module, held, x[[1, 0, 1], half : half + 1])[:, 0]
        need_close(found, full[[1, 0, 1], half], CACHED, "after select the rows are not those that were asked for")
        held = new_cache(module)
        in_parts(module, held, x.flip(0), [0, half])
        held.reset()
        need_close(in_parts(module, held, x, [0, half]), full[:, :half], CACHED, "after reset it still remembers")


def cache_rolls_back(subject: BlockSubject) -> None:
    """A state that offers to roll back forgets exactly the latest tokens."""
    module, x, half = subject.build(), inputs(), LENGTH // 2
    held = new_cache(module)
    state = held.states[0]
    if not isinstance(state, Rollback):
        raise CheckSkipped(f"{type(state).__name__} offers no rollback")
    with torch.no_grad():
        full = full_pass(subject, module, x)
        in_parts(module, held, torch.cat([x[:, :half], x[:, :2] + 3], dim=1), [0, half, half + 1, half + 2])
        if not state.can_rollback(half):
            raise CheckSkipped("has evicted what it would have to bring back")
        held.rollback(half)
        found = advance(module, held, x[:, half : half + 1])[:, 0]
    need_close(found, full[:, half], CACHED, "after a rollback the next token differs: something was not forgotten")


def cache_keeps_no_graph(subject: BlockSubject) -> None:
    """After a pass with gradients the state remembers numbers, no graph: nothing in it has a grad_fn."""
    module, x = subject.build(), inputs().requires_grad_()
    held = new_cache(module)
    in_parts(module, held, x, [0, LENGTH - 1, LENGTH])
    for name, tensor in _tensors_in(held.states[0], type(held.states[0]).__name__):
        need(not tensor.requires_grad, f"{name} keeps the graph of the pass that wrote it alive: store it detached")


def _tensors_in(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a state holds, with where, however deep in objects of its own."""
    if isinstance(value, Tensor):
        yield name, value
        return
    inner = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    inner = dict(enumerate(value)) if isinstance(value, (list, tuple)) else inner
    for key, part in inner.items():
        yield from _tensors_in(part, f"{name}.{key}")


def cache_bytes(subject: BlockSubject) -> None:
    """The state holds exactly the bytes that cost() says, a sequence of any length."""
    module = subject.build()
    for length in (1, 4, LENGTH, 3 * LENGTH):
        held = new_cache(module, batch=3, length=length).nbytes()
        said = 3 * sum(tensor.nbytes(torch.float32) for tensor in subject.cost(length).cache)
        need(held == said, f"3 rows of {length} tokens hold {held} bytes, cost() says {said}")


def flops(subject: BlockSubject) -> None:
    """Decoding one token runs exactly the matrix products that cost() counts at that context."""
    module, x = subject.build(), inputs(batch=1)
    contexts = (1, 4, LENGTH) if config_of(subject).counts_decode else (1,)
    for context in contexts:
        held = new_cache(module, batch=1)
        with torch.no_grad():
            if context > 1:
                in_parts(module, held, x, [0, context - 1])
            with need_flops(subject.cost(context).flops, f"decoding at context {context}"):
                advance(module, held, x[:, context - 1 : context])


CHECKS = (cache, cache_with_padding, cache_rows, cache_rolls_back, cache_keeps_no_graph, cache_bytes, flops)
