"""The page of a family: one model pruned to several budgets by one method or several."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trimformer.reporting.page import numbers
from trimformer.reporting.page.headlines import Headline
from trimformer.reporting.page.plots import Point, pareto_plot
from trimformer.reporting.page.render import render
from trimformer.reporting.page.tables import stages

if TYPE_CHECKING:
    from markupsafe import Markup

GLYPHS = "●■▲◆▼✚✖"  # Matplotlib's markers in `plots`, in the same order

NEAR = 0.01  # of a score: what the headline figures may lose

_SIZES = (("macs", "MACs a sample, G", 1e9), ("parameters", "parameters, M", 1e6))


def family_page(family: Mapping[str, Any]) -> str:
    """One HTML file, without scripts, that needs nothing else; it links to the page in each member's directory.

    Args:
        family: the model and data by name, `metric` of the budget, `score` (None without labels), `problem`; of
            `dense`: `scores`, `sizes` and `latency_ms`; and of each of `members` these and its `directory`, `method`,
            `constraint`, `kept`, `divergence`, `speedup` and whether it is `pareto`; and what it `cost`.
    """
    methods = list(dict.fromkeys(member["method"] for member in family["members"]))
    score = family["score"]
    return render(
        "family.html",
        family=family,
        headlines=_headlines(family),
        legend=[(GLYPHS[i % len(GLYPHS)], i % len(GLYPHS) + 1, method) for i, method in enumerate(methods)],
        plots=_plots(family, methods),
        score=numbers.score_label(score) if score else None,
        distance=numbers.distance_label(family["problem"]),
        dense=_cells(family, family["dense"]),
        members=[
            {"link": f"{quote(member['directory'])}/report.html", **member, "cells": _cells(family, member)}
            for member in family["members"]
        ],
        stages=stages(family["cost"]),
        cost=family["cost"],
    )


def _headlines(family: Mapping[str, Any]) -> list[Headline]:
    """The fastest and the smallest member that lose little, and what all cost."""
    score, dense, found = family["score"], family["dense"], []
    if score is not None:
        own = numbers.score(dense["scores"], score)
        label, unit = numbers.score_label(score).rsplit(", ", 1)
        interval = f"{own.more}, half a 95 % interval" if own.more else ""
        found.append(Headline(f"dense {label}", own.text, unit, interval))
        near = [m for m in family["members"] if dense["scores"][score] - m["scores"][score] <= NEAR]
        if near:
            fast = max(near, key=lambda member: member["speedup"]["median"])
            small = min(near, key=lambda member: member["sizes"]["bytes"])
            share = small["sizes"]["bytes"] / dense["sizes"]["bytes"]
            found += [
                Headline(
                    "fastest within 1 point", f"{fast['speedup']['median']:.2f}×", "faster", str(fast["directory"])
                ),
                Headline(
                    "smallest within 1 point",
                    numbers.scaled(small["sizes"]["bytes"], 1e6).text,
                    "MB",
                    f"{numbers.share(share).text} of dense: {small['directory']}",
                    share,
                ),
            ]
    seconds, count = sum(family["cost"]["seconds"].values()), len(family["members"])
    found.append(Headline("all members", str(count), "models", f"made and measured in {seconds:.0f} seconds"))
    return found


def _cells(family: Mapping[str, Any], model: Mapping[str, Any]) -> list[numbers.Shown | None]:
    """A model's figures, in the order of the table's columns; the dense one diverges from nothing."""
    sizes = model["sizes"]
    return [
        *([numbers.score(model["scores"], family["score"])] if family["score"] else []),
        numbers.distance(model["divergence"]) if "divergence" in model else None,
        *(numbers.scaled(sizes[key], scale, family["dense"]["sizes"][key]) for key, _, scale in _SIZES),
        numbers.scaled(sizes["bytes"], 1e6),
        numbers.timing(model["latency_ms"]),
        numbers.speedup(model["speedup"]) if "speedup" in model else None,
    ]


def _plots(family: Mapping[str, Any], methods: Sequence[str]) -> "list[tuple[str, Markup]]":
    """(what it shows, plot): score and divergence against what a model costs."""
    score, found = family["score"], []
    distance = numbers.distance_label(family["problem"])
    for y in (["score"] if score else []) + ["divergence"]:
        label = numbers.score_label(score) if y == "score" else distance
        for x, cost in (*((key, text) for key, text, _ in _SIZES), ("latency_ms", "latency of a batch, ms")):
            series = {
                method: [_point(m, x, y, score) for m in family["members"] if m["method"] == method]
                for method in methods
            }
            dense = _point({**family["dense"], "pareto": True}, x, y, score) if y == "score" else None
            plot = pareto_plot(f"{y}-{x}", series, dense, (cost, label), log=y == "divergence")
            found.append((f"{label} against {cost}", plot))
    return found


def _point(model: Mapping[str, Any], x: str, y: str, score: str | None) -> Point:
    if x == "latency_ms":
        place, low, high = (model[x][key] for key in ("median", "low", "high"))
    else:
        scale = next(scale for key, _, scale in _SIZES if key == x)
        place = low = high = model["sizes"][x] / scale
    if y == "divergence" or score is None:
        return Point(place, model["divergence"], low, high, 0.0, model["pareto"])
    half = 100 * model["scores"].get(score + numbers.INTERVAL, 0.0)
    return Point(place, 100 * model["scores"][score], low, high, half, model["pareto"])
