"""Steps, accumulation, evaluation, and what stops a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from blockzoo import building
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import RunError
from blockzoo.registry import Registry
from blockzoo.training.config import TrainConfig
from blockzoo.training.data import Dataset
from blockzoo.training.loop import Training, evaluate
from blockzoo.training.run import Run
from blockzoo.training.source import UNSCORED, Batch

from .conftest import MODEL, TRAIN

PLAIN = {
    "embedding.dropout": 0.0,
    "residual.dropout": 0.0,
    "layers.ffn": {"type": "mlp", "d_ff": 32},
    "blocks.attention.dropout": 0.0,
}


def training(config: ModelConfig, registry: Registry, dataset: Dataset, **changes: object) -> Training:
    model = building.build(config, registry=registry, trainable=True).train()
    return Training(model, TrainConfig.model_validate({**TRAIN, **changes}), dataset)


def test_accumulation_equals_a_larger_batch(registry: Registry, dataset: Dataset) -> None:
    config = load_config(MODEL, PLAIN, registry=registry)
    whole = training(config, registry, dataset, batch_size=8)
    parts = training(config, registry, dataset, batch_size=2, accumulation=4)
    for _ in range(3):
        one, other = whole.advance(), parts.advance()
        for name in ("loss", "grad_norm"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


class SomeScored(Dataset):
    """A text of which only some tokens are asked for, in each sequence another number of them."""

    scores_all = False

    def batch(self, seed: int, step: int, n_sequences: int, length: int) -> Batch:
        inputs, targets = super().batch(seed, step, n_sequences, length)
        return inputs, targets.masked_fill(inputs % (2 + torch.arange(len(inputs))[:, None]) != 0, UNSCORED)


def test_parts_count_by_their_scored_tokens(registry: Registry, dataset: Dataset) -> None:
    config = load_config(MODEL, {**PLAIN, "layers.ffn": {"type": "mlp", "d_ff": 32}}, registry=registry)
    data = SomeScored(dataset.name, dataset.sha256, dataset.train, dataset.held_out, dataset.token_lengths)
    whole = training(config, registry, data, batch_size=8)
    parts = training(config, registry, data, batch_size=2, accumulation=4)
    for _ in range(3):
        one, other = whole.advance(), parts.advance()
        for name in ("loss", "grad_norm"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-5)


def test_the_loss_falls(tiny: ModelConfig, registry: Registry, dataset: Dataset) -> None:
    run = training(tiny, registry, dataset, steps=80)
    losses = [float(run.advance()["loss"]) for _ in range(80)]
    assert losses[0] == pytest.approx(math.log(256), rel=0.05)
    assert sum(losses[-5:]) / 5 < 3.6


def test_bfloat16_trains_and_keeps_float32_weights(tiny: ModelConfig, registry: Registry, dataset: Dataset) -> None:
    run = training(tiny, registry, dataset, dtype="bfloat16", steps=30)
    losses = [float(run.advance()["loss"]) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.5
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_clipping_bounds_the_step(tiny: ModelConfig, registry: Registry, dataset: Dataset) -> None:
    free = training(tiny, registry, dataset, optimizer={"lr": 0.01, "clip": None})
    clipped = training(tiny, registry, dataset, optimizer={"lr": 0.01, "clip": 1e-3})
    assert float(free.advance()["grad_norm"]) == float(clipped.advance()["grad_norm"]) > 1e-3, (
        "reported before clipping"
    )
    moment = clipped.optimizer.state[next(iter(clipped.names))]["exp_avg"]
    assert float(moment.norm()) < 1e-3


def test_the_balance_loss_is_trained_on_and_reported(tiny: ModelConfig, registry: Registry, dataset: Dataset) -> None:
    found = training(tiny, registry, dataset).advance()
    assert float(found["balance_loss"]) == pytest.approx(2 * 0.01, rel=0.3), "two layers, each 1 when even, times 0.01"


def test_training_leaves_the_callers_random_numbers_alone(new_run: Callable[..., Run]) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    new_run(steps=3, schedule={}).execute()
    assert torch.equal(torch.get_rng_state(), before)


class Fixed(nn.Module):
    """Gives every token the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.device = torch.device("cpu")

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits.expand(*tokens.shape, -1)


def test_bits_per_byte_by_hand(dataset: Dataset) -> None:
    lengths = torch.arange(256) % 3 + 1  # as if tokens stood for 1, 2 or 3 bytes
    data = Dataset(dataset.name, dataset.sha256, dataset.train, dataset.held_out, lengths)
    logits = torch.randn(256, generator=torch.Generator().manual_seed(0))
    targets = [int(t) for t in dataset.held_out[1:49]]
    bits = sum(math.log2(sum(math.exp(float(x)) for x in logits)) - float(logits[t]) / math.log(2) for t in targets)
    expected = bits / sum(t % 3 + 1 for t in targets)
    for batch_size in (1, 2, 7):
        found = evaluate(Fixed(logits), data, 40, batch_size, 16, "float32")  # type: ignore[arg-type]
        assert found == {"bits_per_byte": pytest.approx(expected, rel=1e-6)}
    even = evaluate(Fixed(torch.zeros(256)), dataset, 10**6, 4, 16, "float32")  # type: ignore[arg-type]
    assert even == {"bits_per_byte": pytest.approx(8.0)}


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(
    new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Training.advance

    def poisoned(self: Training) -> dict[str, Tensor | float]:
        found = advance(self)
        return {**found, "loss": torch.tensor(math.nan)} if self.step == 8 else found

    monkeypatch.setattr(Training, "advance", poisoned)
    run = new_run(checkpoint_every=3)
    with pytest.raises(RunError, match=r"loss is nan at step 8.*lr"):
        run.execute()
    status = run.folder.status()
    assert status["state"] == "failed"
    assert "step 8" in status["error"]
    latest = run.folder.checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-00000006", "nothing is saved after the loss was lost"
    monkeypatch.undo()
    assert run.execute().status()["state"] == "done", "a failed run goes on from its checkpoint"
