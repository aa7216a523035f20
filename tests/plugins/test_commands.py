"""``blockzoo plugins list|show|disable|enable|doctor|check|try`` beside plugins that are broken, slow or wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blockzoo.cli import main
from blockzoo.cli.plugins_check import outcome_of
from blockzoo.deny import read_deny
from blockzoo.experiments.swap import ARCHITECTURES, Trial, run, trials
from blockzoo.plugins import host, load_file
from blockzoo.registry import Registry
from blockzoo.testing import checks
from tests.plugins.blocks_in_files import ONE_NUMBER, RAISES, RIGHT, WRONG_COST
from tests.plugins.test_isolation import FAILING

IMPORTS_NOTHING = """
import sys
from blockzoo.cli import main
commands = (["disable", "demo"], ["disable", "demo"], ["list"], ["enable", "demo"], ["enable", "demo"], ["list"])
codes = [main(["plugins", *command]) for command in commands]
culprits = [m for m in sys.modules if m == "torch" or m.startswith("blockzoo_")]
assert codes == [0] * 6 and not culprits, (codes, culprits)
"""
SHOW = """
import sys
from blockzoo.cli import main
assert main(["plugins", "show", "demo"]) == 0
others = {"blockzoo_slow", "blockzoo_broken", "blockzoo_colliding"} & set(sys.modules)
assert not others, others
"""


# --- list, show, disable, enable, doctor ---


def test_disable_and_enable_import_nothing(python: Any, good: Path, bad: Path, tmp_path: Path) -> None:
    done = python("-c", IMPORTS_NOTHING, path=[good, bad], check=True, XDG_CONFIG_HOME=str(tmp_path))
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("demo")]
    assert [row[3] for row in rows] == ["disabled", "found"]
    assert (tmp_path / "blockzoo" / "plugins.toml").read_text().endswith("deny = []\n")
    assert "was disabled in" in done.stderr
    assert "doesn't disable demo" in done.stderr


def test_what_is_built_in_is_disabled_by_force_alone(blockzoo: Any, tmp_path: Path) -> None:
    refused = blockzoo("plugins", "disable", "blocks", path=[], XDG_CONFIG_HOME=str(tmp_path))
    assert refused.returncode == 2
    assert "blocks is built in: models that use what it has won't load without it; --force" in refused.stderr
    forced = blockzoo("plugins", "disable", "blocks", "--force", path=[], XDG_CONFIG_HOME=str(tmp_path))
    assert forced.returncode == 0
    assert read_deny(tmp_path / "blockzoo" / "plugins.toml") == ["blocks"]


@pytest.mark.parametrize("verb", ["disable", "enable"])
def test_a_misspelt_name_is_an_error(blockzoo: Any, good: Path, tmp_path: Path, verb: str) -> None:
    done = blockzoo("plugins", verb, "dmeo", path=[good], XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert "did you mean 'demo'?" in done.stderr
    assert not (tmp_path / "blockzoo").exists()


def test_show_imports_only_what_it_shows(warm_python: Any, good: Path, bad: Path) -> None:
    done = warm_python("-c", SHOW, path=[good, bad], check=True)
    assert "norm demo:dynamic_tanh" in done.stdout


def test_doctor_says_what_to_do_about_each(blockzoo: Any, good: Path, bad: Path, tmp_path: Path) -> None:
    environment = {"BLOCKZOO_DENY_PLUGINS": "demo", "XDG_CONFIG_HOME": str(tmp_path)}
    done = blockzoo("plugins", "doctor", "--json", path=[good, bad], **environment)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    advice = {row["name"]: " ".join(row["advice"]) for row in report["plugins"]}
    assert not report["ok"]
    assert all(advice[name] for name in FAILING)
    assert "blockzoo plugins show raises" in advice["raises"]
    assert "blockzoo plugins disable raises" in advice["raises"]
    assert "force-reinstall blockzoo-broken-plugins" in advice["absent"]
    assert "pip install --upgrade" in advice["outdated"]
    assert "take it out of BLOCKZOO_DENY_PLUGINS" in advice["demo"]
    assert "importing it takes" in advice["slow"]
    assert advice["gpt2"] == advice["printer"] == ""


# --- check and try, in this process ---


def test_check_passes_on_a_file_that_is_right(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "my_block.py").write_text(RIGHT)
    assert main(["plugins", "check", "./my_block.py", "--only", "scale_norm", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["ok"]
    assert report["failed"] == 0
    assert report["passed"] > 10
    assert {row["component"] for row in report["checks"]} == {"norm/scale_norm"}


def test_a_parameter_without_an_axis_is_saved_and_loaded(fresh: Path) -> None:
    path = fresh / "one_number.py"
    path.write_text(ONE_NUMBER)
    assert main(["plugins", "check", str(path)]) == 0


def test_checks_of_a_file_that_need_a_package_are_skipped_in_one_line(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fresh / "my_block.py").write_text(RIGHT)
    assert main(["plugins", "check", "./my_block.py", "--only", "package/my_block"]) == 0
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("skipped ")]
    assert line.startswith("skipped package/my_block 4 checks: ")


@pytest.mark.parametrize("folder", ["blockzoo-mine", "./blockzoo-mine"])
def test_a_package_that_is_not_installed_is_told_how(
    fresh: Path, capfd: pytest.CaptureFixture[str], folder: str
) -> None:
    assert main(["plugins", "new", "mine"]) == 0
    assert main(["plugins", "check", folder]) == 2
    assert f"'pip install -e {folder}' installs it" in capfd.readouterr().err


def test_check_fails_with_one_line_a_failure(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "my_block.py").write_text(WRONG_COST)
    assert main(["plugins", "check", "./my_block.py", "--only", "norm/scale_norm"]) == 1
    out = capfd.readouterr().out
    failed = [line for line in out.splitlines() if line.startswith("failed ")]
    assert any("cost" in line for line in failed)
    assert any(line.startswith("failed norm/scale_norm in_gpt2, in_qwen3, in_gpt_oss: ") for line in failed)
    assert out.splitlines()[-1].startswith(f"{len(failed) + 2} of ")
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "blcks"], "no plugin 'blcks' is installed; did you mean 'blocks'?"),
        (
            ["check", "gpt2", "--only", "mixer"],
            "--only: the plugin has no component or check 'mixer'; accepted: absence, comes_back",
        ),
        (["check", "blocks", "--only", "causalty"], "no component or check 'causalty'; did you mean 'causality'?"),
        (["check", "./broken.py"], "broken.py: import_failed: ZeroDivisionError"),
        (["try", "gpt2"], "plugin 'gpt2' registers family: nothing that stands in a slot of a model"),
    ],
)
def test_what_cannot_be_checked(
    fresh: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    (fresh / "broken.py").write_text("1 / 0")
    assert main(["plugins", *arguments]) == 2
    assert words in capfd.readouterr().err


def test_an_unforeseen_exception_in_a_check_is_a_failure(fresh: Path) -> None:
    class Wild:
        component, name = "norm/wild", "wildness"

        def run(self) -> None:
            raise LookupError("two\nlines")

    outcome = outcome_of(Wild())  # type: ignore[arg-type]
    assert (outcome.result, outcome.message) == ("failed", "raised LookupError: two lines")


def test_the_table_of_try(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "my_block.py").write_text(RIGHT)
    assert main(["plugins", "try", "./my_block.py", "--steps", "3", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["results"]
    places = [(row["architecture"], row["slot"]) for row in rows]
    assert places == [(a.name, slot) for a in ARCHITECTURES for slot in ("", "norm", "qk_norm")]
    for row in rows:
        assert row["error"] is None
        assert row["builds"]
        assert row["decodes"]
        assert row["loss_after"] < row["loss_before"]
        assert row["parameters"] > 100_000


WIDE = """
from pydantic import Field

from blockzoo_blocks.quantizers.int8 import Int8Config


class WideConfig(Int8Config):
    group_size: int = Field(128, description="weights that share a scale")

    @classmethod
    def samples(cls):
        return [cls(), cls(group_size=16)]


def blockzoo_register(registry):
    registry.block("quantizer", "wide", WideConfig)
"""


def test_the_sample_that_fits_the_small_models_is_tried_and_told(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fresh / "my_quantizer.py").write_text(WIDE)
    assert main(["plugins", "try", "./my_quantizer.py", "--steps", "1"]) == 0
    out = capfd.readouterr().out
    assert "packs groups of" not in out
    assert out.count("tried quantizer/wide: sample 2 of 2, {group_size: 16}\n") == 1


def test_a_block_that_raises_is_a_row(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "my_block.py").write_text(RAISES)
    load_file("my_block.py")
    trial = trials("my_block", host().registry)[1]
    result = run(trial, host().registry, steps=1)
    assert result.builds
    assert not result.learns
    assert not result.decodes
    assert "train: plugin my_block at layers.0.mixer_norm raised ArithmeticError: no length" in str(result.error)
    assert "my_block.py:" in str(result.error)


def test_an_option_that_does_not_fit_is_a_row(fresh: Path) -> None:
    trial = Trial(ARCHITECTURES[0], "mixer/gqa", "mixer", {"layers.mixer": {"type": "gqa", "n_heads": 7}})
    result = run(trial, host().registry, steps=1)
    assert str(result.error).startswith("config: ")
    assert "n_heads 7" in str(result.error)
    assert not result.builds


PACKED_KERNEL = """
from blockzoo.kernels import YES, Kernel, no
from blockzoo.linear import LINEAR


def supports(capabilities, call):
    return YES if type(call.static["quantizer"]).__name__ == "Int8Config" else no("reads int8 only")


def blockzoo_register(registry):
    registry.kernel("linear", Kernel("int8_only", LINEAR.reference, supports))
"""


def test_a_kernel_for_packed_weights_is_tried_on_such(fresh: Path) -> None:
    (fresh / "my_kernel.py").write_text(PACKED_KERNEL)
    load_file("my_kernel.py")
    registry = host().registry
    tried = [trial for trial in trials("my_kernel", registry) if trial.component]
    assert {trial.slot for trial in tried} == {"op linear over blocks:int8"}
    for trial in tried:
        result = run(trial, registry, steps=1)
        assert result.error is None
        assert result.learns is None
        assert result.decodes


EXPERT_KERNEL = """
from blockzoo.kernels import YES, Kernel
from blockzoo.linear import EXPERT_LINEAR


def with_bias(weight, x, bias, counts, *, quantizer):
    assert bias is not None
    return EXPERT_LINEAR.reference(weight, x, bias, counts, quantizer=quantizer)


def blockzoo_register(registry):
    registry.kernel("expert_linear", Kernel("with_bias", with_bias, lambda capabilities, call: YES))
"""


def test_a_kernel_is_tried_where_its_op_is_used(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "my_kernel.py").write_text(EXPERT_KERNEL)
    load_file("my_kernel.py")
    tried = trials("my_kernel", host().registry)
    assert {trial.architecture.name for trial in tried} == {"gpt_oss"}
    assert not tried[1].trains
    (fresh / "nobodys.py").write_text(EXPERT_KERNEL.replace('kernel("expert_linear"', 'kernel("stream_sum"'))
    assert main(["plugins", "try", "./nobodys.py"]) == 2
    words = "none of the small models uses the op 'stream_sum'; they use activation, attention, choose_experts, "
    assert words in capfd.readouterr().err


def test_a_failure_of_a_kernel_has_its_place_and_on_demand_a_traceback(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (fresh / "my_kernel.py").write_text(EXPERT_KERNEL)
    assert main(["plugins", "check", "./my_kernel.py", "--only", "leaves_inputs_alone"]) == 1
    out, err = capfd.readouterr()
    assert "raises AssertionError: assert bias is not None (" in out
    assert "my_kernel.py:7)" in out
    assert "Traceback" not in out + err
    assert main(["--traceback", "plugins", "check", "./my_kernel.py", "--only", "leaves_inputs_alone"]) == 1
    told = capfd.readouterr().err
    assert told.startswith("kernel/with_bias leaves_inputs_alone:\nTraceback (most recent call last):")
    assert "in with_bias\n    assert bias is not None" in told


def test_an_op_that_is_there_and_not_in_the_model_has_no_near_one(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for use, words in (("expert_linear=rows", "uses no op of that name\n"), ("liner=rows", "did you mean 'linear'?")):
        assert main(["kernels", "gpt2", "--use", use]) == 2
        assert words in capfd.readouterr().err


def test_plugins_left_out_alike_are_told_together() -> None:
    registry = Registry(missing=dict.fromkeys(["b", "a"], "disabled: not selected") | {"c": "import_failed: no"})
    assert registry.not_loaded() == " (plugins not loaded: a, b: disabled: not selected; c: import_failed: no)"


def test_list_takes_plurals(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for plural, kind in (("ops", "op"), ("families", "family"), ("norms", "norm"), ("configs", "config")):
        assert main(["list", plural, "--json"]) == 0
        assert list(json.loads(capfd.readouterr().out)) == [kind]


def test_list_has_the_options_of_sections(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for section, option in (("embedding", "tied"), ("head", "logit_softcap"), ("init", "std")):
        assert main(["list", section, "--json"]) == 0
        rows = {row["option"]: row for row in json.loads(capfd.readouterr().out)["section"]}
        assert rows[option]["about"]
        assert main(["list", section]) == 0
        assert f"section {section}: YAML: {section}: {{" in capfd.readouterr().out


def test_show_takes_a_file(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "mine.py").write_text(RIGHT)
    (fresh / "raises.py").write_text("raise ArithmeticError('no length')\n")
    assert main(["plugins", "show", "./mine.py"]) == 0
    out = capfd.readouterr().out
    assert "state: loaded" in out
    assert "mine:" in out
    assert main(["plugins", "show", "raises.py", "--json"]) == 0
    (row,) = json.loads(capfd.readouterr().out)
    assert (row["name"], row["state"]) == ("raises", "import_failed")
    assert row["error"].startswith("ArithmeticError: no length (")
    assert main(["plugins", "show", "raises.py"]) == 0
    assert "raises.py" in capfd.readouterr().out.partition("Traceback")[2]
    assert main(["plugins", "show", "./gone.py"]) == 2
    assert "gone.py: no such file" in capfd.readouterr().err


def test_every_block_we_ship_has_its_trials(fresh: Path) -> None:
    registry = host().registry
    tried = {trial.component for trial in trials("blocks", registry)}
    blocks = {f"{c.kind}/{c.name}" for c in registry.components("blocks") if c.kind != "op"}
    assert tried == blocks | {""}


def test_the_suite_reaches_every_component(fresh: Path) -> None:
    registry = host().registry
    checked = {check.component for check in checks("blocks", registry)}
    assert {f"{c.kind}/{c.name}" for c in registry.components("blocks")} <= checked
