"""Recorded steps against the model's own, bit for bit, and what must not be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo import building
from blockzoo.blocks import Aux, Cost, Dims, FFNConfig, LinearFactory
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.generation import generate, generate_batch
from blockzoo.model import Decoder
from blockzoo.recording import Noted, Steps
from blockzoo.recording.anatomy import declared
from blockzoo.registry import Registrar, Registry
from blockzoo_blocks.quantizers.int8 import Int8Config
from blockzoo_cpu import library
from tests.conftest import builtin_registry

pytestmark = pytest.mark.skipif(library.problem() is not None, reason="nothing plays recordings without a C compiler")
TINY = {"vocab_size": 96, "context_length": 256}
GPT2 = {**TINY, "d_model": 48, "layers.mixer.n_heads": 4, "layers.count": 2, "layers.ffn.d_ff": 96}
QWEN3 = {**TINY, "d_model": 48, "layers.mixer.n_heads": 4, "layers.mixer.n_kv_heads": 2, "layers.mixer.head_dim": 16}
QWEN3 |= {"layers.count": 2, "layers.ffn.d_ff": 96}
GPT_OSS = {**TINY, "d_model": 64, "layers.count": 2, "blocks.full.n_heads": 4, "blocks.full.n_kv_heads": 2}
GPT_OSS |= {"blocks.full.head_dim": 16, "blocks.sliding.window": 24, "blocks.experts.n_experts": 4}
GPT_OSS |= {"blocks.experts.top_k": 2, "blocks.experts.expert.d_ff": 64}
MODELS = {"gpt2/gpt2": GPT2, "qwen3/qwen3-0.6b": QWEN3, "gpt_oss/gpt-oss-20b": GPT_OSS}
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def made(name: str, registry: Registry, dtype: torch.dtype = torch.float32, **overrides: Any) -> Decoder:
    config = load_config(str(CONFIGS / f"{name}.yaml"), {**MODELS[name], **overrides}, registry=registry)
    return building.build(config, registry=registry, dtype=dtype, seed=1)


def tokens(n: int, rows: int = 1, seed: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 96, (rows, 1), generator=generator) for _ in range(n))


def nothing(i: int, cache: Any) -> None:
    pass


def agree(model: Decoder, n: int = 60, rows: int = 1, change: Callable[[int, Any], None] = nothing) -> Steps:
    """Read a prompt and ``n`` tokens by steps and by the model alone; all logits must be equal."""
    plain, ours = model.new_cache(rows, 200), model.new_cache(rows, 200)
    steps = Steps(model, ours)
    prompt = torch.randint(0, 96, (rows, 7), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert torch.equal(steps(prompt), model(prompt, cache=plain, last_only=True))
        for i, token in enumerate(tokens(n, rows)):
            change(i, plain)
            change(i, ours)
            token = token[: ours.batch_size]
            expected = model(token, cache=plain, last_only=True)
            assert torch.equal(steps(token), expected), (i, steps.why_not)
    assert torch.equal(plain.lengths, ours.lengths)
    return steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_recording_gives_the_same_bits(name: str, dtype: torch.dtype, registry: Registry) -> None:
    """gpt-oss's rings of 24 come to their end twice."""
    steps = agree(made(name, registry, dtype))
    assert steps.recorded
    assert steps.why_not is None


@pytest.mark.parametrize("name", MODELS)
def test_several_rows(name: str, registry: Registry) -> None:
    assert agree(made(name, registry, torch.bfloat16), rows=3).recorded


def test_rows_that_leave_and_move(registry: Registry) -> None:
    def change(i: int, cache: Any) -> None:
        if i in (20, 21, 40):
            cache.select(torch.tensor([2, 0, 1] if i == 20 else [1, 0]))

    assert agree(made("qwen3/qwen3-0.6b", registry), rows=3, change=change).recorded


def test_a_cache_that_is_rolled_back_and_emptied(registry: Registry) -> None:
    def change(i: int, cache: Any) -> None:
        if i == 25:
            cache.rollback(12)
        if i == 45:
            cache.reset()

    assert agree(made("qwen3/qwen3-0.6b", registry), change=change).recorded


def test_attention_whose_scores_grow_is_not_recorded(registry: Registry) -> None:
    model = made("qwen3/qwen3-0.6b", registry)
    model.bind({"attention": "reference"})
    steps = agree(model, n=12)
    assert not steps.recorded
    assert "a step later" in str(steps.why_not)


def test_without_c_kernels_pytorch_s_calls_are_recorded(registry: Registry) -> None:
    assert agree(made("qwen3/qwen3-0.6b", registry, torch.float64), n=20).recorded


def test_without_a_player(registry: Registry) -> None:
    model = made("gpt2/gpt2", registry)
    model.players = []
    assert agree(model, n=12).why_not == "no plugin plays recordings here"


def cast(model: Decoder) -> None:
    model.to(torch.bfloat16)


def replaced(model: Decoder) -> None:
    norm = model.layers[0].mixer_norm
    norm.weight = nn.Parameter(norm.weight * 2)


def pointed_elsewhere(model: Decoder) -> None:
    norm = model.layers[1].ffn_norm
    norm.weight.data = norm.weight.data * 3


def assigned(model: Decoder) -> None:
    model.load_state_dict({name: tensor * 0.5 for name, tensor in model.state_dict().items()}, assign=True)


def exchanged(model: Decoder) -> None:
    model.layers[0] = model.layers[1]


def watched(model: Decoder) -> None:
    model.layers[0].register_forward_hook(lambda module, args, out: (out[0] * 1.5, out[1]))


@pytest.mark.parametrize("change", [cast, replaced, pointed_elsewhere, assigned, exchanged, watched])
def test_a_model_that_is_changed_meanwhile(change: Callable[[Decoder], None], registry: Registry) -> None:
    model = made("qwen3/qwen3-0.6b", registry)
    plain, ours = model.new_cache(1, 64), model.new_cache(1, 64)
    steps = Steps(model, ours)
    with torch.no_grad():
        for i, token in enumerate(tokens(30)):
            if i == 12:
                assert steps.recorded
                change(model)
            assert torch.equal(steps(token), model(token, cache=plain, last_only=True)), i


def test_a_cache_whose_rows_got_positions_of_their_own(registry: Registry) -> None:
    model = made("qwen3/qwen3-0.6b", registry)
    plain, ours = model.new_cache(1, 64), model.new_cache(1, 64)
    steps = Steps(model, ours)
    with torch.no_grad():
        for token in tokens(12):
            assert torch.equal(steps(token), model(token, cache=plain, last_only=True))
        token, own = torch.tensor([[3]]), torch.tensor([[12]])
        assert torch.equal(steps(token, own), model(token, positions=own, cache=plain, last_only=True))
        plain.rollback(9)
        ours.rollback(9)
        for token in tokens(5, seed=2):
            assert torch.equal(steps(token), model(token, cache=plain, last_only=True))
        several = torch.tensor([[1, 2, 3]])
        assert torch.equal(steps(several), model(several, cache=plain, last_only=True))


def test_rings_end_where_the_cache_does(registry: Registry) -> None:
    model = made("gpt_oss/gpt-oss-20b", registry, **{"layers.mixer": "sliding"})
    cache = model.new_cache(1, 40)
    steps = Steps(model, cache)
    for token in tokens(40):
        steps(token)
    with pytest.raises(InputError, match="41 tokens don't fit"):
        steps(torch.tensor([[1]]))


def test_hooks_are_not_passed_by(registry: Registry) -> None:
    model, seen = made("gpt2/gpt2", registry), []
    model.layers[1].register_forward_hook(lambda *args: seen.append(1))
    steps = agree(model, n=12)
    assert "hooks" in str(steps.why_not)
    assert len(seen) == 26


def test_generation_replays(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("gpt2/gpt2", registry)
    expected = list(generate(model, [1, 2, 3], max_new_tokens=40))
    runs: list[int] = []
    compute = model.compute
    monkeypatch.setattr(model, "compute", lambda *args, **more: (runs.append(1), compute(*args, **more))[1])
    assert list(generate(model, [1, 2, 3], max_new_tokens=40)) == expected
    assert len(runs) == 3  # the prompt, and two steps that are noted
    assert generate_batch(model, [[1, 2, 3], [4, 5]], max_new_tokens=40)[0] == expected


# --- what must not be recorded ---


class OddConfig(FFNConfig):
    """Adds ``what(x)``, which a test sets."""

    recordable: ClassVar[bool] = True

    def build(self, dims: Dims, linear: LinearFactory = nn.Linear) -> nn.Module:
        return Odd()

    def cost(self, dims: Dims) -> Cost:
        return Cost()


class Odd(nn.Module):
    what: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> tuple[Tensor, Aux]:
        return type(self).what(x), {}


@pytest.fixture(scope="module")
def odd_registry() -> Registry:
    registry = builtin_registry()
    registrar = Registrar(registry, "odd")
    registrar.block("ffn", "odd", OddConfig)
    registrar.commit()
    return registry


calls = iter(range(10**6))
ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "item": (lambda x: x * (2.0 if x.sum().item() > 0 else 1.0), "item: the model looks at computed values"),
    "bool": (lambda x: x * 2 if x.sum() > 0 else x, "__bool__: the model looks at computed values"),
    "tolist": (lambda x: x * x.flatten()[:1].tolist()[0], "tolist: the model looks at computed values"),
    "numpy": (lambda x: x + torch.from_numpy(x.float().numpy()), "numpy: the model looks at computed values"),
    "address": (lambda x: x * (1 if x.data_ptr() else 0), "data_ptr: the model looks at computed values"),
    "count": (lambda x: x * (next(calls) % 2 + 1), "a step later with"),
    "scratch": (
        lambda x: x.new_zeros(1) + torch.zeros(x.shape).scatter_(-1, x.topk(3).indices, 1.0).to(x.dtype),
        "writes to memory that is not the step's",
    ),
    "growing": (lambda x: x + torch.ones(next(calls) + 1).sum() * 1e-3 * x, "other values"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_depends_on_values_or_on_the_step_is_not_recorded(
    name: str, odd_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    what, why = ODD[name]
    monkeypatch.setattr(Odd, "what", staticmethod(what), raising=False)
    monkeypatch.setattr("tests.unit.recording.test_steps.calls", iter(range(10**6)))
    model = made("gpt2/gpt2", odd_registry, **{"layers.ffn": {"type": "odd"}, "layers.count": 1})
    steps = Steps(model, model.new_cache(1, 64))
    with torch.no_grad():
        for token in tokens(12):
            steps(token)
    assert why in str(steps.why_not)
    assert not steps.recorded


def test_a_block_that_declares_nothing_is_not_recorded(odd_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Odd, "what", staticmethod(lambda x: x), raising=False)
    monkeypatch.setattr(OddConfig, "recordable", False)
    steps = agree(made("gpt2/gpt2", odd_registry, **{"layers.ffn": {"type": "odd"}}), n=12)
    assert str(steps.why_not).endswith("does not declare recordable")


def test_whether_it_is_recordable_may_depend_on_options(
    odd_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OddConfig, "recordable", property(lambda self: self.quantizer is not None))
    assert not declared(OddConfig())
    assert declared(OddConfig(quantizer=Int8Config()))


def test_views_of_the_cache_that_are_given_by_name(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("qwen3/qwen3-0.6b", registry)
    for layer in model.layers:
        layer.mixer.attend.bound["decode"] = lambda q, k, v, *rest, **options: F.scaled_dot_product_attention(
            q, key=k, value=v, scale=options["scale"], enable_gqa=True
        )
    assert "by name" in str(agree(model, n=20).why_not)


def test_another_op_of_the_name_add(odd_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    @torch.library.custom_op("recording_test::add", mutates_args=())
    def add(a: Tensor, b: Tensor) -> Tensor:
        return a + 2 * b

    monkeypatch.setattr(Odd, "what", staticmethod(lambda x: torch.ops.recording_test.add(x, x)), raising=False)
    assert agree(made("gpt2/gpt2", odd_registry, **{"layers.ffn": {"type": "odd"}}), n=20).recorded


def test_plain_pytorch_between_kernels_is_recorded(odd_registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, several outputs, lists of tensors, a constant that is made anew, numbers from shapes."""

    def what(x: Tensor) -> Tensor:
        low, high = x.chunk(2, dim=-1)
        best = torch.cat([high, low], dim=-1).topk(3, dim=-1)
        y = torch.zeros_like(x).scatter_(-1, best.indices, best.values)
        y += torch.arange(x.shape[-1]).to(x.dtype) / x.shape[-1]
        y[..., 0] = x[..., 1].exp()
        return y.clamp_(max=3) * len(x)

    monkeypatch.setattr(Odd, "what", staticmethod(what), raising=False)
    assert agree(made("gpt2/gpt2", odd_registry, **{"layers.ffn": {"type": "odd"}}), n=30).recorded


# --- a player that does it wrong ---


class WrongPlayer:
    """Takes every addition and adds nothing."""

    def takes(self, call: Noted) -> bool:
        return call.name == "add"

    def prepare(self, calls: Sequence[Noted]) -> Callable[[int], None]:
        def play(steps: int) -> None:
            for call in calls:
                call.outs[0].copy_(call.args[0])

        return play


def test_a_wrong_replay_is_noticed_and_leaves_no_trace(registry: Registry) -> None:
    model = made("gpt2/gpt2", registry)
    model.players = [WrongPlayer(), *model.players]
    steps = agree(model, n=20)
    assert steps.why_not == "a replay gives other logits than the step itself"
