"""Position encodings against transformers' own tables and the papers' numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from blockzoo.blocks import Dims
from blockzoo.config import load_config
from blockzoo.errors import ConfigError
from blockzoo.registry import Registry
from blockzoo.step import Step
from blockzoo_blocks.positions.alibi import AlibiConfig, alibi_slopes
from blockzoo_blocks.positions.learned import LearnedPositionConfig
from blockzoo_blocks.positions.rope import RopeConfig
from blockzoo_blocks.positions.rope_scaling import attention_factor, frequencies
from blockzoo_blocks.positions.sinusoidal import SinusoidalPositionConfig

CPU = torch.device("cpu")


def step(positions: torch.Tensor) -> Step:
    return Step(positions, positions, "prefill", consecutive=False)


CASES: list[tuple[dict[str, Any] | None, dict[str, Any]]] = [
    (None, {"rope_type": "default"}),
    ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    (
        {"type": "yarn", "factor": 32.0, "original_context_length": 4096, "truncate": False},
        {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False,
         "beta_fast": 32.0, "beta_slow": 1.0},
    ),
    (
        {"type": "yarn", "factor": 4.0, "original_context_length": 32768},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    (
        {"type": "llama3", "factor": 8.0, "original_context_length": 8192},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8192},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), CASES, ids=lambda case: str((case or {}).get("type", "")))
@pytest.mark.parametrize("theta", [10000.0, 150000.0, 1e6])
def test_rope_frequencies_equal_transformers_bit_for_bit(
    ours: dict[str, Any] | None, theirs: dict[str, Any], theta: float
) -> None:
    config = LlamaConfig(head_dim=64, max_position_embeddings=131072, rope_parameters={**theirs, "rope_theta": theta})
    recipe = RopeConfig.model_validate({"theta": theta, "scaling": ours})
    if theirs["rope_type"] == "default":
        inverse, factor = 1.0 / theta ** (torch.arange(0, 64, 2).float() / 64), 1.0
    else:
        inverse, factor = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, CPU)
    assert torch.equal(frequencies(theta, 64, recipe.scaling, CPU), inverse)
    assert attention_factor(recipe.scaling) == pytest.approx(factor, abs=1e-12)


NUMBERS = [1.0 + i / 7 for i in range(32)]
LONGROPE = {"factor": 8.0, "short_factor": NUMBERS, "long_factor": [3 * n for n in NUMBERS]}


@pytest.mark.parametrize("said", [{}, {"attention_factor": 1.25}, {"factor": 1.0}, {"factor": 40.0}])
def test_longropes_lists_equal_transformers_bit_for_bit(said: dict[str, float]) -> None:
    """The list follows from the model's context, theirs from the length that a pass has."""
    theirs = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096, **LONGROPE}
    config = LlamaConfig(head_dim=64, max_position_embeddings=131072, rope_parameters={**theirs, **said})
    scaling = {"type": "longrope", "original_context_length": 4096, **LONGROPE, **said}
    recipe = RopeConfig.model_validate({"scaling": scaling})
    assert recipe.refuses(64) is None
    for context in (256, 4096, 4097, 131072):
        inverse, factor = ROPE_INIT_FUNCTIONS["longrope"](config, CPU, seq_len=context)
        ours = recipe.explicit(Dims(64, 1, context)).scaling
        assert torch.equal(frequencies(10000.0, 64, ours, CPU), inverse)
        assert attention_factor(ours) == attention_factor(recipe.scaling) == pytest.approx(factor, abs=1e-12)


def test_longrope_wants_a_number_for_each_frequency(registry: Registry) -> None:
    def told(**said: Any) -> str:
        scaling = {"type": "longrope", "original_context_length": 8, **LONGROPE, **said}
        mixer = {"type": "gqa", "n_heads": 1, "head_dim": 64}
        model = {"name": "m", "vocab_size": 8, "context_length": 64, "d_model": 8, "norm": "rms_norm"}
        position = {"type": "rope", "scaling": scaling}
        with pytest.raises(ConfigError) as error:
            load_config(
                {**model, "position": position, "layers": {"count": 1, "mixer": mixer, "ffn": "none"}},
                registry=registry,
            )
        return str(error.value)

    wrong = told(long_factor=[1.0, 2.0])
    assert "position: scaling.long_factor has 2 numbers, 64 rotated features want 32" in wrong
    assert "scaling.short_factor" in told(short_factor=[])
    assert "scaling.short_factor" in told(short_factor=[1.0] * 31 + [0.0])
    assert "scaling.long_factor" in told(long_factor=[1.0] * 31 + [float("nan")])
    assert "scaling.long_factor" in told(long_factor="long")
    assert "scaling.original_context_length" in told(original_context_length=1)  # its logarithm divides
    assert "scaling.attention_factor" in told(attention_factor=0)
    assert "scaling.which" in told(which="middle")
    assert "scaling.factor" in told(factor=0.5)


def test_ntk_stretches_the_longest_wavelength_by_the_factor() -> None:
    recipe = RopeConfig.model_validate({"scaling": {"type": "ntk", "factor": 8.0}})
    plain, stretched = frequencies(1e4, 64, None, CPU), frequencies(1e4, 64, recipe.scaling, CPU)
    assert stretched[0] == plain[0]
    assert float(plain[-1] / stretched[-1]) == pytest.approx(8.0, rel=1e-4)


def test_rope_halves_equal_transformers_and_keep_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, heads, 9, 16, generator=generator) for heads in (4, 2))
    positions = torch.randint(0, 9000, (2, 9), generator=generator)
    rope = RopeConfig(theta=150000.0).build(16, 4)
    angles = positions[..., None].float() * frequencies(150000.0, 16, None, CPU)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    for found, expected in zip(rope.rotate(q, k, step(positions)), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    q16, k16 = rope.rotate(q.bfloat16(), k.bfloat16(), step(positions))
    assert q16.dtype == k16.dtype == torch.bfloat16


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.25])
def test_rope_scores_depend_on_distance_alone(interleaved: bool, fraction: float) -> None:
    rope = RopeConfig(interleaved=interleaved, fraction=fraction).build(32, 1)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 6, 32, generator=generator, dtype=torch.float64) for _ in range(2))
    scores = []
    for shift in (0, 1000):
        turned_q, turned_k = rope.rotate(q, k, step(torch.arange(6)[None] + shift))
        scores.append(turned_q @ turned_k.transpose(-1, -2))
    assert torch.allclose(scores[0], scores[1], atol=1e-6)
    rotated = int(32 * fraction)
    turned, _ = rope.rotate(q, k, step(torch.arange(6)[None]))
    assert torch.equal(turned[..., rotated:], q[..., rotated:])
    assert not torch.equal(turned[..., 1:, :rotated], q[..., 1:, :rotated])


def test_one_table_serves_all_layers_of_equal_config() -> None:
    at = step(torch.arange(4)[None])
    q = torch.randn(1, 1, 4, 16)
    for theta in (1e4, 1e4, 1e6):
        RopeConfig(theta=theta).build(16, 1).rotate(q, q, at)
    assert len(at.tables) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"theta": 1, "scaling": {"type": "yarn", "factor": 4, "original_context_length": 64}},
        {"theta": 1e-300},
        {
            "scaling": {
                "type": "longrope",
                "factor": 1,
                "original_context_length": 64,
                "short_factor": [1e-300, 1, 1, 1],
                "long_factor": [1, 1, 1, 1],
            }
        },
        {"scaling": {"type": "ntk", "factor": 1e300}},
        {
            "scaling": {
                "type": "yarn",
                "factor": 4,
                "original_context_length": 64,
                "beta_fast": 1e308,
                "beta_slow": 1e-320,
            }
        },
    ],
)
def test_frequencies_that_are_no_numbers_are_refused(wrong: dict[str, Any]) -> None:
    assert RopeConfig(theta=1e300).refuses(8) is None
    assert (RopeConfig(**wrong).refuses(8) or "").endswith("give frequencies that are no numbers")


def test_odd_rotation_is_refused() -> None:
    assert "found 3 features: head_dim 10 times fraction 0.3" in str(RopeConfig(fraction=0.3).refuses(10))
    assert RopeConfig(fraction=0.5).refuses(8) is None


@pytest.mark.parametrize("heads", [1, 2, 6, 8, 12, 20])
def test_alibi_equals_blooms(heads: int) -> None:
    mask = torch.ones(1, 7)
    theirs = build_alibi_tensor(mask, heads, torch.float32)[:, 0]  # (heads, 7): slope * key position
    ours = AlibiConfig().build(8, heads).bias(torch.full((1, 1), 6), torch.arange(7)[None])[0, :, 0]
    assert torch.allclose(ours - ours[:, :1], theirs, atol=1e-6)
    assert ours[:, -1].abs().max() == 0
    assert len(alibi_slopes(heads)) == heads


def test_sinusoidal_by_the_papers_formula() -> None:
    found = SinusoidalPositionConfig().build(Dims(8, 1, 64))(torch.tensor([[0, 3, 50]]))[0]
    for row, position in enumerate((0, 3, 50)):
        for i in range(4):
            angle = torch.tensor(position / 10000 ** (2 * i / 8))
            assert found[row, 2 * i] == pytest.approx(float(angle.sin()), abs=1e-5)
            assert found[row, 2 * i + 1] == pytest.approx(float(angle.cos()), abs=1e-5)
    assert list(SinusoidalPositionConfig().check(Dims(7, 1, 64)))


def test_learned_positions_are_rows() -> None:
    module = LearnedPositionConfig().build(Dims(4, 1, 6))
    assert torch.equal(module(torch.tensor([[5, 0]]))[0, 0], module.weight[5])
    assert module(torch.tensor([[-1]])).isfinite().all()
