"""Figures side by side as one SVG: tokens at the bottom, the residual stream going up, branches leaving and joining it.

What the first figure doesn't have is bold and in the colour of the legend. Sizes are in pixels, y grows downwards.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from blockzoo.drawing.figure import Box, Branch, Figure, Layers

WIDTH, GAP, MARGIN = 330, 40, 24
BOX, MIDDLE, RAIL = 236, 182, 32
"""Width of a box, where the stream goes up, and where it goes around a branch."""
LINE, TITLE, PAD, SPACE, RADIUS = 15, 18, 8, 18, 8
CHARACTER = 6.6
"""About the width of one in the font of a box's lines."""
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
INK, QUIET, MARK, PAPER, FRAME = "#1c2430", "#5b6675", "#b8320d", "#ffffff", "#f1f4f8"
FILL = {"embedding": "#dfe9f7", "norm": "#f5eed6", "mixer": "#dcefdf", "ffn": "#eadff2"}


def draw(figures: Sequence[Figure]) -> str:
    """The SVG of figures side by side, as text. The second and further ones are compared with the first."""
    reference = {box.key: box for box in figures[0].boxes()}
    columns = [Column(one, reference if index else None) for index, one in enumerate(figures)]
    tallest = max(column.height for column in columns)
    legend = LINE if len(figures) > 1 else 0
    width = 2 * MARGIN + len(figures) * WIDTH + (len(figures) - 1) * GAP
    height = 2 * MARGIN + tallest + legend
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    root = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **size, "role": "img", "font-family": FONT})
    ET.SubElement(root, "title").text = "Architecture of " + " and ".join(one.name for one in figures)
    ET.SubElement(root, "rect", {"width": "100%", "height": "100%", "fill": PAPER})
    for index, column in enumerate(columns):
        place = {"transform": f"translate({MARGIN + index * (WIDTH + GAP)} {MARGIN})"}
        column.render(Pen(ET.SubElement(root, "g", place)), tallest)
    if legend:
        Pen(root).text(
            MARGIN, height - 12, f"red: not so in {figures[0].name}; struck out: only there", 11, fill=MARK, weight=600
        )
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


@dataclass(frozen=True)
class Text:
    """A line of a box before it is wrapped: new beside the first figure, or gone from it."""

    text: str
    new: bool = False
    gone: bool = False

    @property
    def fill(self) -> str:
        return MARK if self.new else QUIET if self.gone else INK


@dataclass(frozen=True)
class Pen:
    """What can be drawn into a group."""

    parent: ET.Element

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        fill: str = INK,
        weight: int = 400,
        anchor: str = "start",
        gone: bool = False,
    ) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "text-anchor": anchor}
        style = {"font-size": f"{size:g}", "fill": fill, "font-weight": str(weight)}
        if gone:
            style["text-decoration"] = "line-through"
        ET.SubElement(self.parent, "text", {**place, **style}).text = text

    def path(self, d: str) -> None:
        ET.SubElement(self.parent, "path", {"d": d, "fill": "none", "stroke": INK, "stroke-width": "1.3"})

    def up(self, x: float, start: float, end: float) -> None:
        """An arrow upwards."""
        self.path(f"M {x:g} {start:g} V {end + 1:g} m -4 6 l 4 -6 l 4 6")

    def rect(self, x: float, y: float, width: float, height: float, **style: str) -> None:
        place = {"x": f"{x:g}", "y": f"{y:g}", "width": f"{width:g}", "height": f"{height:g}"}
        ET.SubElement(self.parent, "rect", {**place, **{key.replace("_", "-"): v for key, v in style.items()}})

    def plus(self, x: float, y: float) -> None:
        circle = {"cx": f"{x:g}", "cy": f"{y:g}", "r": str(RADIUS), "fill": PAPER, "stroke": INK}
        ET.SubElement(self.parent, "circle", circle)
        self.text(x, y + 4.5, "+", 14, anchor="middle")


@dataclass(frozen=True)
class Column:
    """One figure. ``reference``: the boxes of the first one by key, or None for the first itself."""

    figure: Figure
    reference: dict[str, Box] | None

    @property
    def heading(self) -> int:
        return 26 + LINE * len(self.figure.facts) + SPACE

    @property
    def height(self) -> int:
        return self.heading + sum(self.part_height(part) + SPACE for part in self.figure.parts) + LINE + 4

    def render(self, pen: Pen, tallest: int) -> None:
        """The heading at the top; the figure at the bottom, so that all tokens come in at one height."""
        pen.text(0, 18, self.figure.name, 17, weight=700)
        for index, fact in enumerate(self.figure.facts):
            pen.text(0, 38 + LINE * index, fact, 12, fill=QUIET)
        y = self.heading + tallest - self.height
        for part in reversed(self.figure.parts):
            if isinstance(part, Box):
                self.box(pen, part, MIDDLE, BOX, y)
            else:
                self.layers(pen, part, y)
            y += self.part_height(part)
            pen.up(MIDDLE, y + SPACE, y)
            y += SPACE
        pen.text(MIDDLE, y + 12, "tokens", 12, fill=QUIET, anchor="middle")

    def layers(self, pen: Pen, layers: Layers, y: float) -> None:
        height = self.part_height(layers)
        pen.rect(8, y, WIDTH - 8, height, rx="12", fill=FRAME, stroke="#c7cfda")
        pen.text(18, y + 21, f"{layers.count} ×", 15, weight=700)  # noqa: RUF001 (the sign is meant)
        pen.text(WIDTH - 10, y + height - 7, layers.note, 10.5, fill=QUIET, anchor="end")
        pen.path(f"M {MIDDLE} {y} V {y + SPACE}")
        at = y + SPACE
        for branches in reversed(_summed(layers)):
            at = self.sum(pen, branches, at)
        pen.path(f"M {MIDDLE} {at} V {y + height}")

    def sum(self, pen: Pen, branches: Sequence[Branch], y: float) -> float:
        """A sum at ``y``, the branches that it adds to the stream, and where they leave it: the y of that."""
        width = _width(branches)
        top, split = y + 2 * RADIUS + 6, y + 2 * RADIUS + self.sum_height(branches)
        pen.path(f"M {MIDDLE} {split} H {RAIL} V {y + RADIUS} H {MIDDLE - RADIUS}")
        for index, branch in enumerate(branches):
            x = MIDDLE - (BOX - width) / 2 + index * (width + 8)
            bottom = self.branch(pen, branch, x, width, top)
            pen.path(f"M {x:g} {bottom:g} V {split} H {MIDDLE} M {x:g} {top} V {top - 4} H {MIDDLE} V {y + RADIUS}")
        pen.plus(MIDDLE, y + RADIUS)
        return split

    def branch(self, pen: Pen, branch: Branch, x: float, width: float, y: float) -> float:
        """The boxes of a branch, the last computed at the top; the y below them."""
        for index, box in enumerate(reversed(branch.boxes)):
            if index:
                pen.up(x, y + SPACE, y)
                y += SPACE
            self.box(pen, box, x, width, y)
            y += self.box_height(box, width)
        return y

    def box(self, pen: Pen, box: Box, x: float, width: float, y: float) -> None:
        """A box around ``x``; its stroke is marked where anything in it is."""
        texts = self.texts(box)
        differs = any(text.new or text.gone for text in texts)
        stroke = {"stroke": MARK, "stroke_width": "2"} if differs else {"stroke": "#8793a3"}
        pen.rect(x - width / 2, y, width, self.box_height(box, width), rx="6", fill=FILL[box.kind], **stroke)
        at = y + PAD - 4
        for index, text in enumerate(texts):
            for line in _wrapped(text.text, width):
                at += LINE if index else TITLE
                size, weight = (11.5, 600 if text.new else 400) if index else (13, 600)
                pen.text(x, at - 2, line, size, fill=text.fill, weight=weight, anchor="middle", gone=text.gone)

    def texts(self, box: Box) -> list[Text]:
        """The title and lines of a box, and what the first figure has there and this one hasn't."""
        if self.reference is None:
            return [Text(text) for text in (box.title, *box.lines)]
        other = self.reference.get(box.key, Box(box.key, box.kind, ""))
        texts = [Text(text, new=text not in (other.title, *other.lines)) for text in (box.title, *box.lines)]
        options = {line.split()[0] for line in box.lines}
        gone = [line for line in other.lines if other.title == box.title and line.split()[0] not in options]
        return texts + [Text(line, gone=True) for line in gone]

    def part_height(self, part: Box | Layers) -> int:
        if isinstance(part, Box):
            return self.box_height(part, BOX)
        return 3 * SPACE + sum(2 * RADIUS + self.sum_height(branches) for branches in _summed(part))

    def sum_height(self, branches: Sequence[Branch]) -> int:
        width = _width(branches)
        return SPACE + max(
            sum(self.box_height(box, width) for box in branch.boxes) + SPACE * (len(branch.boxes) - 1)
            for branch in branches
        )

    def box_height(self, box: Box, width: float) -> int:
        title, *lines = self.texts(box)
        n_lines = sum(len(_wrapped(line.text, width)) for line in lines)
        return 2 * PAD - 4 + TITLE * len(_wrapped(title.text, width)) + LINE * n_lines


def _summed(layers: Layers) -> list[tuple[Branch, ...]]:
    """The branches that are added to the stream together, in the order of computation."""
    return [layers.branches] if layers.parallel else [(branch,) for branch in layers.branches]


def _width(branches: Sequence[Branch]) -> float:
    """Of each box where branches stand side by side."""
    return (BOX + 8) / len(branches) - 8


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, int((width - PAD) / CHARACTER)) or [""]
