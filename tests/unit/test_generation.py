"""Generation: sampling against plain definitions, batches against single prompts, streams, and what is refused."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from blockzoo import building
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.generation import Sampler, TextStream, decode, generate, generate_batch
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer

MODEL = {
    "name": "tiny",
    "vocab_size": 64,
    "context_length": 48,
    "d_model": 32,
    "embedding": {"dropout": 0.5},
    "init": {"std": 0.3},
    "norm": {"type": "rms_norm"},
    "position": {"type": "rope", "theta": 100},
    "blocks": {
        "full": {"type": "gqa", "n_heads": 4, "n_kv_heads": 2, "sinks": True},
        "sliding": {"use": "full", "window": 5},
        "experts": {"type": "moe", "n_experts": 4, "top_k": 2, "expert": {"type": "glu", "d_ff": 16}},
    },
    "layers": {"count": 2, "mixer": {"cycle": ["sliding", "full"]}, "ffn": "experts"},
}
PROMPTS = [[1, 2, 3], [4], list(range(5, 25)), [9, 8, 7, 6, 5, 4, 3]]


@pytest.fixture(scope="module")
def model(registry: Registry) -> Decoder:
    return building.build(load_config(MODEL, registry=registry), registry=registry, seed=3)


def test_greedy_is_the_argmax_of_the_full_pass(model: Decoder) -> None:
    tokens = list(PROMPTS[0])
    with torch.no_grad():
        for _ in range(12):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert list(generate(model, PROMPTS[0], max_new_tokens=12)) == tokens[3:]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.7, "top_p": 0.8, "seed": 1}]
)
def test_a_batch_gives_what_each_prompt_gives_alone(model: Decoder, options: dict) -> None:
    together = generate_batch(model, PROMPTS, max_new_tokens=16, **options)
    for row, prompt in enumerate(PROMPTS):
        alone = dict(options, seed=options["seed"] + row) if options else {}
        assert together[row] == list(generate(model, prompt, max_new_tokens=16, **alone))


def test_rows_leave_a_batch_when_they_stop(model: Decoder) -> None:
    free = generate_batch(model, PROMPTS, max_new_tokens=16)
    stop = {free[0][4], free[2][9]}
    stopped = generate_batch(model, PROMPTS, max_new_tokens=16, stop=stop)
    for row, tokens in zip(free, stopped, strict=True):
        ends = [i for i, token in enumerate(row) if token in stop]
        assert tokens == row[: ends[0] if ends else None]
    assert list(generate(model, PROMPTS[0], max_new_tokens=16, stop=stop)) == stopped[0]


def test_the_loop_reads_each_token_once_and_the_last_not_at_all(model: Decoder) -> None:
    read: list[list[int]] = []

    def reader(tokens: torch.Tensor) -> torch.Tensor:
        read.append(tokens[:, 0].tolist())
        return torch.nn.functional.one_hot(tokens + 1, 64).float()  # a token is followed by the next number

    first = torch.nn.functional.one_hot(torch.tensor([[3], [9]]), 64).float()
    left: list[list[int]] = []
    generators = [torch.Generator()] * 2
    steps = decode(reader, first, Sampler(), generators, max_new_tokens=4, stop={11}, leave=left.append)
    assert list(steps) == [[(0, 3), (1, 9)], [(0, 4), (1, 10)], [(0, 5)], [(0, 6)]]
    assert read == [[3, 9], [4, 10], [5]]
    assert left == [[0]]
    asked = iter([False, False, True])
    steps = decode(reader, first, Sampler(), generators, max_new_tokens=4, stopped=lambda: next(asked))
    assert len(list(steps)) == 2


def test_prompts_may_be_tensors(model: Decoder) -> None:
    want = list(generate(model, [1, 2, 3], max_new_tokens=4))
    assert list(generate(model, torch.tensor([1, 2, 3]), max_new_tokens=4)) == want
    assert generate_batch(model, torch.tensor([[1, 2, 3]]), max_new_tokens=4) == [want]


def test_no_prompts_and_no_new_tokens(model: Decoder) -> None:
    assert generate_batch(model, [], max_new_tokens=4) == []
    assert generate_batch(model, PROMPTS, max_new_tokens=0) == [[], [], [], []]
    assert list(generate(model, [1], max_new_tokens=0)) == []


def test_a_seed_decides_and_nothing_else_does(model: Decoder) -> None:
    def draw(seed: int) -> list[int]:
        torch.manual_seed(torch.seed() % 1000)
        return list(generate(model, [1], max_new_tokens=20, temperature=1.0, seed=seed))

    before = torch.get_rng_state()
    first = draw(5)
    assert draw(5) == first != draw(6)
    torch.set_rng_state(before)
    list(generate(model, [1], max_new_tokens=3, temperature=1.0, seed=5))
    assert torch.equal(torch.get_rng_state(), before), "generation draws from a generator of its own"


def test_dropout_is_off_while_generating_and_back_on_after(model: Decoder) -> None:
    model.train()
    try:
        stream = generate(model, [1, 2], max_new_tokens=8)
        first = list(islice(stream, 3))
        stream.close()
        assert model.training
        assert first == generate_batch(model, [[1, 2]], max_new_tokens=3)[0]
        assert model.training
    finally:
        model.eval()


def test_ids_past_the_tokenizer_are_never_chosen(model: Decoder) -> None:
    tokens = list(generate(model, [1], max_new_tokens=40, temperature=5.0, seed=0, n_tokens=7))
    assert max(tokens) < 7
    assert max(generate_batch(model, [[1]], max_new_tokens=40, n_tokens=3)[0]) < 3


@pytest.mark.parametrize(
    ("prompt", "n_new", "message"),
    [
        ([], 4, "empty"),
        ([1, 64], 4, "token id 64 at index 1 is not among the model's 64"),
        ([1, -1], 4, "token id -1"),
        ([1] * 40, 9, "40 tokens and 9 new ones are asked for: 49 together, the model's context holds 48"),
        ([1], -1, "max_new_tokens is -1"),
    ],
)
def test_wrong_prompts_are_refused_at_the_call(model: Decoder, prompt: list[int], n_new: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate(model, prompt, max_new_tokens=n_new)  # not iterated: the error must not wait for that
    with pytest.raises(InputError, match=f"prompt 1.*{message}" if n_new > 0 else message):
        generate_batch(model, [[1], prompt], max_new_tokens=n_new)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_wrong_options_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Sampler(**options)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature: float, wrong: float) -> None:
    logits = torch.zeros(2, 8)
    logits[1, 3] = wrong
    with pytest.raises(InputError, match=f"the model's logits are {wrong}: its weights, or what float32"):
        Sampler(temperature)(logits, [torch.Generator()] * 2)
    logits[1, 3] = float("-inf")
    Sampler(temperature)(logits, [torch.Generator()] * 2)


def plain_top_k_top_p(logits: list[float], k: int | None, p: float | None) -> list[float]:
    """The definition, one token at a time: the likeliest k, then of those the fewest that reach p, renormalised."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
    weights = torch.tensor(logits, dtype=torch.float64)[order].exp()
    probabilities = (weights / weights.sum()).tolist()
    kept, total = {}, 0.0
    for index, probability in zip(order, probabilities, strict=True):
        if p is not None and total >= p:
            break
        kept[index] = probability
        total += probability
    return [kept.get(i, 0.0) / total for i in range(len(logits))]


@pytest.mark.parametrize("k", [None, 1, 3, 9, 50])
@pytest.mark.parametrize("p", [None, 0.05, 0.6, 0.95, 1.0])
def test_top_k_and_top_p_are_what_they_say(k: int | None, p: float | None) -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)) * 2
    found = Sampler(temperature=0.5, top_k=k, top_p=p).probabilities(logits)
    for row, got in zip(logits, found, strict=True):
        expected = plain_top_k_top_p((row / 0.5).tolist(), k, p)
        torch.testing.assert_close(got.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-5)


def test_of_equal_scores_top_k_keeps_k() -> None:
    found = Sampler(temperature=1.0, top_k=2).probabilities(torch.zeros(1, 6))
    assert int((found > 0).sum()) == 2


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(4000, 3)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    counts = torch.bincount(torch.tensor(Sampler(temperature=1.0)(logits, generators)), minlength=3) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.5, 0.3]), atol=0.03, rtol=0)


def test_a_text_stream_holds_incomplete_characters_back() -> None:
    stream = TextStream(ByteTokenizer())
    assert [stream.push(byte) for byte in "aé€".encode()] == ["a", "", "é", "", "", "€"]
    assert [stream.push(0xE2), stream.push(0x82)] == ["", ""]
    assert stream.close() == "�"


def test_torch_compile_makes_two_programs_for_all_steps(registry: Registry) -> None:
    """One for the first step's length, one for any."""
    from torch._dynamo.testing import CompileCounter

    dense = {**MODEL, "layers": {"count": 2, "mixer": "full", "ffn": {"type": "glu", "d_ff": 32}}}
    model = building.build(load_config(dense, registry=registry), registry=registry, seed=3)
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    plain, ours = model.new_cache(max_length=40), model.new_cache(max_length=40)
    with torch.no_grad():
        for cache in (plain, ours):
            model(torch.tensor([PROMPTS[0]]), cache=cache)
        for token in range(24):
            step = torch.tensor([[token]])
            assert torch.equal(compiled(step, cache=ours), model(step, cache=plain))
    assert counter.frame_count == 2
