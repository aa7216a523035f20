"""The JSON schema of experiments: what loads is valid, and an editor points at what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from jsonschema.exceptions import best_match

from blockzoo.cli import main
from blockzoo.experiments.schema import experiment_schema
from blockzoo.plugins import shipped_configs
from tests.conftest import builtin_registry

from .conftest import EXPERIMENT

SHIPPED = sorted(shipped_configs("experiments").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = experiment_schema(builtin_registry())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_shipped_experiments_are_valid(file: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert not list(validator.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    ("changes", "path", "message"),
    [
        ({"arm": {}}, "$", "'arm'"),
        ({"equal": {"axis": "size"}}, "$.equal.axis", "'non_embedding'"),
        ({"train": {"steps": 3, "optimizer": {"lrr": 1}}}, "$.train.optimizer", "'lrr'"),
        ({"arms": {"a": {"st": {}}}}, "$.arms.a", "'st'"),
        ({"arms": {"a": {"train": {"optimizer.lrr": 1}}}}, "$.arms.a.train", "'optimizer.lrr'"),
        ({"arms": {"a": {"train": {"seeds.init": 1}}}}, "$.arms.a.train", "'seeds.init'"),
        ({"arms": {"a": {"config": {"extends": "gpt2", "d_mod": 3}}}}, "$.arms.a.config", "'d_mod'"),
        ({"learning_rate": {"type": "gird"}}, "$.learning_rate.type", "'grid'"),
        ({"learning_rate": {"type": "grid", "pints": [1]}}, "$.learning_rate", "'pints'"),
        ({"data": {"pth": "x"}}, "$.data", "'pth'"),
        ({"data": {"task": {"type": "hop"}}}, "$.data.task.type", "'k_hop'"),
        ({"seeds": [-1]}, "$.seeds[0]", "minimum"),
    ],
)
def test_mistakes_are_pointed_at(
    changes: dict[str, Any], path: str, message: str, validator: jsonschema.Draft202012Validator
) -> None:
    found = best_match(validator.iter_errors({**EXPERIMENT, **changes}))
    assert found is not None
    assert found.json_path == path
    assert message in found.message


def test_keys_of_models_are_free(validator: jsonschema.Draft202012Validator) -> None:
    arms = {"a": {"set": {"blocks.anything.d_ff": 3}, "train": {"optimizer.lr": 1e-3, "tokens": 5}, "solve": ["d_ff"]}}
    assert not list(validator.iter_errors({**EXPERIMENT, "arms": arms, "vary": {"layers.count": [1, 2]}}))


def test_the_command_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "experiment.schema.json"
    assert main(["schema", "--experiment", "--output", str(file)]) == 0
    assert json.loads(file.read_text())["title"] == "blockzoo experiment"
