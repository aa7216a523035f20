"""Figures: what stands in them, that nothing is missing or outside, and what is marked."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from blockzoo.cli.app import main
from blockzoo.config import load_config
from blockzoo.drawing.figure import Figure, Layers, figure
from blockzoo.drawing.svg import MARK, draw
from blockzoo.plugins import host

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = Path(__file__).parents[1] / "config" / "shapes"


def figure_of(name: str | Path) -> Figure:
    return figure(load_config(name, registry=host().registry), host().registry)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter(f"{SVG}text")]


def test_repeated_layers_are_drawn_once_and_say_what_alternates() -> None:
    [layers] = [part for part in figure_of("gpt-oss-20b").parts if isinstance(part, Layers)]
    mixer = layers.branches[0].boxes[-1]
    assert layers.count == 24
    assert [box.title for box in layers.branches[0].boxes] == ["RMSNorm", "Grouped-query attention"]
    assert "1 in 2: window 128" in mixer.lines
    assert any(line.startswith("rope (theta 150000") for line in mixer.lines)


def test_stretches_of_different_layers_follow_each_other() -> None:
    counts = [part.count for part in figure_of(SHAPES / "gemma-3-1b.yaml").parts if isinstance(part, Layers)]
    assert counts == [24, 2]


def test_norms_after_a_branch_stand_after_it() -> None:
    layers = next(part for part in figure_of(SHAPES / "gemma-3-1b.yaml").parts if isinstance(part, Layers))
    assert [box.kind for box in layers.branches[1].boxes] == ["norm", "ffn", "norm"]


def test_parallel_branches_stand_side_by_side() -> None:
    layers = next(part for part in figure_of(SHAPES / "gpt-j-6b.yaml").parts if isinstance(part, Layers))
    assert layers.parallel
    assert "one for both branches" in layers.branches[0].boxes[0].lines


def test_what_differs_from_the_first_is_marked_and_what_is_gone_struck_out() -> None:
    svg = draw([figure_of("gpt2"), figure_of("gpt-oss-20b")])
    nodes = {node.text: node for node in ET.fromstring(svg).iter(f"{SVG}text")}
    assert nodes["n_heads 64"].get("fill") == MARK
    assert nodes["n_heads 12"].get("fill") != MARK
    gone = [node.text for node in ET.fromstring(svg).iter(f"{SVG}text") if node.get("text-decoration")]
    assert {"tied", "position: learned", "dropout 0.1"} <= set(gone)


def test_equal_models_have_no_mark() -> None:
    root = ET.fromstring(draw([figure_of("gpt2"), figure_of("gpt2")]))
    assert not [rect for rect in root.iter(f"{SVG}rect") if rect.get("stroke") == MARK]


@pytest.mark.parametrize("name", ["gpt2", "qwen3-235b-a22b", "gpt-oss-120b", SHAPES / "gpt-j-6b.yaml"])
def test_everything_lies_inside_the_picture(name: str | Path) -> None:
    root = ET.fromstring(draw([figure_of(name)]))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    [column] = root.findall(f"{SVG}g")
    for rect in column.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
        assert x >= 0
        assert x + w <= width
        assert y >= 0
        assert y + h <= height
    assert "tokens" in texts(draw([figure_of(name)]))


def test_a_name_with_markup_is_text() -> None:
    config = load_config("gpt2", {"name": "a<b>&c"}, registry=host().registry)
    assert "a<b>&c" in texts(draw([figure(config, host().registry)]))


def test_the_verb_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.svg"
    assert main(["draw", "gpt2", "qwen3-0.6b", "--out", str(out)]) == 0
    assert "qwen3-0.6b" in texts(out.read_text())
    assert main(["draw", "gpt2", "--out", str(tmp_path / "no" / "such" / "a.svg")]) == 2
    assert "a.svg" in capsys.readouterr().err
