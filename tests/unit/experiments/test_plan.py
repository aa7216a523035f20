"""From an experiment's YAML to plans: what is checked before anything runs."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from blockzoo.accounting import account
from blockzoo.config import load_config
from blockzoo.errors import ConfigError, InputError
from blockzoo.experiments.axes import block_flops, on_axis
from blockzoo.experiments.plan import ExperimentPlan, load_experiment, make_plan
from blockzoo.experiments.recipe import read_recipe
from blockzoo.experiments.record import ArmRecord
from blockzoo.plugins import shipped_configs
from blockzoo.registry import Registry

from .conftest import EXPERIMENT, write


def test_arms_are_the_base_and_their_changes(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file)
    plans = make_plan(experiment, experiment_file.parent, tmp_path, registry=registry).verdict_runs()
    assert [plan.arm for plan in plans] == ["plain", "wide"]
    assert [plan.model.name for plan in plans] == ["plain", "wide"]
    base = load_config(experiment_file.parent / "base.yaml", registry=registry)
    assert plans[0].model.layers == base.layers
    wide = account(plans[1].model).non_embedding - account(base).non_embedding
    assert wide == 2 * 3 * 16
    assert plans[0].data.path == experiment_file.parent / "words.txt"


def test_seeds_make_a_run_each(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file, {"seeds": [3, 4]})
    plans = make_plan(experiment, experiment_file.parent, tmp_path, registry=registry).verdict_runs()
    assert [plan.label for plan in plans] == ["plain, seed 3", "plain, seed 4", "wide, seed 3", "wide, seed 4"]
    assert {plan.train.seeds.data for plan in plans} == {3, 4}


def test_unequal_arms_are_refused_with_their_numbers(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experiment = load_experiment(experiment_file, {"equal.tolerance": 0.001})
    with pytest.raises(ConfigError, match=r"equal non_embedding within 0.10%.*plain \d,\d+, wide \d,\d+") as caught:
        make_plan(experiment, experiment_file.parent, tmp_path, registry=registry).verdict_runs()
    numbers = [int(n.replace(",", "")) for n in re.findall(r"(?:plain|wide) ([\d,]+\d)", str(caught.value))]
    assert numbers[1] - numbers[0] == 2 * 3 * 16


def test_every_wrong_arm_is_told_at_once(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"a": {"config": "nothing.yaml"}, "b": {"set": {"layers.ffn.d_f": 3}}, "c": {}}
    experiment = load_experiment(write(experiment_file, {**EXPERIMENT, "arms": arms}))
    with pytest.raises(ConfigError) as caught:
        make_plan(experiment, experiment_file.parent, tmp_path, registry=registry).verdict_runs()
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
    plans = make_plan(experiment, folder, tmp_path, registry=registry).verdict_runs()
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


# --- which arms there are -----------------------------------------------------------------------------------------


def planned(file: Path, registry: Registry, tmp_path: Path, **changes: Any) -> ExperimentPlan:
    experiment = load_experiment(write(file, {**EXPERIMENT, **changes}))
    return make_plan(experiment, file.parent, tmp_path / "runs", registry=registry)


def refused(file: Path, registry: Registry, tmp_path: Path, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(file, registry, tmp_path, **changes)
    return str(caught.value)


def test_vary_makes_every_combination_of_every_arm(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    vary = {"layers.count": [1, 2], "layers.ffn.d_ff": [16, 32]}
    plan = planned(experiment_file, registry, tmp_path, arms={}, vary=vary, equal=None)
    assert [arm.name for arm in plan.arms] == [
        f"layers.count={n} layers.ffn.d_ff={d}" for n in (1, 2) for d in (16, 32)
    ]
    assert [(arm.account["n_layers"], arm.account["d_ff"]) for arm in plan.arms] == [(1, 16), (1, 32), (2, 16), (2, 32)]
    assert plan.baseline == plan.arms[0].name
    arms = {"a": {}, "b": {"set": {"d_model": 32}}}
    plan = planned(experiment_file, registry, tmp_path, arms=arms, vary={"layers.count": [1, 3]}, equal=None)
    assert [arm.name for arm in plan.arms] == [
        "a layers.count=1",
        "a layers.count=3",
        "b layers.count=1",
        "b layers.count=3",
    ]


def test_names_of_varied_arms_do_as_file_names(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    mixers = ["none", {"type": "blocks:gqa", "n_heads": 4}, {"type": "gqa", "n_heads": 2, "window": 4}]
    plan = planned(experiment_file, registry, tmp_path, arms={}, vary={"layers.mixer": mixers}, equal=None)
    names = [arm.name for arm in plan.arms]
    assert names[0] == "layers.mixer=none"
    assert len(set(names)) == 3
    for name in names:
        assert Path(name).name == name
        assert not set(name) & set('/\\:*?"<>|')


def test_arms_may_have_recipes_of_their_own(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"slow": {}, "fast": {"train": {"optimizer.lr": 0.01, "tokens": 64}}}
    slow, fast = planned(experiment_file, registry, tmp_path, arms=arms).arms
    assert (slow.train.optimizer.lr, slow.train.steps) == (0.001, 4)
    assert (fast.train.optimizer.lr, fast.train.steps, fast.train.tokens) == (0.01, None, 64)
    assert fast.train.batch_size == slow.train.batch_size
    assert fast.mismatch["training_flops"] == pytest.approx(-0.5)


def test_completep_is_relative_to_the_base_arm(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"small": {}, "large": {"set": {"d_model": 32, "layers.count": 4, "layers.mixer.n_heads": 4}}}
    policy = {"type": "completep", "base": "small"}
    plan = planned(experiment_file, registry, tmp_path, arms=arms, learning_rate=policy, equal=None)
    shapes = {(arm.train.parametrization.d_model, arm.train.parametrization.n_layers) for arm in plan.arms}
    assert shapes == {(16, 2)}


def test_models_written_out_extend_files_beside_the_experiment(
    experiment_file: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arms = {"a": {"config": {"extends": "base.yaml", "layers": {"count": 3}}}}
    (arm,) = planned(experiment_file, registry, tmp_path, arms=arms).arms
    assert arm.model.n_layers == 3


def test_runs_have_seeds_rates_and_labels(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    plan = planned(experiment_file, registry, tmp_path, seeds=[5, 6], learning_rate={"type": "grid", "seeds": [9]})
    scout = plan.run("wide", seed=9, lr=0.004, purpose="scout")
    assert (scout.label, scout.seed, scout.lr, scout.train.seeds.dropout) == ("wide, scouting 0.004", 9, 0.004, 9)
    run = plan.run(plan.arm("wide"), seed=6, lr=0.002, purpose="verdict")
    assert (run.label, run.train.seeds.data) == ("wide, seed 6", 6)
    assert pickle.loads(pickle.dumps(run)) == run
    alone = planned(experiment_file, registry, tmp_path)
    assert [run.label for run in alone.verdict_runs()] == ["plain", "wide"]


# --- held equal ---------------------------------------------------------------------------------------------------


def test_arms_are_solved_for_the_baselines_number(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"a": {}, "deep": {"set": {"layers.count": 4}}, "as-is": {"solve": []}}
    equal = {"axis": "non_embedding", "tolerance": 0.02, "solve": ["d_ff"]}
    a, deep, as_is = planned(experiment_file, registry, tmp_path, arms=arms, equal=equal).arms
    assert a.turned == as_is.turned == {}
    assert deep.turned == {"d_ff": deep.model.layers[0].ffn.d_ff}
    assert deep.model.n_layers == 4
    assert abs(deep.mismatch["non_embedding"]) <= 0.02
    assert deep.mismatch["kv_cache_bytes"] == 1.0
    assert set(a.mismatch.values()) == {0.0}


def test_all_arms_are_solved_for_a_target(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    equal = {"axis": "total", "target": 20_000, "solve": [{"key": "d_ff", "multiple": 2}]}
    for arm in planned(experiment_file, registry, tmp_path, equal=equal).arms:
        assert arm.account["parameters"]["total"] == pytest.approx(20_000, rel=0.01)
        assert arm.turned["d_ff"] % 2 == 0


def test_what_cannot_be_solved_is_told_of_every_arm(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    arms = {"a": {}, "b": {"set": {"layers.count": 3}}, "c": {"set": {"layers.count": 1}}}
    text = refused(experiment_file, registry, tmp_path, arms=arms, equal={"axis": "kv_cache_bytes", "solve": ["d_ff"]})
    assert text.count("d_ff doesn't move it") == 2
    assert re.search(r"little.yaml:\d+:\d+: arm 'b': kv_cache_bytes can't be brought to", text)
    assert "add width" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "plane"}, r"little.yaml:\d+:1: baseline: no arm is called 'plane'; did you mean 'plain'"),
        (
            {"learning_rate": {"type": "completep", "base": "wode"}},
            r"little.yaml:\d+:\d+: learning_rate.base: no arm is called 'wode'; did you mean 'wide'",
        ),
        (
            {"arms": {"a": {"set": {"layers.ffn.d_f": 3}}}},
            r"little.yaml:\d+:\d+: arm 'a': layers.ffn.d_f: unknown key 'd_f'; did you mean 'd_ff'",
        ),
        (
            {"arms": {"a": {"train": {"optimizer.lrr": 3}}}},
            r"little.yaml:\d+:\d+: arm 'a': train.optimizer.lrr: unknown key 'lrr'",
        ),
        ({"arms": {"a": {"train": {"seeds.init": 3}}}}, r"arm 'a': train.seeds.init: is the same for all arms"),
        (
            {"equal": {"solve": ["dff"]}},
            r"little.yaml:\d+:\d+: arm 'wide': equal.solve: knob 'dff': no such knob; did you mean 'd_ff'",
        ),
        ({"arms": {"a": {}, "b": {"solve": ["dpth"]}}}, r"arm 'b': solve: knob 'dpth'.*did you mean 'depth'"),
        ({"arms": {"a": {"solve": ["d_ff"]}}}, "arm 'a': solve: the arm is the baseline: give equal.target"),
        ({"arms": {"a": {}, "b": {"solve": ["d_ff"]}}, "equal": None}, "arm 'b': solve: the experiment has no 'equal'"),
        (
            {"arms": {}, "vary": {"layers.cout": [1, 2, 3]}},
            r"little.yaml:\d+:\d+: arm 'layers.cout=1' and 2 more: layers.cout: unknown key",
        ),
        ({"vary": {"layers.count": []}}, r"little.yaml:\d+:\d+: vary.layers.count: an empty list"),
        ({"vary": {"layers.count": [2, 2]}}, "two arms would be called 'plain layers.count=2'"),
        ({"vary": {"layers.count": list(range(600))}}, "1,200 arms"),
        ({"train": {"steps": 4, "block": 32}}, "train.block is 32, the model's context_length 16"),
        (
            {"train": {"flops": 1e12, "block": 16}, "equal": {"axis": "training_flops", "solve": ["d_ff"]}},
            r"little.yaml:\d+:\d+: equal.axis: training_flops can't be solved for",
        ),
    ],
)
def test_wrong_plans_are_located(
    experiment_file: Path, registry: Registry, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert re.search(message, refused(experiment_file, registry, tmp_path, **changes))


def test_the_account_has_the_records_keys(experiment_file: Path, registry: Registry, tmp_path: Path) -> None:
    experts = {"type": "moe", "n_experts": 4, "top_k": 1, "expert": {"type": "glu", "d_ff": 32}}
    arms = {"plain": {}, "moe": {"set": {"layers.ffn": experts, "d_model": 32, "layers.mixer.n_heads": 1}}}
    plain, moe = planned(experiment_file, registry, tmp_path, arms=arms, equal=None).arms
    doc = ArmRecord.__doc__ or ""
    for key in plain.account:
        assert key in doc, key
    assert (plain.account["n_heads"], plain.account["d_ff"], plain.account["n_experts"]) == (2, 32, None)
    assert plain.account["aspect_ratio"] == 8
    assert plain.account["tokens"] == 4 * 2 * 16
    assert plain.account["training_flops"] == 3 * 4 * 2 * block_flops(plain.model, 16)
    assert list(plain.account["kv_cache_bytes"]) == ["1024", "8192", "32768", "131072"]
    assert "mxfp4" not in plain.account["weight_bytes"]  # 16 is no multiple of a group of 32
    assert moe.account["weight_bytes"]["mxfp4"] < moe.account["weight_bytes"]["bfloat16"]
    assert (moe.account["n_experts"], moe.account["d_ff"]) == (4, 32)
    assert (
        moe.account["parameters"]["experts"] == 4 * moe.account["parameters"]["experts_active"] == 2 * 4 * 3 * 32 * 32
    )
