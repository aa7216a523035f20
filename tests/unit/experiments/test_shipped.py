"""Every experiment that is shipped can be planned, is as equal as it says, and fits the time that it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo.errors import InputError
from blockzoo.experiments.plan import ExperimentPlan, load_experiment, make_plan
from blockzoo.experiments.shipped import find_experiment, shipped_experiments
from blockzoo.plugins import load_plugins, shipped_configs
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.data import prepare
from blockzoo.training.tasks.source import TaskSource

FOLDER = shipped_configs("experiments")
FILES = sorted(FOLDER.glob("*.yaml"))
COMPARISONS = [file for file in FILES if file.stem != "demo"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """With the configs that the built-in plugins ship."""
    return load_plugins().registry


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def plan(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> ExperimentPlan:
    """Planned as ``blockzoo compare`` plans it: equal axes are checked on the way."""
    file: Path = request.param
    found = make_plan(load_experiment(file), file.parent, tmp_path, registry=registry)
    assert found.experiment.name == file.stem
    return found


def test_arms_are_equal_and_fit_the_data(plan: ExperimentPlan, tmp_path: Path) -> None:
    equal = plan.experiment.equal
    if equal is not None:
        assert equal.tolerance <= 0.01
        assert all(abs(arm.mismatch[equal.axis]) <= equal.tolerance for arm in plan.arms)
    if plan.data.task is not None:
        source = prepare(plan.data, ByteTokenizer(), "bytes", tmp_path)
        assert isinstance(source, TaskSource)
        for arm in plan.arms:
            source.check(arm.train.block, arm.model.vocab_size)
            assert arm.model.vocab_size == source.n_tokens


def test_every_planned_comparison_can_give_a_verdict(plan: ExperimentPlan) -> None:
    if plan.experiment.demonstration:
        pytest.skip("a demonstration gives none")
    assert len(plan.seeds) >= 3
    executor = plan.experiment.executor
    assert (executor.type, executor.workers, executor.threads) == ("local", 2, 1)
    assert not set(plan.seeds) & set(plan.scouting_seeds)


def test_published_aspect_ratios_are_replayed(registry: Registry, tmp_path: Path) -> None:
    for name in ("width-vs-depth", "width-vs-depth-moe"):
        file = FOLDER / f"{name}.yaml"
        found = make_plan(load_experiment(file), file.parent, tmp_path, registry=registry)
        ratios = [arm.account["aspect_ratio"] for arm in found.arms]
        assert ratios[0] == 120
        assert ratios[-1] == pytest.approx(2048 / 48, rel=0.01)


def test_the_ladder_has_every_step(registry: Registry, tmp_path: Path) -> None:
    file = FOLDER / "ladder.yaml"
    found = make_plan(load_experiment(file), file.parent, tmp_path, registry=registry)
    steps = sorted(path.stem for path in (FOLDER.parent / "ladder").glob("*.yaml"))
    configs = [arm.config for arm in found.experiment.arms.values()]
    assert configs == steps
    flops = [arm.account["training_flops"] for arm in found.arms]
    assert max(flops) <= 1.01 * min(flops)


@pytest.mark.parametrize("file", COMPARISONS, ids=lambda file: file.stem)
def test_the_time_it_takes_is_said(file: Path) -> None:
    assert " minutes on 2 cores" in file.read_text()


def test_a_name_means_a_shipped_file(tmp_path: Path) -> None:
    assert find_experiment("ladder") == FOLDER / "ladder.yaml"
    assert set(shipped_experiments()) == {file.stem for file in FILES}
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine")
    assert find_experiment(mine) == mine
    with pytest.raises(InputError, match="no experiment 'laddr'; did you mean 'ladder'"):
        find_experiment("laddr")
    with pytest.raises(InputError, match="no such file"):
        find_experiment(tmp_path / "other.yaml")
