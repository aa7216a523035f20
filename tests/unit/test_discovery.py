"""Metadata alone: who is built in, who squats, and which copy of a distribution counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockzoo.discovery import Plugin, discover
from blockzoo.errors import InputError
from blockzoo.selection import Selection


def distribution(folder: Path, name: str, plugins: dict[str, str], *, version: str = "1.0", requires: str = "") -> None:
    """Metadata as an installer writes it, and no code: discovery must not miss it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requires}"] if requires else []
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    entries = "\n".join(f"{plugin} = {module}" for plugin, module in plugins.items())
    (info / "entry_points.txt").write_text(f"[blockzoo.plugins]\n{entries}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of everything else on sys.path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def found(name: str, selection: Selection | None = None) -> list[Plugin]:
    return [plugin for plugin in discover(selection or Selection()) if plugin.name == name]


def test_the_shipped_plugins_are_built_in() -> None:
    plugins = discover(Selection())
    builtin = [plugin.name for plugin in plugins if plugin.builtin]
    assert builtin == sorted(builtin)
    assert {"blocks", "gpt2", "gpt_oss", "qwen3", "torch"} <= set(builtin)
    assert [plugin.builtin for plugin in plugins] == sorted((plugin.builtin for plugin in plugins), reverse=True)


def test_a_distribution_that_calls_itself_blockzoo_is_not_built_in(site: Path) -> None:
    distribution(site, "blockzoo", {"blocks": "evil", "extra": "evil"}, version="99.0")
    builtin, intruder = found("blocks")
    assert (builtin.builtin, builtin.state) == (True, "found")
    assert builtin.installed.entry.value == "blockzoo_blocks"
    assert (intruder.builtin, intruder.state) == (False, "conflict")
    (extra,) = found("extra")
    assert (extra.builtin, extra.state) == (False, "conflict")
    assert "calls itself blockzoo" in str(extra.error)


def test_an_intruder_cannot_take_a_built_in_module_as_its_own(site: Path) -> None:
    from blockzoo.plugins import load_plugins

    distribution(site, "intruder", {"mine": "blockzoo_blocks"})
    loaded = load_plugins(selection=Selection(frozenset({"mine"})))
    (row,) = [plugin for plugin in loaded.plugins if plugin.name == "mine"]
    assert row.state == "register_failed"
    assert loaded.registry.canonical("norm", "rms_norm") == "blocks:rms_norm"


def test_one_distribution_seen_twice_counts_once(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(site, "doubled", {"double": "doubled"}, version="2.0")
    monkeypatch.syspath_prepend(str(site))
    (plugin,) = found("double")
    assert plugin.state == "found"
    newer = tmp_path / "newer"
    distribution(newer, "Doubled", {"double": "doubled"}, version="3.0")
    monkeypatch.syspath_prepend(str(newer))
    (plugin,) = found("double")
    assert (plugin.state, plugin.installed.version) == ("found", "3.0")


def test_a_shadowed_copy_is_not_a_plugin(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(site, "grown", {"grown": "grown"})
    newer = tmp_path / "newer"
    distribution(newer, "grown", {}, version="2.0")  # the version that is imported is a plugin no more
    monkeypatch.syspath_prepend(str(newer))
    assert found("grown") == []


def test_two_distributions_under_one_name_are_both_refused(site: Path) -> None:
    distribution(site, "first", {"same": "first"})
    distribution(site, "second", {"same": "second"})
    plugins = found("same")
    assert [plugin.state for plugin in plugins] == ["conflict", "conflict"]
    assert "first (first), second (second); uninstall all but one" in str(plugins[0].error)


@pytest.mark.parametrize(
    ("requires", "state"),
    [
        ("blockzoo>=0.1", "found"),
        ("blockzoo>=99", "incompatible"),
        ("BlockZoo<0.1", "incompatible"),
        ("blockzoo>=99; extra == 'future'", "found"),
        ("blockzoo >>> 1", "incompatible"),
        ("torch>=99", "found"),
    ],
)
def test_requirements_on_blockzoo(site: Path, requires: str, state: str) -> None:
    distribution(site, "wanting", {"wanting": "wanting"}, requires=requires)
    assert [plugin.state for plugin in found("wanting")] == [state]


@pytest.mark.parametrize("name", ["none", "a:b", "two words"])
def test_names_that_cannot_be_written_in_yaml(site: Path, name: str) -> None:
    distribution(site, "badly-named", {name: "badly"})
    plugins = [plugin for plugin in discover(Selection()) if plugin.installed.distribution == "badly-named"]
    assert [plugin.state for plugin in plugins] == ["incompatible"]


def test_metadata_without_a_name_does_no_harm(site: Path) -> None:
    info = site / "~lockzoo_remains-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("")
    (info / "entry_points.txt").write_text("[blockzoo.plugins]\nremains = remains\n")
    (plugin,) = found("remains")
    assert plugin.installed.distribution == "unnamed"


def test_a_denied_plugin_is_disabled_whatever_else_it_is(site: Path) -> None:
    distribution(site, "third", {"third": "third"})
    selection = Selection(frozenset({"third"}), {"third": "somebody", "gpt2": "somebody"})
    assert [plugin.state for plugin in found("third", selection)] == ["disabled"]
    assert [plugin.state for plugin in found("gpt2", selection)] == ["disabled"]


def test_asking_for_what_is_not_installed() -> None:
    with pytest.raises(InputError, match="no plugin 'blcks' is installed; did you mean 'blocks'"):
        discover(Selection(frozenset({"blcks"})))
