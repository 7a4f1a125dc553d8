"""Turns Matplotlib figures into inline SVG with selectable text and the colours of the page."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# Placeholder colours; `_inline` replaces them with CSS variables, which `style.css` sets for light and dark pages.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506", "#050507")
MARKERS = "os^DvPX"  # series differ in shape as well as colour

_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "panel"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES, start=1)
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar sign in a name that the user gave is not maths
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def draw(name: str, paint: "Callable[[Axes], None]", width: float = 4.6, height: float = 2.75) -> "Markup":
    """Draws one plot as an SVG element.

    Args:
        name: name of the plot, unique on the page.
        paint: draws into the axes.
        width: width in inches.
        height: height in inches.
    """
    from markupsafe import Markup
    from matplotlib import style  # takes a second, so it is imported only where a page is written
    from matplotlib.figure import Figure

    svg = io.StringIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):  # ignores the user's own style
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=no_metadata)
    return Markup(_inline(svg.getvalue()))


def _inline(text: str) -> str:
    """Extracts the SVG element, removes its size and ids that two plots would share, and sets the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1))
    return re.sub("|".join(_VARIABLES), lambda match: f"var(--{_VARIABLES[match[0]]})", text).strip()


def format_tick(value: float, _: object = None) -> str:
    """Formats a tick of a logarithmic axis: a plain number from 0.01 to 10,000, otherwise a power such as 10⁻³."""
    if 0.01 <= value < 10_000:
        return f"{value:g}"
    digit, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == "1" else f"{digit}·10{raised}"
