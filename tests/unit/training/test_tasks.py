"""Tasks: the answers are right, held-out examples are apart, scores are exact."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo import building
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import prepare
from blockzoo.training.data_config import DataConfig
from blockzoo.training.loop import Training
from blockzoo.training.source import UNSCORED
from blockzoo.training.tasks.source import TaskSource

TASKS: dict[str, dict[str, Any]] = {
    "k_hop": {"hops": [1, 2], "pairs": 4, "keys": 6, "queries": 2},
    "modular_arithmetic": {"modulus": 7, "depth": [2, 3]},
    "grammar": {"kinds": 2, "depth": 4, "length": 8},
}


def source(kind: str, **changes: Any) -> TaskSource:
    task = {"type": kind, **TASKS[kind], **changes}
    data = DataConfig.model_validate({"task": task})
    found = prepare(data, ByteTokenizer(), "bytes", Path("nowhere"))
    assert isinstance(found, TaskSource)
    return found


def examples(data: TaskSource, n_rows: int = 50) -> list[list[str]]:
    """The words of whole examples."""
    inputs, targets = data.batch(0, 0, n_rows, 64)
    found = []
    for row, last in zip(inputs.tolist(), targets[:, -1].tolist(), strict=True):
        words = data.tokenizer.decode([*row, max(last, 0)]).split("<s>")
        found += [words.split() for words in words if words.split()]
    return found


def test_pointers_are_followed() -> None:
    seen = set()
    for words in examples(source("k_hop")):
        facts = dict(zip(words[:8:2], words[1:8:2], strict=True))
        for hop, start, answer in zip(words[8::3], words[9::3], words[10::3], strict=True):
            end = start
            for _ in range(int(hop.strip("[]"))):
                end = facts[end]
            assert end == answer != start
            seen.add((hop, start))
    assert len(seen) == 2 * 6


def test_steps_are_asked_for_as_often_as_their_weights_say() -> None:
    words = [word for example in examples(source("k_hop", weights=[3, 1]), 400) for word in example]
    one, two = words.count("[1]"), words.count("[2]")
    assert one / (one + two) == pytest.approx(0.75, abs=0.05)
    equal = source("k_hop", weights=[1, 1]).batch(0, 0, 8, 48)[0]
    assert torch.equal(equal, source("k_hop").batch(0, 0, 8, 48)[0])


def test_chains_are_worked_from_left_to_right() -> None:
    results = set()
    for words in examples(source("modular_arithmetic")):
        result = int(words[0])
        for sign, number in zip(words[1:-2:2], words[2:-2:2], strict=True):
            result = (result + int(number) if sign == "+" else result * int(number)) % 7
        assert words[-2] == "="
        assert words[-1] == str(result)
        results.add(result)
    assert results == set(range(7))


def test_what_is_open_is_closed() -> None:
    closes = {"(": ")", "[": "]"}
    deepest = 0
    for words in examples(source("grammar")):
        stack: list[str] = []
        for word in words:
            if word in closes:
                stack.append(closes[word])
                deepest = max(deepest, len(stack))
            elif word not in ("|", "<e>"):
                assert word == stack.pop()
        assert words[-1] == "<e>"
        assert not stack
    assert deepest == 4


@pytest.mark.parametrize("kind", TASKS)
def test_batches_depend_on_seed_and_step_alone(kind: str) -> None:
    data = source(kind)
    inputs, targets = data.batch(1, 7, 4, 48)
    assert inputs.shape == targets.shape == (4, 48)
    for one, two in zip(data.batch(1, 7, 2, 48), source(kind).batch(1, 7, 4, 48), strict=True):
        assert torch.equal(one, two[:2]), "a smaller batch is the beginning of a larger one"
    assert not torch.equal(inputs, data.batch(1, 8, 4, 48)[0])
    assert not torch.equal(inputs, data.batch(2, 7, 4, 48)[0])
    scored = targets != UNSCORED
    assert torch.equal(targets[:, :-1][scored[:, :-1]], inputs[:, 1:][scored[:, :-1]])
    assert inputs.max() < data.n_tokens


@pytest.mark.parametrize("kind", TASKS)
def test_no_example_is_both_trained_on_and_held_out(kind: str) -> None:
    data = source(kind)

    def words(inputs: torch.Tensor) -> set[str]:
        rows = (data.tokenizer.decode(row) for row in inputs.tolist())
        return {" ".join(example.split()) for row in rows for example in row.split("<s>")[:-1] if example.strip()}

    trained = set().union(*(words(data.batch(0, step, 16, 48)[0]) for step in range(20)))
    held_out = set().union(*(words(inputs) for inputs, _ in data.held_out_batches(4000, 16, 48)))
    assert len(held_out) > 20
    assert not trained & held_out
    again = [inputs for inputs, _ in data.held_out_batches(4000, 16, 48)]
    assert torch.equal(torch.cat(again), torch.cat([i for i, _ in source(kind).held_out_batches(4000, 7, 48)]))


def test_the_hash_is_of_the_definition() -> None:
    hashes = {source(kind).sha256 for kind in TASKS}
    hashes |= {source("k_hop", pairs=5).sha256, source("grammar", opening=0.6).sha256}
    hashes.add(TaskSource(source("k_hop").config, 0.1).sha256)
    assert len(hashes) == len(TASKS) + 3
    assert source("k_hop").sha256 == source("k_hop").sha256


def test_answers_are_counted_whole() -> None:
    data = source("grammar")
    targets = torch.tensor([[-100, 4, 4, 2, -100, 6, 2], [-100, -100, 6, 2, -100, -100, 2]])
    logits = torch.nn.functional.one_hot(targets.clamp(min=0), data.n_tokens).float()
    logits[0, 2] = torch.eye(data.n_tokens)[0]  # one token of the first answer is wrong
    losses = torch.where(targets == UNSCORED, 0.0, 0.5)
    totals = data.tally(losses, logits, targets)
    assert totals.tolist() == [4.0, 8, 3, 4]
    assert data.figures(totals + totals) == {"loss": 0.5, "accuracy": 0.75}


@pytest.mark.parametrize("kind", TASKS)
def test_words_and_tokens(kind: str) -> None:
    data = source(kind)
    assert len(set(data.task.names)) == data.n_tokens
    for question in data.questions(3):
        assert data.tokenizer.decode(data.tokenizer.encode(question)) == question.rstrip()
        assert question.startswith("<s>")
    with pytest.raises(InputError, match="'nothing' names no token"):
        data.tokenizer.encode("nothing")


def test_what_does_not_fit_is_an_error() -> None:
    data = source("k_hop")
    data.check(14, 9)
    with pytest.raises(InputError, match=r"up to 15 tokens, a sequence 14 .*set train\.block to 14 or more"):
        data.check(13, 9)
    with pytest.raises(InputError, match="has 9 tokens, the model a vocabulary of 8: set vocab_size to 9"):
        data.check(14, 8)
    with pytest.raises(InputError, match="50257, nearly all of it never used: set vocab_size to 9"):
        data.check(14, 50257)
    data.check(14, 256)


def test_a_task_too_small_to_be_split_says_so() -> None:
    data = TaskSource(source("modular_arithmetic", modulus=2, depth=[1], operations=["+"]).config, 0.01)
    with pytest.raises(InputError, match="too few different ones"):
        list(data.held_out_batches(100, 1, 48))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("k_hop", {"keys": 3}, "4 pairs need as many names"),
        ("k_hop", {"hops": [4]}, "4 pairs lead back to the start"),
        ("k_hop", {"hops": [1, 1]}, "one is there twice"),
        ("k_hop", {"weights": [3]}, "weights has 1 numbers, hops 2; give one for each"),
        ("modular_arithmetic", {"depth": [2, 2]}, "one is there twice"),
        ("modular_arithmetic", {"modulus": 1}, "greater than or equal to 2"),
        ("grammar", {"depth": 9}, "can't be nested so deep"),
    ],
)
def test_tasks_that_make_no_sense(kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source(kind, **changes)


def test_a_model_learns_a_task(registry: Registry) -> None:
    """Two kinds of brackets, little nested, are easy enough for a tiny model in a few seconds."""
    data = source("grammar", depth=2, length=4)
    model = {
        "vocab_size": data.n_tokens,
        "context_length": 24,
        "d_model": 32,
        "position": {"type": "rope", "theta": 100},
        "norm": {"type": "rms_norm"},
        "layers": {"count": 2, "mixer": {"type": "gqa", "n_heads": 2}, "ffn": {"type": "mlp", "d_ff": 128}},
    }
    config = load_config(model, registry=registry)
    recipe = {"steps": 150, "batch_size": 16, "block": 24, "optimizer": {"lr": 0.01}, "eval": {"tokens": 400}}
    built = building.build(config, registry=registry, trainable=True)
    training = Training(built, TrainConfig.model_validate(recipe), data)
    before = training.evaluate()
    assert before["loss"] == pytest.approx(math.log(data.n_tokens), rel=0.1)
    built.train()
    for _ in range(150):
        training.advance()
    after = training.evaluate()
    assert list(after) == ["loss", "accuracy"]
    assert after["loss"] < 0.7 * before["loss"]
    assert after["accuracy"] > before["accuracy"]
