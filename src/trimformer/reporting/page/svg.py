"""Matplotlib's figures as SVG that stands in a page: its text can be selected, its colours are the page's own."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

# Names of CSS variables by the colours that stand for them while drawing; `style.css` has both light and dark ones.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506", "#050507")
MARKERS = "os^DvPX"  # a series is told by its shape too

_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", PAPER: "panel"} | {
    color: f"series-{number}" for number, color in enumerate(SERIES, start=1)
}

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a user's name is a dollar
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
    """One plot.

    Args:
        name: of the plot, unlike any other's on the page.
        paint: draws into the axes.
        width: in inches.
        height: in inches.
    """
    from markupsafe import Markup
    from matplotlib import style  # a second that only those wait for who write a page
    from matplotlib.figure import Figure

    written = io.StringIO()
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):  # whatever style the user has set
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.add_subplot())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    return Markup(_inline(written.getvalue()))


def _inline(text: str) -> str:
    """The SVG element alone, without ids that two plots would share, in the page's colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", text, count=1))
    return re.sub("|".join(_VARIABLES), lambda found: f"var(--{_VARIABLES[found[0]]})", text).strip()


def power(value: float, _: object = None) -> str:
    """Ticks of a logarithmic axis: 10⁻³, and plain numbers near 1."""
    if 0.01 <= value < 10_000:
        return f"{value:g}"
    exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent[1])).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if exponent[0] == "1" else f"{exponent[0]}·10{raised}"
