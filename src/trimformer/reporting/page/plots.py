"""The plots of the pages, by Matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimformer.reporting.page.network import WORDS, Part
from trimformer.reporting.page.svg import INK, LINE, MARKERS, MUTED, PAPER, SERIES, draw, power

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

LEAST = 1e-6  # a divergence below is rounding; a logarithmic axis has no 0


def predicted_plot(parts: Sequence[Part]) -> "Markup | None":
    """Loss increase that the curves foretell, over layers; None where there is none to draw."""
    values = [part.predicted.value if part.predicted else 0.0 for part in parts]
    if not any(value > 0 for value in values):
        return None

    def paint(axes: "Axes") -> None:
        for number, kind in enumerate(WORDS):
            own = [(p.layer, v) for p, v in zip(parts, values, strict=True) if p.kind == kind and v > 0]
            x, y = ([each[i] for each in own] for i in range(2))
            axes.plot(x, y, color=SERIES[number], marker=MARKERS[number], markersize=_size(parts), linewidth=1.2)
        _over_layers(axes, parts, "predicted loss increase")

    return draw("predicted", paint)


def refit_plot(parts: Sequence[Part]) -> "Markup | None":
    """Held-out error of each sublayer's output before and after its refit; None where there is none to draw."""
    pairs = [(p, p.before.value, p.after.value) for p in parts if p.before and p.after]
    pairs = [(p, before, after) for p, before, after in pairs if before > 0 and after > 0]
    if not pairs:
        return None

    def paint(axes: "Axes") -> None:
        for number, kind in enumerate(WORDS):
            own = [(p.layer + 0.32 * number - 0.16, b, a) for p, b, a in pairs if p.kind == kind]
            x, before, after = ([each[i] for each in own] for i in range(3))
            look: dict[str, Any] = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": "none"}
            look["markersize"] = _size(parts)
            axes.vlines(x, before, after, color=SERIES[number], linewidth=1.2)
            axes.plot(x, before, **look, markerfacecolor=PAPER)
            axes.plot(x, after, **look)
        _over_layers(axes, parts, "squared error per token")

    return draw("refit", paint)


def _size(parts: Sequence[Part]) -> float:
    """Of markers: smaller where there are many layers."""
    return 6.0 if len(parts) <= 48 else 3.5


def _over_layers(axes: "Axes", parts: Sequence[Part], label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    layers = sorted({part.layer for part in parts})
    _logarithmic(axes)
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.tick_params(length=0, which="both")


def _logarithmic(axes: "Axes") -> None:
    """A logarithmic y; where it spans little, with ticks between the powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(power))
    axes.yaxis.set_minor_formatter(NullFormatter())


def target_plot(target: Mapping[str, Any], label: str) -> "Markup":
    """What was tried to keep to a target: measured, and how much it may be in truth."""

    def paint(axes: "Axes") -> None:
        tried = sorted(target["tried"], key=lambda each: each["constraint"])
        for each in tried:
            x, color = 100 * each["constraint"], SERIES[0] if each["keeps"] else SERIES[1]
            marker = MARKERS[0] if each["keeps"] else MARKERS[6]
            axes.vlines(x, each["measured"], each["bound"], color=color, linewidth=1.4)
            axes.plot(x, each["bound"], color=color, marker="_", markersize=9)
            axes.plot(x, each["measured"], color=color, marker=marker)
        axes.axhline(target["asked"], color=INK, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate("asked", (1, target["asked"]), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.set_xlabel("kept, %")
        axes.set_ylabel(label)
        axes.margins(0.08, 0.12)
        axes.tick_params(length=0)

    return draw("target", paint)


@dataclass(frozen=True)
class Point:
    """A model of a family: where it stands on both axes, with intervals, and whether none is better on both."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_half: float
    pareto: bool


def pareto_plot(
    name: str,
    series: Mapping[str, Sequence[Point]],
    dense: Point | None,
    labels: tuple[str, str],
    *,
    log: bool = False,
) -> "Markup":
    """A line a method.

    Args:
        name: of the plot.
        series: points by method.
        dense: the model that was pruned; None where the axis has no place for it.
        labels: of the axes.
        log: y is logarithmic, and values below `LEAST` stand there.
    """

    def paint(axes: "Axes") -> None:
        if dense is not None:
            axes.axhspan(dense.y - dense.y_half, dense.y + dense.y_half, color=LINE, alpha=0.5, linewidth=0)
            axes.axhline(dense.y, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.plot(dense.x, dense.y, color=INK, marker="*", markersize=10, linestyle="none")
        for number, points in enumerate(series.values()):
            _line(axes, sorted(points, key=lambda p: p.x), number % len(SERIES), log)
        if log:
            _logarithmic(axes)
        axes.margins(0.07)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.tick_params(length=0, which="both")

    return draw(name, paint, width=3.5, height=2.7)


def _line(axes: "Axes", points: Sequence[Point], number: int, log: bool) -> None:
    x = [p.x for p in points]
    y = [max(p.y, LEAST) if log else p.y for p in points]
    axes.errorbar(
        x,
        y,
        xerr=[[max(0.0, p.x - p.x_low) for p in points], [max(0.0, p.x_high - p.x) for p in points]],
        yerr=[p.y_half for p in points] if any(p.y_half for p in points) else None,
        color=SERIES[number],
        elinewidth=0.9,
        linewidth=1.3,
    )
    for filled in (True, False):
        chosen = [(a, b) for a, b, p in zip(x, y, points, strict=True) if p.pareto == filled]
        face = SERIES[number] if filled else PAPER
        axes.plot(
            [a for a, _ in chosen],
            [b for _, b in chosen],
            color=SERIES[number],
            marker=MARKERS[number],
            markerfacecolor=face,
            linestyle="none",
        )
