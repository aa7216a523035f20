"""RMSNorm's two roundings, against the two published models that differ in them."""

from __future__ import annotations

import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from blockzoo_blocks.norms.rms_norm import RMSNormConfig


def pair(scale_in_fp32: bool, theirs: torch.nn.Module, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 96, generator=generator).bfloat16()
    ours = RMSNormConfig(eps=1e-6, scale_in_fp32=scale_in_fp32, weight_offset=offset).build(96).bfloat16()
    weight = torch.randn(96, generator=generator).bfloat16()
    with torch.no_grad():
        ours.weight.copy_(weight)
        theirs.bfloat16().weight.copy_(weight)
        return ours(x), theirs(x)


def test_both_roundings_equal_their_model_in_bfloat16() -> None:
    for found, expected in (
        pair(True, GptOssRMSNorm(96, eps=1e-6)),
        pair(False, Qwen3RMSNorm(96, eps=1e-6)),
        pair(True, Gemma3RMSNorm(96, eps=1e-6), offset=1.0),
    ):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected)


def test_the_roundings_differ() -> None:
    found, other = pair(True, Qwen3RMSNorm(96, eps=1e-6))
    assert 0.1 < float((found != other).float().mean()) < 0.5
