"""Mistakes that published implementations shipped, each as a test.

Those on keys and tied weights are in test_saving and tests/unit/checkpoints.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.registry import Registry
from tests.parity import reference
from tests.parity.test_saving import PACK, read_by_transformers


@torch.no_grad()
def test_the_gates_limit_holds_for_packed_experts(tmp_path: Path, registry: Registry) -> None:
    """Was dropped on the MXFP4 path."""
    reference.saved("gpt_oss", tmp_path / "floats", swiglu_limit=0.05)
    ours = from_pretrained(tmp_path / "floats", registry=registry, overrides=PACK)
    save_pretrained(ours, tmp_path / "packed", registry=registry)
    theirs = read_by_transformers(tmp_path / "packed", quantization_config=transformers.Mxfp4Config(dequantize=True))
    tokens = reference.tokens(2, 40)
    want = theirs(tokens).logits
    assert reference.error(ours(tokens), want) < 1e-5
    unlimited = from_pretrained(tmp_path / "packed", registry=registry, overrides={"blocks.experts.expert.limit": 7.0})
    assert reference.error(unlimited(tokens), want) > 1e-3


@torch.no_grad()
def test_the_renormalization_of_router_weights_is_read(tmp_path: Path, registry: Registry) -> None:
    """The class's default was taken for the file's value."""
    tokens = reference.tokens(1, 20)
    for renormalized in (True, False):
        theirs = reference.saved("qwen3_moe", tmp_path / str(renormalized), norm_topk_prob=renormalized)
        ours = from_pretrained(tmp_path / str(renormalized), registry=registry)
        assert reference.error(ours(tokens), theirs(tokens).logits) < 1e-5


@torch.no_grad()
def test_the_window_counts_the_token_itself(tmp_path: Path, registry: Registry) -> None:
    """Off by one: with a window of w the last token depends on itself and w - 1 before it."""
    changes = {"layer_types": ["sliding_attention"], "num_hidden_layers": 1, "sliding_window": 8}
    reference.saved("gpt_oss", tmp_path, **changes)
    ours = from_pretrained(tmp_path, registry=registry)
    tokens = reference.tokens(1, 40)
    last = ours(tokens)[0, -1]
    for back, matters in ((7, True), (8, False)):
        changed = tokens.clone()
        changed[0, -1 - back] = (changed[0, -1 - back] + 1) % 211
        assert torch.equal(ours(changed)[0, -1], last) is not matters


@pytest.mark.parametrize("change", [{"position.scaling": None}, {"blocks.sliding.window": 1000}])
@torch.no_grad()
def test_yarn_and_window_are_felt_by_our_prompts(change: dict[str, object], tmp_path: Path, registry: Registry) -> None:
    """Both were ignored, unseen because every test prompt was shorter than the window."""
    theirs = reference.saved("gpt_oss", tmp_path, sliding_window=128)
    tokens = reference.tokens(1, 200)
    spoilt = from_pretrained(tmp_path, registry=registry, overrides=change)
    assert reference.error(spoilt(tokens), theirs(tokens).logits) > 1e-4


@pytest.mark.parametrize("kind", ["qwen3", "gpt_oss"])
@torch.no_grad()
def test_rotations_are_exact_in_bfloat16(kind: str, tmp_path: Path, registry: Registry) -> None:
    """Angles computed in bfloat16 are off by whole radians at positions past 4096."""
    theirs = reference.saved(kind, tmp_path)
    tokens, positions = reference.tokens(1, 40), torch.arange(40)[None] + 8000
    exact = theirs(tokens, position_ids=positions).logits
    rounded = theirs.to(torch.bfloat16)(tokens, position_ids=positions).logits
    ours = from_pretrained(tmp_path, registry=registry, dtype=torch.bfloat16)(tokens, positions=positions)
    assert reference.error(ours, exact) < 2 * reference.error(rounded, exact)


@torch.no_grad()
def test_sinks_on_more_than_one_kernel(tmp_path: Path, registry: Registry) -> None:
    """Were tested on one backend only."""
    theirs = reference.saved("gpt_oss", tmp_path)
    tokens = reference.tokens(2, 40)
    want = theirs(tokens).logits
    ours = from_pretrained(tmp_path, registry=registry)
    for kernel in ("reference", "sdpa"):  # flex compiles for minutes on a CPU: tests/contract has it
        ours.bind({"attention": kernel})
        assert reference.error(ours(tokens), want) < 1e-5, kernel
        cache = ours.new_cache(batch_size=2, max_length=40)
        parts = [ours(part, cache=cache) for part in tokens.split([30, *[1] * 10], dim=1)]
        assert reference.error(torch.cat(parts, dim=1), want) < 1e-5, kernel
