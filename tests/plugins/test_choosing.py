"""Flags, environment and deny lists decide before anything is imported; worker processes obey too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

STATES = """
import json, sys
from blockzoo.plugins import host
host()
imported = sorted({m.partition(".")[0] for m in sys.modules if m.startswith("blockzoo_")})
print(json.dumps([{p.name: p.state for p in host().plugins if p.state == "loaded"}, imported]))
"""


def imported(warm_python: Any, path: list[Path], **environment: str) -> tuple[dict[str, str], list[str]]:
    done = warm_python("-c", STATES, path=path, check=True, **environment)
    return json.loads(done.stdout)


def states(done: Any) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(done.stdout) if not row["builtin"]}


def test_environment_is_obeyed_before_any_import(warm_python: Any, good: Path, bad: Path) -> None:
    loaded, modules = imported(warm_python, [good, bad], BLOCKZOO_PLUGINS="none")
    assert "demo" not in loaded
    assert not {"blockzoo_demo", "blockzoo_slow", "blockzoo_broken"} & set(modules)
    loaded, modules = imported(warm_python, [good, bad], BLOCKZOO_PLUGINS="demo")
    assert "demo" in loaded
    assert not {"blockzoo_slow", "blockzoo_broken", "blockzoo_colliding"} & set(modules)


def test_deny_list_is_obeyed_before_any_import(warm_python: Any, good: Path, tmp_path: Path) -> None:
    loaded, modules = imported(warm_python, [good], BLOCKZOO_DENY_PLUGINS="demo, gpt2")
    assert not {"demo", "gpt2"} & set(loaded)
    assert not {"blockzoo_demo", "blockzoo_gpt2"} & set(modules)
    (tmp_path / "blockzoo").mkdir()
    (tmp_path / "blockzoo" / "plugins.toml").write_text('deny = ["demo"]\n')
    loaded, modules = imported(warm_python, [good], XDG_CONFIG_HOME=str(tmp_path), BLOCKZOO_PLUGINS="demo")
    assert "demo" not in loaded
    assert "blockzoo_demo" not in modules


def test_flags(blockzoo: Any, good: Path, bad: Path) -> None:
    path = [good, bad]
    everything = {"BLOCKZOO_PLUGINS": "demo,slow,raises"}
    none = states(blockzoo("--no-plugins", "plugins", "list", "--json", path=path, **everything))
    assert set(none.values()) == {"disabled"}
    one = states(blockzoo("--plugins", "demo", "plugins", "--json", path=path, **everything))
    assert [name for name, state in one.items() if state != "disabled"] == ["demo"]
    assert one["demo"] == "loaded"


def test_a_typo_is_an_error(blockzoo: Any, good: Path) -> None:
    done = blockzoo("--plugins", "dmo", "list", path=[good])
    assert done.returncode == 2
    assert "no plugin 'dmo' is installed; did you mean 'demo'?" in done.stderr
    done = blockzoo("--plugins", "demo", "--no-plugins", "list", path=[good])
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_a_disabled_plugin_says_so_when_its_block_is_named(blockzoo: Any, good: Path, tmp_path: Path) -> None:
    file = tmp_path / "wants_demo.yaml"
    file.write_text(
        "requires: [demo]\nvocab_size: 256\ncontext_length: 64\nd_model: 32\nnorm: {type: 'demo:dynamic_tanh'}\n"
        "position: none\nlayers: {count: 1, mixer: none, ffn: {type: mlp, d_ff: 64}}\n"
    )
    done = blockzoo("--no-plugins", "validate", str(file), path=[good])
    assert done.returncode == 2
    assert "plugin 'demo' is not loaded (disabled: not selected" in done.stderr
    assert blockzoo("validate", str(file), path=[good]).returncode == 0


WORKERS = """
import multiprocessing, os

def names(_):
    from blockzoo.plugins import host
    return sorted(p.name for p in host().plugins if p.state == "loaded" and not p.builtin)

if __name__ == "__main__":
    from blockzoo.plugins import host
    from blockzoo.plugins import _host
    from blockzoo.selection import Selection
    assert "BLOCKZOO_PLUGINS" not in os.environ
    _host.load(Selection(frozenset({"demo"})))
    assert names(0) == ["demo"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(names, [0]) == [["demo"]]
    print("done")
"""


def test_worker_processes_load_the_same(python: Any, good: Path, bad: Path, tmp_path: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    assert python(str(script), path=[good, bad], check=True).stdout == "done\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["hello", "you", "--loudly"], 0, "hello you!"),
        (["hello", "you", "--fail"], 1, "blockzoo: error: lost for words"),
        (["hello"], 2, "blockzoo: error: Missing argument"),
        (["wrong"], 2, "verb 'wrong' of blockzoo-verbs can't be loaded: ImportError: no module named yesterday"),
        (["--no-plugins", "hello", "you"], 2, "no verb 'hello'"),
        (["--help"], 0, "verb 'train' of blockzoo-verbs is refused: blockzoo has one"),
    ],
)
def test_third_party_verbs(blockzoo: Any, good: Path, bad: Path, arguments: list[str], code: int, words: str) -> None:
    done = blockzoo(*arguments, path=[good, bad], BLOCKZOO_DENY_PLUGINS="slow")
    assert done.returncode == code, done.stderr
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
