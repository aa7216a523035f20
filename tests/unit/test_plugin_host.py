"""The host on plugins that live in a folder of the test: one pass, one host, all or nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockzoo.discovery import Plugin
from blockzoo.errors import PluginError
from blockzoo.importing import one_line
from blockzoo.plugins import Host, Loaded, host, load_plugins, reset_host
from blockzoo.selection import Selection
from blockzoo.shipped import checkout, shipped_configs

NORM = """
from blockzoo.blocks import NormConfig

class Config(NormConfig):
    '''A norm.'''

def blockzoo_register(registry):
    registry.block("norm", "the_norm", Config)
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], tuple[Plugin, Loaded]]]:
    """Install one plugin of that source, called ``third``, and load."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(source: str) -> tuple[Plugin, Loaded]:
        info = tmp_path / "third-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[blockzoo.plugins]\nthird = third_plugin\n")
        (tmp_path / "third_plugin.py").write_text(source)
        loaded = load_plugins(selection=Selection(frozenset({"third"})))
        (row,) = [plugin for plugin in loaded.plugins if plugin.name == "third"]
        return row, loaded

    yield run
    sys.modules.pop("third_plugin", None)


def test_functions_need_no_marker(load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    row, loaded = load(NORM)
    assert row.state == "loaded"
    assert [component.canonical for component in row.components] == ["third:the_norm"]
    assert "third" not in loaded.registry.builtin


def test_a_hook_with_arguments_of_its_own_is_refused(load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    row, _ = load("def blockzoo_register(registry, colour): pass")
    assert row.state == "register_failed"
    expected = "blockzoo_register has no argument 'colour': define it as `def blockzoo_register(registry)`"
    assert str(row.error).startswith(expected)


def test_an_argument_with_a_default_is_the_plugins_own(load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    row, _ = load("def blockzoo_register(registry, colour='red', **more): assert colour == 'red'")
    assert row.state == "loaded", row.error


def test_a_rolled_back_plugin_leaves_no_hook_behind(load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    row, loaded = load(NORM + "\ndef blockzoo_configs(): raise OSError('unreadable')")
    assert (row.state, row.components) == ("register_failed", ())
    assert loaded.registry.components("third") == []
    assert loaded.hooks.get_plugin("third") is None
    assert loaded.registry.missing["third"].startswith("register_failed: OSError: unreadable")


def test_folders_of_configs_reach_the_registry(load: Callable[[str], tuple[Plugin, Loaded]], tmp_path: Path) -> None:
    row, loaded = load(f"def blockzoo_configs(): return [{str(tmp_path)!r}]")
    assert row.state == "loaded"
    assert loaded.registry.config_folders["third"] == [tmp_path]


def test_an_interrupt_passes_through(load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        load("raise KeyboardInterrupt")


def test_asking_for_the_host_at_import_is_refused(tmp_path: Path, load: Callable[[str], tuple[Plugin, Loaded]]) -> None:
    reset_host()
    try:
        load("")  # writes the metadata
        sys.modules.pop("third_plugin")
        (tmp_path / "third_plugin.py").write_text("from blockzoo.plugins import host\nhost()\n")
        (row,) = [plugin for plugin in host().plugins if plugin.name == "third"]
        assert row.state == "import_failed"
        assert "asked for the host while plugins are being loaded" in str(row.error)
    finally:
        reset_host()


def test_loading_is_idempotent_and_thread_safe() -> None:
    fresh = Host()
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(fresh.load().registry)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len({id(registry) for registry in seen}) == 1
    assert host() is host()


def test_another_selection_after_loading_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLOCKZOO_PLUGINS", "BLOCKZOO_DENY_PLUGINS"):
        monkeypatch.setenv(name, "")
    fresh = Host()
    fresh.load(Selection(frozenset(), {"gpt2": "a test"}))
    assert (os.environ["BLOCKZOO_PLUGINS"], os.environ["BLOCKZOO_DENY_PLUGINS"]) == ("none", "gpt2")
    fresh.load(Selection(frozenset(), {"gpt2": "a test"}))
    with pytest.raises(PluginError, match="choose before the first use"):
        fresh.load(Selection(frozenset({"third"})))


def test_one_line_is_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert one_line(ValueError()) == "ValueError"
    assert one_line(PluginError("said already")) == "said already"
    assert len(one_line(ValueError("x" * 10_000))) < 500


def test_shipped_configs_of_a_checkout_win_over_packaged_ones(tmp_path: Path) -> None:
    package = tmp_path / "core" / "blockzoo"
    for folder in (tmp_path / "configs" / "family", package / "configs" / "family", package / "configs" / "packaged"):
        folder.mkdir(parents=True)
    assert shipped_configs("family", package) == package / "configs" / "family"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "somebody-else"\n')
    assert shipped_configs("family", package) == package / "configs" / "family"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "blockzoo"\n')
    assert checkout(package) == tmp_path
    assert shipped_configs("family", package) == tmp_path / "configs" / "family"
    assert shipped_configs("packaged", package) == package / "configs" / "packaged"
    with pytest.raises(PluginError, match="no shipped configs 'lost'"):
        shipped_configs("lost", package)


def test_shipped_configs_of_this_installation() -> None:
    assert (shipped_configs("gpt2") / "gpt2.yaml").is_file()
