"""What a token mixer owes beside what every block does: causality, padding, windows, and a cache that changes nothing.

Axes: B batch, T tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from blockzoo.blocks import MixerConfig
from blockzoo.cache import ModelCache, Rollback, make_cache
from blockzoo.step import Phase
from blockzoo.testing.check import CheckSkipped, need, need_close
from blockzoo.testing.numerics import FEW_ULP
from blockzoo.testing.subjects import BATCH, LENGTH, BlockSubject, draw, inputs, padded_step, step_of

CPU = torch.device("cpu")
CACHED = 1e-5  # of the greatest value, float32: the order of sums may differ
SPLITS = ([0, LENGTH], [0, *range(1, LENGTH + 1)], [0, 5, *range(6, LENGTH + 1)], [0, 1, 4, 10, LENGTH], [0, 7, LENGTH])


def _config(subject: BlockSubject) -> MixerConfig:
    assert isinstance(subject.config, MixerConfig)
    return subject.config


def _full(subject: BlockSubject, module: Any, x: Tensor) -> Tensor:
    return subject.call(module, x, step_of(*x.shape[:2]))


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


# --- what a token sees ---


def causality(subject: BlockSubject) -> None:
    """No output depends on a later token, by value and by gradient."""
    module, x, cut = subject.build(), inputs(), LENGTH // 2
    changed = torch.cat([x[:, :cut], 5 * draw(*x[:, cut:].shape, seed=7)], dim=1)
    with torch.no_grad():
        before, after = (_full(subject, module, y)[:, :cut] for y in (x, changed))
    what = f"the outputs of tokens 0..{cut - 1} change with later tokens: mask what stands after the query"
    if _config(subject).row_independent:
        need(torch.equal(before, after), f"{what} (bit for bit, as row_independent = True says)")
    need_close(after, before, FEW_ULP, what)
    for token in (0, cut, LENGTH - 2):
        seen = _seen_by(subject, module, token)
        later = [t for t in range(token + 1, LENGTH) if seen[t] > 0]
        need(not later, f"token {token} has a gradient from later tokens {later}: mask what stands after the query")


def _seen_by(subject: BlockSubject, module: Any, token: int) -> list[float]:
    """The greatest gradient from each token of the input to the output at ``token``."""
    x = inputs().requires_grad_()
    (gradient,) = torch.autograd.grad(_full(subject, module, x)[:, token].square().sum(), x)
    return gradient.abs().amax(dim=(0, 2)).tolist()


def mixes(subject: BlockSubject) -> None:
    """The last token sees the first one that is within reach."""
    reach = _config(subject).reach
    first = 0 if reach is None else max(0, LENGTH - reach)
    seen = _seen_by(subject, subject.build(), LENGTH - 1)
    need(seen[first] > 0, f"the last of {LENGTH} tokens does not see token {first}: it should, with a reach of {reach}")


def window(subject: BlockSubject) -> None:
    """A token of a mixer with a window sees just the last ``reach`` tokens, itself included."""
    reach = _config(subject).reach
    if reach is None:
        raise CheckSkipped("declares no window: reach is None")
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = _full(subject, module, x)
        for t in range(LENGTH):
            first = max(0, t + 1 - reach)
            alone = subject.call(module, x[:, first : t + 1], step_of(length=t + 1 - first, start=first))[:, -1]
            need_close(
                alone,
                full[:, t],
                CACHED,
                f"token {t} differs from what it is when shown only its window, tokens {first}..{t} (reach {reach})",
            )


def padding(subject: BlockSubject) -> None:
    """Padding (position -1), left, right or between, changes no other token, whatever stands in it."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = _full(subject, module, x)
        for name, columns in (("left", range(3, LENGTH)), ("right", range(LENGTH - 3)), ("inner", [0, 1, 4, 5, 6, 9])):
            real = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
            real[0, list(columns)] = True
            real[1] = True
            for content in (0.0, 50.0):
                batch = torch.where(real[..., None], x, content)
                batch[0, list(columns)] = x[0, : len(list(columns))]
                y = subject.call(module, batch, padded_step(real))
                what = f"{name} padding changes"
                need_close(y[0, list(columns)], full[0, : len(list(columns))], CACHED, f"{what} the row's other tokens")
                need_close(y[1], full[1], CACHED, f"{what} another row")


def position_shift(subject: BlockSubject) -> None:
    """Where declared, moving all positions by one distance changes nothing."""
    config, position = _config(subject), subject.position
    if not config.shift_invariant:
        raise CheckSkipped("declares shift_invariant = False")
    if position is not None and not position.shift_invariant:
        raise CheckSkipped(f"{type(position).__name__} declares shift_invariant = False")
    module, x = subject.build(torch.float64), inputs(torch.float64)
    with torch.no_grad():
        here, there = (subject.call(module, x, step_of(start=start)) for start in (0, 17))
    need_close(there, here, 1e-5, "moving all positions by 17 changes the outputs: declare shift_invariant = False")


# --- the cache ---


def cache(subject: BlockSubject) -> None:
    """Prefill and decoding give what the full pass gives, however the tokens are split."""
    module, x = subject.build(), inputs()
    with torch.no_grad():
        full = _full(subject, module, x)
        for cuts in SPLITS:
            found = in_parts(module, new_cache(module), x, cuts)
            sizes = "+".join(str(b - a) for a, b in pairwise(cuts))
            need_close(found, full, CACHED, f"cached in passes of {sizes} tokens it differs from the full pass")


def cache_with_padding(subject: BlockSubject) -> None:
    """Rows of different length, padded on the left, decode on as each would alone."""
    module, x, prompt = subject.build(), inputs(), 6
    positions = torch.arange(prompt).repeat(BATCH, 1)
    positions[1] = torch.tensor([-1, -1, 0, 1, 2, 3])
    padded = torch.cat([x[:1, :prompt], torch.cat([torch.full_like(x[1:, :2], 50.0), x[1:, :4]], dim=1)])
    with torch.no_grad():
        full, held = _full(subject, module, x), new_cache(module)
        y = advance(module, held, padded, positions)
        what = "a padded prompt"
        need_close(y[1, 2:], full[1, :4], CACHED, f"{what} with a cache differs from the row alone")
        for offset in range(LENGTH - prompt):
            new = torch.stack([x[0, prompt + offset], x[1, 4 + offset]])[:, None]
            expected = torch.stack([full[0, prompt + offset], full[1, 4 + offset]])
            y = advance(module, held, new)[:, 0]
            need_close(y, expected, CACHED, f"after {what}, decoded token {offset} differs from the row alone")


def cache_rows(subject: BlockSubject) -> None:
    """A state follows select (rows kept, repeated, reordered) and reset."""
    module, x, half = subject.build(), inputs(), LENGTH // 2
    with torch.no_grad():
        full, held = _full(subject, module, x), new_cache(module)
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
        full = _full(subject, module, x)
        in_parts(module, held, torch.cat([x[:, :half], x[:, :2] + 3], dim=1), [0, half, half + 1, half + 2])
        if not state.can_rollback(half):
            raise CheckSkipped("has evicted what it would have to bring back")
        held.rollback(half)
        found = advance(module, held, x[:, half : half + 1])[:, 0]
    need_close(found, full[:, half], CACHED, "after a rollback the next token differs: something was not forgotten")


# --- cost ---


def cache_bytes(subject: BlockSubject) -> None:
    """The state holds exactly the bytes that cost() says, a sequence of any length."""
    module = subject.build()
    for length in (1, 4, LENGTH, 3 * LENGTH):
        held = new_cache(module, batch=3, length=length).nbytes()
        said = 3 * sum(tensor.nbytes(torch.float32) for tensor in subject.cost(length).cache)
        need(held == said, f"3 rows of {length} tokens hold {held} bytes, cost() says {said}")


def _fused_flops(q: torch.Size, k: torch.Size, v: torch.Size, *rest: Any, out_shape: Any, **options: Any) -> int:
    return sdpa_flop_count(q, k, v)


UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused_flops}
"""Fused attention on the CPU, which torch's counter leaves out."""


def flops(subject: BlockSubject) -> None:
    """Decoding one token runs exactly the matrix products that cost() counts at that context."""
    module, x = subject.build(), inputs(batch=1)
    contexts = (1, 4, LENGTH) if _config(subject).counts_decode else (1,)
    for context in contexts:
        held = new_cache(module, batch=1)
        with torch.no_grad():
            if context > 1:
                in_parts(module, held, x, [0, context - 1])
            with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
                advance(module, held, x[:, context - 1 : context])
        counted, said = counter.get_total_flops(), subject.cost(context).flops
        need(
            counted == said,
            f"decoding at context {context} takes {counted} FLOPs by torch's counter, cost() says {said}",
        )


CHECKS = (
    causality,
    mixes,
    window,
    padding,
    position_shift,
    cache,
    cache_with_padding,
    cache_rows,
    cache_rolls_back,
    cache_bytes,
    flops,
)
