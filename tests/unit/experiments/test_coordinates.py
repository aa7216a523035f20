"""The coordinate check bites on the standard parametrization and is flat under CompleteP, for plugins' blocks too."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockzoo.blocks import Role
from blockzoo.cli import main
from blockzoo.errors import ConfigError, InputError
from blockzoo.experiments.coordinates import THRESHOLD, Report, Settings, check_coordinates, exponent
from blockzoo.plugins import reset_host
from blockzoo.registry import Registrar, Registry
from tests.conftest import builtin_registry

BLOCKS = {
    "attention": {"type": "gqa", "n_heads": 2},
    "dense": {"type": "mlp", "d_ff": 64},
    "experts": {"type": "moe", "n_experts": 4, "top_k": 2, "expert": {"type": "glu", "d_ff": 32}},
    "latent": {"type": "mla", "n_heads": 2, "kv_rank": 16, "nope_dim": 16, "rope_dim": 8, "v_dim": 16,
               "norm": "rms_norm"},
}  # fmt: skip
MODEL = {
    "name": "small",
    "vocab_size": 256,
    "context_length": 64,
    "d_model": 32,
    "norm": "rms_norm",
    "position": "rope",
    "blocks": {name: BLOCKS[name] for name in ("attention", "dense")},
    "layers": {"count": 2, "mixer": "attention", "ffn": "dense"},
}
FEW = Settings(widths=(1, 4), depths=(1, 4), steps=6, seeds=(0,))


@pytest.fixture(scope="module")
def with_mla() -> Iterator[Registry]:
    """The built-in plugins and the guide's example of a mixer."""
    folder = Path(__file__).resolve().parents[3] / "docs" / "plugin-authors" / "examples" / "mla"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        import blockzoo_mla

        registry = builtin_registry()
        registrar = Registrar(registry, "mla")
        blockzoo_mla.blockzoo_register(registrar)
        registrar.commit()
        yield registry
        for name in [name for name in sys.modules if name.partition(".")[0] == "blockzoo_mla"]:
            del sys.modules[name]


def check(registry: Registry, completep: bool, **layers: Any) -> Report:
    model = MODEL | {"blocks": {name: BLOCKS[name] for name in ("attention", "dense", *layers.values())}}
    settings = Settings(**{**vars(FEW), "completep": completep})
    return check_coordinates(
        model, {f"layers.{slot}": name for slot, name in layers.items()}, settings, registry=registry
    )


@pytest.mark.parametrize("layers", [{}, {"ffn": "experts"}, {"mixer": "latent"}], ids=["dense", "experts", "plugin"])
def test_flat_under_completep_and_not_without(layers: dict[str, str], with_mla: Registry) -> None:
    standard, completep = (check(with_mla, which, **layers) for which in (False, True))
    assert completep.flat, completep.exponents
    moving = {(axis, quantity) for axis, quantity, power in standard.moving if power > 0.5}
    assert {("width", "stream"), ("width", "logits"), ("depth", "stream")} <= moving, standard.exponents


def test_a_wrong_role_shows(with_mla: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the hidden matrices of no growing kind, their rate would stay, and the check would say so."""
    from blockzoo.training import parametrization

    monkeypatch.setattr(parametrization, "LAYER_MATRICES", frozenset({Role.ROUTER}))
    assert {axis for axis, _, _ in check(with_mla, completep=True).moving} == {"width"}


def test_shapes(registry: Registry) -> None:
    report = check_coordinates(
        MODEL, {}, Settings(widths=(1, 2), depths=(1, 3), steps=2, seeds=(0,)), registry=registry
    )
    assert report.base == (32, 2)
    assert [(p.axis, p.factor, p.n_layers, p.d_model) for p in report.points] == [
        ("width", 1, 2, 32), ("width", 2, 2, 64), ("depth", 1, 2, 32), ("depth", 3, 6, 32),
    ]  # fmt: skip
    assert all(len(values) == 2 for point in report.points for values in point.changes.values())
    assert list(report.exponents) == ["width", "depth"]


def test_a_pattern_of_layers_decides_the_least_depth(registry: Registry) -> None:
    cycle = {"layers.count": 12, "layers.mixer": {"cycle": ["attention", "attention", "none"]}}
    settings = Settings(widths=(1,), depths=(1, 2), steps=1, seeds=(0,))
    report = check_coordinates(MODEL, cycle, settings, registry=registry)
    assert [point.n_layers for point in report.points] == [3, 6]
    assert list(report.exponents) == ["depth"]


def test_exponents() -> None:
    assert exponent([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert exponent([1, 4], [2.0, 1.0]) == pytest.approx(-0.5)
    assert exponent([1, 4], [2.0, math.nan]) == math.inf > THRESHOLD


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"widths": (1, 1)}, "each once"),
        ({"depths": (0, 2)}, "from 1 on"),
        ({"widths": (1,), "depths": (1,)}, "two factors"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_that_can_not_be(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Settings(**wrong)


def test_shapes_that_can_not_be(registry: Registry) -> None:
    with pytest.raises(InputError, match=r"a width of 50: small's heads .* come whole in 16s"):
        check_coordinates(MODEL, {}, Settings(base_width=50), registry=registry)
    runs = {"layers.mixer": {"runs": [{"use": "attention", "count": 2}]}}
    with pytest.raises(ConfigError):
        check_coordinates(MODEL, runs, Settings(), registry=registry)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKZOO_PLUGINS", "none")
    reset_host()
    file = tmp_path / "small.yaml"
    plain = {key: value for key, value in MODEL.items() if key != "blocks"}
    plain["layers"] = {"count": 2, "mixer": BLOCKS["attention"], "ffn": BLOCKS["dense"]}
    file.write_text(json.dumps(plain))
    few = ["--widths", "1,2", "--depths", "1", "--steps", "2", "--seeds", "0"]
    try:
        assert main(["coordinates", str(file), *few, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["parametrization"] == "completep"
        assert found["verdict"] in ("flat", "moves")
        assert found["base"] == {"d_model": 32, "n_layers": 2}
        assert [shape["d_model"] for shape in found["shapes"]] == [32, 64]
        assert main(["coordinates", str(file), *few, "--parametrization", "standard", "--lr", "0.01"]) == 0
        out = capsys.readouterr().out
        assert "moves: " in out
        assert "try --parametrization completep" in out
        assert main(["coordinates", str(file), "--widths", "one"]) == 2
        assert "--widths one" in capsys.readouterr().err
    finally:
        reset_host()
