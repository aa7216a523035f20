"""From an experiment's YAML to plans: what is checked before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blockzoo.accounting import account
from blockzoo.config import load_config
from blockzoo.errors import ConfigError, InputError
from blockzoo.experiments.config import on_axis
from blockzoo.experiments.plan import load_experiment, make_plans
from blockzoo.experiments.recipe import read_recipe
from blockzoo.plugins import shipped_configs
from blockzoo.registry import Registry

from .conftest import EXPERIMENT, write


def test_arms_are_the_base_and_their_changes(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file)
    plans = make_plans(experiment, experiment_file.parent, tmp_path, registry=registry)
    assert [plan.arm for plan in plans] == ["plain", "wide"]
    assert [plan.model.name for plan in plans] == ["plain", "wide"]
    base = load_config(experiment_file.parent / "base.yaml", registry=registry)
    assert plans[0].model.layers == base.layers
    wide = account(plans[1].model).non_embedding - account(base).non_embedding
    assert wide == 2 * 3 * 16
    assert plans[0].data.path == experiment_file.parent / "words.txt"


def test_seeds_make_a_run_each(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file, {"seeds": [3, 4]})
    plans = make_plans(experiment, experiment_file.parent, tmp_path, registry=registry)
    assert [plan.arm for plan in plans] == ["plain, seed 3", "plain, seed 4", "wide, seed 3", "wide, seed 4"]
    assert {plan.train.seeds.data for plan in plans} == {3, 4}


def test_unequal_arms_are_refused_with_their_numbers(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file, {"equal.tolerance": 0.001})
    with pytest.raises(ConfigError, match=r"equal non_embedding within 0.10%.*plain \d,\d+, wide \d,\d+") as caught:
        make_plans(experiment, experiment_file.parent, tmp_path, registry=registry)
    numbers = [int(n.replace(",", "")) for n in re.findall(r"(?:plain|wide) ([\d,]+\d)", str(caught.value))]
    assert numbers[1] - numbers[0] == 2 * 3 * 16


def test_every_wrong_arm_is_told_at_once(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"a": {"config": "nothing.yaml"}, "b": {"set": {"layers.ffn.d_f": 3}}, "c": {}}
    experiment = load_experiment(write(experiment_file, {**EXPERIMENT, "arms": arms}))
    with pytest.raises(ConfigError) as caught:
        make_plans(experiment, experiment_file.parent, tmp_path, registry=registry)
    text = str(caught.value)
    assert "arm 'a'" in text
    assert re.search(r"arm 'b'.*d_f", text)
    assert "arm 'c'" not in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"steps": 1, "batchsize": 2}}, "batchsize.*batch_size"),
        ({"arms": {}}, "arms"),
        ({"equal": {"axis": "size"}}, "non_embedding"),
        ({"sample": {"prompts": [""]}}, "prompt is empty"),
        ({"train": {}}, "steps or tokens"),
    ],
)
def test_wrong_experiments_name_file_and_line(experiment_file: Path, changes: dict, message: str) -> None:
    write(experiment_file, {**EXPERIMENT, **changes})
    with pytest.raises(ConfigError, match=rf"little.yaml:\d+:\d+.*{message}"):
        load_experiment(experiment_file)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_experiment(tmp_path / "missing.yaml")


def test_the_demonstration_is_what_it_says(registry: Registry, tmp_path: Path) -> None:
    folder = shipped_configs("experiments")
    experiment = load_experiment(folder / "demo.yaml")
    assert experiment.demonstration
    plans = make_plans(experiment, folder, tmp_path, registry=registry)
    assert [plan.arm for plan in plans] == ["gpt2", "qwen3-moe", "gpt-oss"]
    sizes = [on_axis(account(plan.model), "non_embedding") for plan in plans]
    assert max(sizes) <= 1_000_000
    assert max(sizes) <= 1.01 * min(sizes)
    assert {plan.tokenizer for plan in plans} == {"bytes"}
    assert len({plan.train for plan in plans}) == 1


def test_recipes_have_defaults_that_fit_the_model(tmp_path: Path) -> None:
    assert read_recipe(None, {}, context_length=64).train.block == 64
    assert read_recipe(None, {}, context_length=4096).train.block == 256
    assert read_recipe(None, {"train.tokens": 4096}, context_length=64).train.steps is None
    file = tmp_path / "recipe.yaml"
    file.write_text("train: {tokens: 5000, block: 8}\ndata: {path: here.txt}\n")
    recipe = read_recipe(file, {"train.steps": 7, "train.tokens": None}, context_length=64)
    assert (recipe.train.steps, recipe.train.tokens, recipe.train.block) == (7, None, 8)
    assert recipe.data.path == tmp_path / "here.txt"
    assert read_recipe(file, {"data.path": "x.txt"}, context_length=64).data.path == Path("x.txt")
    file.write_text("train: {steps: 5, lr: 8}\n")
    with pytest.raises(ConfigError, match=r"recipe.yaml:1:.*lr"):
        read_recipe(file, {}, context_length=64)
