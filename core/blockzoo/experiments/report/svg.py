"""Figures of matplotlib as SVG inside a page: text stays text, colours are the page's, bytes repeat."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LINE = "#010203", "#040506"
"""Stand for the page's colours of text and of grid lines, which differ between light and dark."""
SERIES = tuple(f"#0a0b{0x10 + i:02x}" for i in range(8))
"""Stand for the page's colours ``--c0`` to ``--c7``."""
COLOURS = {INK: "var(--ink)", LINE: "var(--line)", **{c: f"var(--c{i})" for i, c in enumerate(SERIES)}}
WIDTH, HEIGHT = 4.4, 3.0
"""Inches: at the width of a phone text is still of a size to read."""

STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
}


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(name: str, title: str, description: str, paint: Callable[[Axes], None], height: float = HEIGHT) -> str:
    """One pair of axes as an ``<svg>`` element with a name for those who can't see it. ``name`` keeps its ids apart."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the measuring font lacks: the page's font has them
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(file.getvalue(), name, title, description)


def _inline(text: str, name: str, title: str, description: str) -> str:
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r"font-family: [^;\"]*;?|(font: (?:[\w.]+ )*[\d.]+px) [^;\"]*", r"\1", body)
    for stand_in, colour in COLOURS.items():
        body = body.replace(stand_in, colour)
    size = re.search(r'viewBox="[^"]*"', body)
    assert size is not None
    head = (
        f'<svg {size[0]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
        f' aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + re.sub(r"^<svg[^>]*>", "", body, flags=re.DOTALL).strip()
