"""Names: bare and canonical, taken and reserved, missing and ambiguous."""

from __future__ import annotations

from typing import Any

import pytest

from blockzoo.blocks import MixerConfig, NormConfig
from blockzoo.errors import PluginError
from blockzoo.kernels import YES, Kernel
from blockzoo.registry import Registrar, Registry


class OneNorm(NormConfig):
    """A norm."""


class OtherNorm(NormConfig):
    """Another."""


class OneMixer(MixerConfig):
    """A mixer."""


def register(registry: Registry, plugin: str, **norms: Any) -> None:
    registrar = Registrar(registry, plugin)
    for name, config in norms.items():
        registrar.block("norm", name, config)
    registrar.commit()


@pytest.fixture
def registry() -> Registry:
    registry = Registry(builtin=frozenset({"blocks"}))
    register(registry, "blocks", rms=OneNorm)
    return registry


def test_bare_and_canonical_names_mean_the_same(registry: Registry) -> None:
    assert registry.block("norm", "rms") is registry.block("norm", "blocks:rms") is OneNorm
    assert registry.canonical("norm", "rms") == "blocks:rms"
    assert registry.name_of(OneNorm, "norm") == "blocks:rms"


def test_the_same_object_twice_is_fine(registry: Registry) -> None:
    register(registry, "blocks", rms=OneNorm)
    assert registry.names("norm") == ["rms"]


def test_another_object_under_a_taken_name_names_the_places(registry: Registry) -> None:
    with pytest.raises(PluginError, match=r"twice by 'blocks', at .*test_registry\.py:\d+: .*make it once, at the mod"):
        register(registry, "blocks", rms=OtherNorm)
    registrar = Registrar(registry, "mine")
    registrar.block("norm", "fresh", OneNorm)
    with pytest.raises(
        PluginError, match=r"twice by 'mine': .*test_registry\.py:\d+ and .*test_registry\.py:\d+; give each"
    ):
        registrar.block("norm", "fresh", OtherNorm)


def test_built_in_names_are_reserved(registry: Registry) -> None:
    with pytest.raises(PluginError, match="norm 'rms' is reserved: blockzoo ships one"):
        register(registry, "mine", rms=OtherNorm)
    assert registry.block("norm", "rms") is OneNorm


def test_a_name_may_serve_two_kinds(registry: Registry) -> None:
    registrar = Registrar(registry, "mine")
    registrar.block("mixer", "rms", OneMixer)
    registrar.commit()
    assert registry.block("mixer", "rms") is OneMixer


def test_a_bare_name_of_two_plugins_is_ambiguous(registry: Registry) -> None:
    register(registry, "a", soft=OneNorm)
    assert registry.canonical("norm", "soft") == "a:soft"
    register(registry, "b", soft=OtherNorm)
    with pytest.raises(PluginError, match="norm 'soft' is ambiguous; write one of a:soft, b:soft"):
        registry.get("norm", "soft")
    assert registry.block("norm", "b:soft") is OtherNorm
    assert registry.names("norm") == ["a:soft", "b:soft", "rms"]


def test_a_typo_gets_the_nearest_name(registry: Registry) -> None:
    with pytest.raises(PluginError, match="no norm 'rns'; did you mean 'rms'"):
        registry.get("norm", "rns")


def test_a_missing_plugin_says_why(registry: Registry) -> None:
    registry.missing["lost"] = "import_failed: RuntimeError: boom"
    with pytest.raises(
        PluginError, match=r"no norm 'lost:soft': plugin 'lost' is not loaded \(import_failed: .* boom\)"
    ):
        registry.get("norm", "lost:soft")
    with pytest.raises(PluginError, match="not loaded: lost: import_failed"):
        registry.get("norm", "soft")


def test_nothing_is_visible_before_commit(registry: Registry) -> None:
    Registrar(registry, "mine").block("norm", "soft", OneNorm)
    assert registry.components("mine") == []


@pytest.mark.parametrize(
    ("kind", "name", "config", "words"),
    [
        ("nrm", "x", OneNorm, "no kind of block 'nrm'; did you mean 'norm'"),
        ("norm", "x", OneMixer, "is not a subclass of NormConfig"),
        ("norm", "x", "OneNorm", "is not a subclass of NormConfig"),
        ("norm", "not a name", OneNorm, "a name is an identifier"),
        ("norm", "a:b", OneNorm, "a name is an identifier"),
        ("norm", "", OneNorm, "a name is an identifier"),
    ],
)
def test_wrong_registrations(registry: Registry, kind: str, name: str, config: Any, words: str) -> None:
    with pytest.raises(PluginError, match=words):
        Registrar(registry, "mine").block(kind, name, config)


def test_kernels_are_found_by_op(registry: Registry) -> None:
    kernel = Kernel("quick", lambda x: x, lambda capabilities, call: YES)
    registrar = Registrar(registry, "mine")
    registrar.kernel("attention", kernel)
    registrar.commit()
    assert registry.kernels() == {"attention": [kernel]}
