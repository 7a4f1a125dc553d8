"""The page of a sweep: one model pruned to several budgets by one or more methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trimformer.reporting import figures
from trimformer.reporting.page.headlines import Headline
from trimformer.reporting.page.plots import Point, pareto_plot
from trimformer.reporting.page.render import render
from trimformer.reporting.page.tables import stages

if TYPE_CHECKING:
    from markupsafe import Markup

GLYPHS = "●■▲◆▼✚✖"  # same shapes and order as `svg.MARKERS`

NEAR = 0.01 + 1e-9  # largest drop of the score, as a fraction, of a model that counts as near the dense one

_SIZES = (("macs", "MACs a sample, G", 1e9), ("parameters", "parameters, M", 1e6))


def sweep_page(sweep: Mapping[str, Any]) -> str:
    """Renders a sweep as a self-contained HTML file without scripts, with links to the page of each member.

    Args:
        sweep: the model and data by name, `metric` of the budget, `score` (None without labels), `problem`; of
            `dense`: `scores`, `sizes` and `latency_ms`; of each of `members` the same, and its `directory`, `method`,
            `constraint`, `kept`, `divergence`, `speedup` and whether it is `pareto`; and the `cost` of the sweep.
    """
    methods = list(dict.fromkeys(member["method"] for member in sweep["members"]))
    score = sweep["score"]
    return render(
        "sweep.html",
        sweep=sweep,
        headlines=_headlines(sweep),
        legend=[(GLYPHS[i % len(GLYPHS)], i % len(GLYPHS) + 1, method) for i, method in enumerate(methods)],
        plots=_plots(sweep, methods),
        score=figures.score_label(score) if score else None,
        divergence=figures.divergence_label(sweep["problem"]),
        dense=_cells(sweep, sweep["dense"]),
        members=[
            {"link": f"{quote(member['directory'])}/report.html", **member, "cells": _cells(sweep, member)}
            for member in sweep["members"]
        ],
        stages=stages(sweep["cost"]["seconds"], sweep["cost"]["forward_passes"]),
        cost=sweep["cost"],
    )


def _headlines(sweep: Mapping[str, Any]) -> list[Headline]:
    """Returns the fastest and the smallest member that lose little, and the time for all members."""
    score, dense, cards = sweep["score"], sweep["dense"], []
    if score is not None:
        quality = figures.score(dense["scores"], score)
        label, _, unit = figures.score_label(score).partition(", ")
        interval = f"{quality.interval}, half a 95 % interval" if quality.interval else ""
        cards.append(Headline(f"dense {label}", quality.text, unit, interval))
        near = (
            []
            if figures.is_perplexity(score)
            else [m for m in sweep["members"] if dense["scores"][score] - m["scores"][score] <= NEAR]
        )
        if near:
            fast = max(near, key=lambda member: member["speedup"]["median"])
            small = min(near, key=lambda member: member["sizes"]["bytes"])
            share = small["sizes"]["bytes"] / dense["sizes"]["bytes"]
            speed = figures.speedup(**_interval(fast["speedup"])).text
            cards += [
                Headline("fastest within 1 point", speed, "faster", str(fast["directory"])),
                Headline(
                    "smallest within 1 point",
                    figures.scaled(small["sizes"]["bytes"], 1e6).text,
                    "MB",
                    f"{figures.share(share).text} of dense: {small['directory']}",
                    share,
                ),
            ]
    seconds, count = sum(sweep["cost"]["seconds"].values()), len(sweep["members"])
    cards.append(Headline("all members", str(count), "models", f"made and measured in {seconds:.0f} seconds"))
    return cards


def _cells(sweep: Mapping[str, Any], model: Mapping[str, Any]) -> list[figures.Figure | None]:
    """Returns a model's figures in the order of the table's columns; the dense model has no divergence or speed-up."""
    sizes = model["sizes"]
    return [
        *([figures.score(model["scores"], sweep["score"])] if sweep["score"] else []),
        figures.divergence(model["divergence"]) if "divergence" in model else None,
        *(figures.scaled(sizes[key], scale, sweep["dense"]["sizes"][key]) for key, _, scale in _SIZES),
        figures.scaled(sizes["bytes"], 1e6),
        figures.milliseconds(**_interval(model["latency_ms"])),
        figures.speedup(**_interval(model["speedup"])) if "speedup" in model else None,
    ]


def _interval(timing: Mapping[str, float]) -> dict[str, float]:
    """Selects the median and its interval from a timing of results.json."""
    return {key: timing[key] for key in ("median", "low", "high")}


def _plots(sweep: Mapping[str, Any], methods: Sequence[str]) -> "list[tuple[str, Markup]]":
    """Returns (description, plot) of score and divergence against each cost."""
    score, plots = sweep["score"], []
    divergence = figures.divergence_label(sweep["problem"])
    for y in (["score"] if score else []) + ["divergence"]:
        label = figures.score_label(score) if y == "score" else divergence
        for x, cost in (*((key, text) for key, text, _ in _SIZES), ("latency_ms", "latency of a batch, ms")):
            series = {
                method: [_point(m, x, y, score) for m in sweep["members"] if m["method"] == method]
                for method in methods
            }
            dense = _point({**sweep["dense"], "pareto": True}, x, y, score) if y == "score" else None
            plot = pareto_plot(f"{y}-{x}", series, dense, (cost, label), log=y == "divergence")
            plots.append((f"{label} against {cost}", plot))
    return plots


def _point(model: Mapping[str, Any], x: str, y: str, score: str | None) -> Point:
    """Places a model in a plot of `y` against `x`."""
    if x == "latency_ms":
        place, low, high = (model[x][key] for key in ("median", "low", "high"))
    else:
        scale = next(scale for key, _, scale in _SIZES if key == x)
        place = low = high = model["sizes"][x] / scale
    if y == "divergence" or score is None:
        return Point(place, model["divergence"], low, high, 0.0, model["pareto"])
    scale = figures.score_scale(score)
    half = scale * model["scores"].get(score + figures.INTERVAL, 0.0)
    return Point(place, scale * model["scores"][score], low, high, half, model["pareto"])
