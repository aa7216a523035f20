"""Plugins that fail, collide, dawdle or squat: each is one readable row and harms nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BUILTIN = {"blocks", "cpu", "gpt2", "gpt_oss", "qwen3", "tensorboard", "torch"}
FAILING = {
    "absent": ("import_failed", "No module named 'blockzoo_broken.absent'"),
    "bad_folder": ("register_failed", "'/nowhere/at/all' is not a folder"),
    "colliding": ("register_failed", "norm 'rms_norm' is reserved"),
    "exits": ("import_failed", "SystemExit: no licence found"),
    "half": ("register_failed", "LookupError: the second half is missing"),
    "misspelt": ("register_failed", "did you mean 'blockzoo_register'?"),
    "newer": ("incompatible", "plugin API 99"),
    "no_hooks": ("register_failed", "implements no hook"),
    "outdated": ("incompatible", "needs blockzoo<0.1, this is"),
    "raises": ("import_failed", "RuntimeError: the moon is in the wrong phase"),
    "twin": ("conflict", "blockzoo-colliding-plugins (blockzoo_colliding.squatter), blockzoo-twin-plugin"),
    "unspeakable": ("import_failed", "UnspeakableError"),
}
LEFT_BEHIND = ("half_norm", "lost_norm", "innocent")


@pytest.fixture(scope="module")
def everything(blockzoo: Any, good: Path, bad: Path) -> Any:
    """``blockzoo plugins --json`` with all of them installed."""
    done = blockzoo("plugins", "--json", path=[good, bad], check=True)
    return json.loads(done.stdout), done


def rows(everything: Any, name: str) -> list[dict[str, Any]]:
    return [row for row in everything[0] if row["name"] == name]


@pytest.mark.parametrize(("name", "state", "words"), [(name, *expected) for name, expected in FAILING.items()])
def test_each_failure_is_one_line_in_its_row(everything: Any, name: str, state: str, words: str) -> None:
    for row in rows(everything, name):
        assert row["state"] == state
        assert words in row["error"]
        assert "\n" not in row["error"]
        assert row["components"] == []


def test_the_place_of_a_failure_is_told(everything: Any) -> None:
    assert "raises.py:3" in rows(everything, "raises")[0]["error"]
    assert "half.py:14" in rows(everything, "half")[0]["error"]


def test_both_twins_are_refused(everything: Any) -> None:
    distributions = [row["distribution"] for row in rows(everything, "twin")]
    assert sorted(distributions) == ["blockzoo-colliding-plugins", "blockzoo-twin-plugin"]


def test_a_squatter_is_refused_and_the_built_in_is_not(everything: Any) -> None:
    builtin, squatter = rows(everything, "blocks")
    assert (builtin["state"], builtin["distribution"]) == ("loaded", "blockzoo")
    assert (squatter["state"], squatter["distribution"]) == ("conflict", "blockzoo-colliding-plugins")


def test_everything_else_works(everything: Any) -> None:
    loaded = {row["name"] for row in everything[0] if row["state"] == "loaded"}
    assert loaded == BUILTIN | {"demo", "slow", "printer", "orphan"}
    names = {component["name"] for row in everything[0] for component in row["components"]}
    assert {"rms_norm", "gqa", "dynamic_tanh", "slow_norm", "printed_norm"} <= names
    assert not names & set(LEFT_BEHIND)


def test_a_kernel_without_an_op_is_a_warning(everything: Any) -> None:
    (row,) = rows(everything, "orphan")
    assert row["state"] == "loaded"
    assert "op 'atention', which nobody has; did you mean 'attention'?" in row["error"]


def test_what_a_plugin_prints_does_not_reach_standard_output(everything: Any) -> None:
    assert "hello from the printer's import" in everything[1].stderr
    assert everything[1].stdout.startswith("[")


def test_order_is_built_in_first_then_by_name(everything: Any) -> None:
    order = [(not row["builtin"], row["name"]) for row in everything[0]]
    assert order == sorted(order)


def test_naming_a_block_of_a_broken_plugin_says_why_it_is_missing(
    blockzoo: Any, good: Path, bad: Path, tmp_path: Path
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(
        "vocab_size: 256\ncontext_length: 64\nd_model: 32\nnorm: {type: 'half:half_norm'}\nposition: none\n"
        "layers: {count: 1, mixer: none, ffn: {type: mlp, d_ff: 64}}\n"
    )
    done = blockzoo("validate", "demo-tiny", str(file), path=[good, bad])
    assert done.returncode == 2
    assert "ok demo-tiny" in done.stdout
    assert "plugin 'half' is not loaded (register_failed: LookupError: the second half is missing" in done.stderr
    assert (
        "blockzoo: warning: plugin 'raises' import_failed: RuntimeError: the moon is in the wrong phase" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_metadata_verbs_import_nothing(python: Any, good: Path, bad: Path) -> None:
    script = (
        "import sys; from blockzoo.cli import main\n"
        "codes = [main([]), main(['--help']), main(['--version']), main(['plugins', 'list'])]\n"
        "culprits = [m for m in sys.modules if m == 'torch' or m.startswith('blockzoo_')]\n"
        "verbs = [m for m in sys.modules if m.startswith('blockzoo.cli.')]\n"
        "assert codes == [0, 0, 0, 0] and not culprits, (codes, culprits)\n"
        "own = {'app', 'verbs', 'output', 'plugins'}\n"
        "assert {m.removeprefix('blockzoo.cli.') for m in verbs} == own, verbs\n"
    )
    done = python("-c", script, path=[good, bad], check=True)
    assert "slow" in done.stdout
    assert "dawdle" in done.stdout
    listed = [line.split() for line in done.stdout.splitlines()]
    assert ["raises", "blockzoo-broken-plugins", "0.3.0", "found"] in listed


def test_plugins_show_says_where_it_failed(blockzoo: Any, good: Path, bad: Path) -> None:
    done = blockzoo("--plugins", "raises", "plugins", "show", "raises", path=[good, bad], check=True)
    assert "Traceback" in done.stdout
    assert "raises.py" in done.stdout


def test_doctor_calls_a_broken_plugin_broken(blockzoo: Any, good: Path, bad: Path) -> None:
    done = blockzoo("--plugins", "exits", "doctor", "--json", path=[good, bad])
    assert done.returncode == 1
    report = json.loads(done.stdout)
    broken = [check["name"] for check in report["checks"] if check["ok"] is False]
    assert "plugin exits (blockzoo-broken-plugins)" in broken


def test_a_module_that_shadows_a_built_in_one_is_not_taken_for_it(warm_python: Any, tmp_path: Path) -> None:
    (tmp_path / "blockzoo_gpt2").mkdir()
    (tmp_path / "blockzoo_gpt2" / "__init__.py").write_text("raise SystemExit('intruder')\n")
    script = (
        "from blockzoo.plugins import host\n"
        "rows = [(p.state, p.error) for p in host().plugins if p.name == 'gpt2']\n"
        "assert rows == [('loaded', None)], rows\n"
    )
    warm_python("-c", script, path=[tmp_path], check=True)
