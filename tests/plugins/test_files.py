"""``--plugin ./my_block.py`` and ``load_file``: one file, through the same host as everything installed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from blockzoo.errors import InputError, PluginError
from blockzoo.plugins import host, load_file
from blockzoo.selection import Selection
from blockzoo.testing import CheckFailed, checks
from tests.plugins.blocks_in_files import RIGHT


def test_a_file_is_loaded_and_loaded_again_after_an_edit(fresh: Path) -> None:
    file = fresh / "my_block.py"
    file.write_text(RIGHT)
    row = load_file(file)
    assert (row.name, row.state) == ("my_block", "loaded")
    first = host().registry.block("norm", "my_block:scale_norm")
    assert load_file(str(file)).state == "loaded"
    file.write_text(RIGHT.replace("1e-5", "1e-3"))
    load_file(file)
    second = host().registry.block("norm", "scale_norm")
    assert (first().eps, second().eps) == (1e-5, 1e-3)  # type: ignore[attr-defined]
    assert [plugin.name for plugin in host().plugins].count("my_block") == 1
    assert Selection.from_environment().files == (file,)


def test_a_file_that_makes_its_things_in_the_hook_is_told_to_make_them_once(fresh: Path) -> None:
    file = fresh / "my_block.py"
    file.write_text(RIGHT)
    load_file(file)
    (check,) = [check for check in checks("my_block") if check.name == "registers_twice"]
    check.run()
    anew = "type('Anew', (ScaleNormConfig,), {'__doc__': 'x'}))"
    file.write_text(RIGHT.replace('"scale_norm", ScaleNormConfig)', f'"scale_norm", {anew}'))
    load_file(file)
    (check,) = [check for check in checks("my_block") if check.name == "registers_twice"]
    with pytest.raises(
        CheckFailed, match=r"registered twice by 'my_block', at .*my_block\.py:\d+: .*at the module's top"
    ):
        check.run()


def test_an_edit_that_breaks_it_says_where(fresh: Path) -> None:
    file = fresh / "my_block.py"
    file.write_text(RIGHT)
    load_file(file)
    file.write_text(RIGHT + "\nraise ValueError('not yet')\n")
    with pytest.raises(PluginError, match=r"my_block\.py: import_failed: ValueError: not yet .*my_block\.py:\d+"):
        load_file(file)
    with pytest.raises(PluginError, match="plugin 'my_block' is not loaded"):
        host().registry.get("norm", "my_block:scale_norm")
    assert host().registry.block("norm", "rms_norm")


def test_a_file_of_a_package_is_told_to_name_the_plugin(fresh: Path) -> None:
    (fresh / "blockzoo_mine").mkdir()
    (fresh / "blockzoo_mine" / "__init__.py").write_text("")
    (fresh / "blockzoo_mine" / "quantizer.py").write_text("")
    with pytest.raises(PluginError, match="is part of the package blockzoo_mine: install that"):
        load_file(fresh / "blockzoo_mine" / "quantizer.py")


def test_names_of_files_follow_the_rules_of_plugins(fresh: Path) -> None:
    for name, words in (
        ("gpt2.py", "the name of a plugin that blockzoo ships"),
        ("two words.py", "can't name a plugin"),
        ("none.py", "can't name a plugin"),
    ):
        (fresh / name).write_text(RIGHT)
        with pytest.raises(PluginError, match=words):
            load_file(fresh / name)
    file = fresh / "thief.py"
    file.write_text(RIGHT.replace('"scale_norm"', '"rms_norm"'))
    with pytest.raises(PluginError, match="norm 'rms_norm' is reserved"):
        load_file(file)


def test_what_is_no_file_is_refused(fresh: Path) -> None:
    (fresh / "notes.txt").write_text("")
    for path, words in ((fresh, "is a folder"), (fresh / "x.py", "no such file"), (fresh / "notes.txt", "ends in .py")):
        with pytest.raises(InputError, match=words):
            load_file(path)
    assert os.environ["BLOCKZOO_PLUGIN_FILES"] == ""


def test_two_files_of_one_name_are_both_refused(fresh: Path) -> None:
    for folder in ("a", "b"):
        (fresh / folder).mkdir()
        (fresh / folder / "twin.py").write_text(RIGHT)
    selection = Selection(frozenset()).with_files([fresh / "a" / "twin.py", fresh / "b" / "twin.py"])
    rows = [plugin for plugin in host_rows(selection) if plugin.name == "twin"]
    assert [row.state for row in rows] == ["conflict", "conflict"]
    assert "rename the file" in str(rows[0].error)


def host_rows(selection: Selection) -> Any:
    from blockzoo.plugins import load_plugins

    return load_plugins(selection=selection).plugins


def test_the_flag(blockzoo: Any, tmp_path: Path) -> None:
    file, broken = tmp_path / "my_block.py", tmp_path / "broken.py"
    file.write_text(RIGHT)
    broken.write_text("raise SystemExit('no licence')")
    flags = ["--no-plugins", "--plugin", str(file), "--plugin", str(broken)]
    listed = blockzoo(*flags, "plugins", "list", "--json", path=[], check=True)
    states = {row["name"]: row["state"] for row in json.loads(listed.stdout)}
    assert (states["my_block"], states["broken"]) == ("found", "found")
    done = blockzoo(*flags, "list", "norm", "--json", path=[], check=True)
    assert {"name": "scale_norm", "plugin": "my_block", "about": "One gain for the whole vector."} in json.loads(
        done.stdout
    )["norm"]
    assert "plugin 'broken' import_failed: SystemExit: no licence" in done.stderr


def test_a_missing_file_is_an_error_of_the_user(blockzoo: Any, tmp_path: Path) -> None:
    done = blockzoo("--plugin", "gone.py", "plugins", "list", path=[])
    assert done.returncode == 2
    assert "gone.py: no such file" in done.stderr


WORKERS = """
import multiprocessing, sys

def names(_):
    from blockzoo.plugins import host
    return host().registry.canonical("norm", "scale_norm")

if __name__ == "__main__":
    from blockzoo.plugins import load_file
    load_file(sys.argv[1])
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(names, [0]))
"""


def test_worker_processes_load_the_file_too(python: Any, tmp_path: Path) -> None:
    (tmp_path / "my_block.py").write_text(RIGHT)
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = python(str(script), str(tmp_path / "my_block.py"), path=[], check=True, BLOCKZOO_PLUGINS="none")
    assert done.stdout == "['my_block:scale_norm']\n"
