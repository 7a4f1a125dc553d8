"""Draws the plots of the pages with Matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimformer.reporting.page.network import UNIT_NAMES, SublayerReport
from trimformer.reporting.page.svg import INK, LINE, MARKERS, MUTED, PAPER, SERIES, draw, format_tick
from trimformer.reports import QualityTargetReport

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

NEGLIGIBLE = 1e-6  # of the largest value: of sublayers that nothing was cut from
LEAST = 1e-6  # smaller divergences are rounding error; a logarithmic axis has no 0


def predicted_plot(reports: Sequence[SublayerReport]) -> "Markup | None":
    """Plots the predicted loss increase of each sublayer over layers; None if no increase is positive."""
    values = [r.predicted.value if r.predicted and r.units < r.total else 0.0 for r in reports]
    least = NEGLIGIBLE * max(values, default=0.0)  # rounding error would stretch the logarithmic axis
    values = [value if value > least else 0.0 for value in values]
    if not any(values):
        return None

    def paint(axes: "Axes") -> None:
        for number, kind in enumerate(UNIT_NAMES):
            points = [(r.layer, v) for r, v in zip(reports, values, strict=True) if r.kind == kind and v > 0]
            x, y = ([point[i] for point in points] for i in range(2))
            axes.plot(
                x, y, color=SERIES[number], marker=MARKERS[number], markersize=_marker_size(reports), linewidth=1.2
            )
        _set_layer_axes(axes, reports, "predicted loss increase")

    return draw("predicted", paint)


def refit_plot(reports: Sequence[SublayerReport]) -> "Markup | None":
    """Plots the error of each sublayer's output before and after its refit; None without positive errors."""
    pairs = [(r, r.before.value, r.after.value) for r in reports if r.before and r.after]
    least = NEGLIGIBLE * max((before for _, before, _ in pairs), default=0.0)
    pairs = [(r, before, after) for r, before, after in pairs if min(before, after) > least]
    if not pairs:
        return None

    def paint(axes: "Axes") -> None:
        for number, kind in enumerate(UNIT_NAMES):
            points = [(r.layer + 0.32 * number - 0.16, b, a) for r, b, a in pairs if r.kind == kind]
            x, before, after = ([point[i] for point in points] for i in range(3))
            look: dict[str, Any] = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": "none"}
            look["markersize"] = _marker_size(reports)
            axes.vlines(x, before, after, color=SERIES[number], linewidth=1.2)
            axes.plot(x, before, **look, markerfacecolor=PAPER)
            axes.plot(x, after, **look)
        _set_layer_axes(axes, reports, "squared error per token")

    return draw("refit", paint)


def _marker_size(reports: Sequence[SublayerReport]) -> float:
    """Returns a smaller marker size for networks of many layers."""
    return 6.0 if len(reports) <= 48 else 3.5


def _set_layer_axes(axes: "Axes", reports: Sequence[SublayerReport], label: str) -> None:
    """Sets the axes of a plot over layers."""
    from matplotlib.ticker import MaxNLocator

    layers = sorted({report.layer for report in reports})
    _set_logarithmic(axes)
    axes.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.grid(False, axis="x")
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.tick_params(length=0, which="both")


def _set_logarithmic(axes: "Axes") -> None:
    """Makes y logarithmic; an axis of a short range has ticks between the powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(format_tick))
    axes.yaxis.set_minor_formatter(NullFormatter())


def target_plot(target: QualityTargetReport, label: str) -> "Markup":
    """Plots measured values and upper bounds of all models that were tried for a quality target."""

    def paint(axes: "Axes") -> None:
        for verdict in sorted(target.tried, key=lambda verdict: verdict.constraint):
            x, color = 100 * verdict.constraint, SERIES[0] if verdict.keeps else SERIES[1]
            marker = MARKERS[0] if verdict.keeps else MARKERS[6]
            axes.vlines(x, verdict.measured, verdict.bound, color=color, linewidth=1.4)
            axes.plot(x, verdict.bound, color=color, marker="_", markersize=9)
            axes.plot(x, verdict.measured, color=color, marker=marker)
            if verdict is target.tried[-1]:
                axes.plot(x, verdict.measured, color=INK, marker="o", markersize=12, markerfacecolor="none")
        axes.axhline(target.asked, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate("allowed", (1, target.asked), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axes.set_xlabel("kept, %")
        axes.set_ylabel(label)
        axes.margins(0.08, 0.12)
        axes.tick_params(length=0)

    return draw("target", paint)


@dataclass(frozen=True)
class Point:
    """A model of a sweep: its place on both axes, with intervals, and whether it is on the Pareto front."""

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
    """Plots quality against cost, one line per method.

    Args:
        name: of the plot.
        series: points by method.
        dense: the dense model; None to leave it out.
        labels: of the x and y axes.
        log: make y logarithmic; values below `LEAST` are drawn there.
    """

    def paint(axes: "Axes") -> None:
        if dense is not None:
            axes.axhspan(dense.y - dense.y_half, dense.y + dense.y_half, color=LINE, alpha=0.5, linewidth=0)
            axes.axhline(dense.y, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
            axes.plot(dense.x, dense.y, color=INK, marker="*", markersize=10, linestyle="none")
        for number, points in enumerate(series.values()):
            _line(axes, sorted(points, key=lambda p: p.x), number % len(SERIES), log)
        if log:
            _set_logarithmic(axes)
        axes.margins(0.07)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.tick_params(length=0, which="both")

    return draw(name, paint, width=3.5, height=2.7)


def _line(axes: "Axes", points: Sequence[Point], number: int, log: bool) -> None:
    """Draws one method's points, filled if on the Pareto front, with their intervals."""
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
