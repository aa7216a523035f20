"""Schedules and budgets."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from blockzoo.training.config import ScheduleConfig, TrainConfig


def test_warmup_rises_in_a_line_and_decay_ends_at_final() -> None:
    schedule = ScheduleConfig(type="cosine", warmup=4, final=0.1)
    factors = [schedule.factor(step, 20) for step in range(20)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4] == 1.0
    assert factors[-1] == pytest.approx(0.1)
    middle = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 6 / 15))
    assert factors[10] == pytest.approx(middle)
    assert factors[4:] == sorted(factors[4:], reverse=True)


def test_linear_constant_and_wsd() -> None:
    linear = ScheduleConfig(type="linear", final=0.0)
    assert [linear.factor(step, 5) for step in range(5)] == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    constant = ScheduleConfig(type="constant", warmup=1)
    assert [constant.factor(step, 4) for step in range(4)] == [0.5, 1, 1, 1]
    wsd = ScheduleConfig(type="wsd", warmup=2, final=0.0, decay=0.3)
    factors = [wsd.factor(step, 10) for step in range(10)]
    assert factors[2:8] == [1.0] * 6
    assert factors[7:] == pytest.approx([1, 0.5, 0])


def test_a_budget_in_tokens_is_rounded_up_to_steps() -> None:
    config = TrainConfig(tokens=1000, batch_size=2, block=50, accumulation=3)
    assert config.tokens_per_step == 300
    assert config.total_steps == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "give one budget"),
        ({"steps": 1, "tokens": 1}, "give one budget"),
        ({"steps": 10, "schedule": {"warmup": 10}}, "warmup is 10, the whole run has 10 steps"),
        ({"steps": 10, "optimizer": {"betas": [0.9, 1.0]}}, "below 1"),
        ({"steps": 10, "dtype": "float16"}, "float32"),
        ({"steps": 10, "lr": 1}, "Extra inputs"),
    ],
)
def test_wrong_recipes_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate(values)
