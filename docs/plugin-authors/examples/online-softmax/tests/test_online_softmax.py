"""Equal to the op's definition beyond one block, never with all scores in memory, and not asked to do what it can't."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from blockzoo_online_softmax import BLOCK, attend
from torch.utils._python_dispatch import TorchDispatchMode

import blockzoo
from blockzoo.step import Keys
from blockzoo.testing import conformance
from blockzoo_blocks.mixers.attention import ATTENTION

test_conformance = conformance("online_softmax")

CHOOSE = {"attention": "online_softmax"}
TINY = {"vocab_size": 64, "context_length": 2048, "d_model": 32, "layers.count": 2, "blocks.dense.d_ff": 64}


class Largest(TorchDispatchMode):
    """Remembers the greatest number of elements of any tensor made inside."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def draw(n_queries: int, n_keys: int) -> tuple[Any, ...]:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, n_queries, 16), torch.randn(1, 2, n_keys, 16), torch.randn(1, 2, n_keys, 24)
    line = torch.arange(n_keys)[None]
    return q, k, v, line[:, n_keys - n_queries :], Keys(line, True)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window over blocks": {"window": 700},
    "window in a block": {"window": 3},
    "sinks": {"sinks": torch.linspace(-1, 2, 4)},
    "softcap": {"softcap": 2.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("n_queries", [2 * BLOCK + 100, BLOCK + 1, 1])
def test_beyond_one_block(n_queries: int, options: dict[str, Any]) -> None:
    arguments = draw(n_queries, 2 * BLOCK + 100)
    expected = ATTENTION.reference(*arguments, scale=0.25, **options)
    found = attend(*arguments, scale=0.25, **options)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_scores_never_stand_in_memory_all_at_once() -> None:
    arguments = draw(4 * BLOCK, 4 * BLOCK)
    with Largest() as seen:
        attend(*arguments, scale=0.25)
    assert seen.numel <= 4 * BLOCK**2 < (4 * BLOCK) ** 2


def test_it_serves_where_it_is_asked_for() -> None:
    config = blockzoo.load_config("gpt2", {**TINY, "blocks.attention.n_heads": 4, "blocks.attention.dropout": 0.0})
    model = blockzoo.build(config, kernels=CHOOSE)
    chosen = {line.phase: line.kernel for line in model.bindings if line.op == "attention"}
    assert chosen.pop("train") != "online_softmax"
    assert chosen == {"prefill": "online_softmax", "decode": "online_softmax"}
    assert "online_softmax" not in {line.kernel for line in blockzoo.build(config).bindings}
    tokens = torch.randint(0, 64, (1, BLOCK + 80))
    with torch.no_grad():
        expected = blockzoo.build(config, kernels={"attention": "reference"})(tokens)
        assert (model(tokens) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_dropout_is_no_matter_outside_training() -> None:
    config = blockzoo.load_config("gpt2", {**TINY, "blocks.attention.n_heads": 4, "blocks.attention.dropout": 0.1})
    chosen = {
        line.phase: line.kernel for line in blockzoo.build(config, kernels=CHOOSE).bindings if line.op == "attention"
    }
    assert chosen.pop("train") != "online_softmax"
    assert chosen == {"prefill": "online_softmax", "decode": "online_softmax"}
