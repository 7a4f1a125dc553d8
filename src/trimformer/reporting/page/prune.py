"""The page of one pruned model."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from trimformer.reporting.page import numbers, tables
from trimformer.reporting.page.headlines import headlines
from trimformer.reporting.page.network import by_layer, find_parts, totals
from trimformer.reporting.page.plots import predicted_plot, refit_plot, target_plot
from trimformer.reporting.page.render import render

COUNTED = {"mac": "MACs of its layers", "parameters": "parameters of its layers", "latency": "latency, as estimated"}


def prune_page(figures: Mapping[str, Any], name: str, loading: Sequence[str] = ()) -> str:
    """One HTML file, without scripts, that needs nothing else.

    Args:
        figures: what `results.json` holds; `target` may be there too.
        name: of the model.
        loading: lines of Python that load it.
    """
    parts = find_parts(figures["sublayers"])
    target = figures.get("target")
    return render(
        "prune.html",
        name=name,
        lead=_lead(figures),
        headlines=headlines(figures),
        rows=tables.rows(figures),
        notes=tables.notes(figures),
        target=target,
        target_label=_target_label(figures, target),
        target_plot=target_plot(target, _target_label(figures, target)) if target and target["tried"] else None,
        serving=tables.serving(figures),
        layers=by_layer(parts),
        totals=totals(parts),
        parts=parts,
        plots=[(predicted_plot(parts), _PREDICTED), (refit_plot(parts), _REFIT)],
        stages=tables.stages(figures["cost"]),
        cost=figures["cost"],
        changed=figures.get("changed"),
        first=FIRST,
        loading="\n".join(loading),
        made=tables.made(figures),
    )


FIRST = 8  # changed samples that are seen at once

_PREDICTED = "What each sublayer's curve foretold that its removed units cost a token, before any refit."
_REFIT = "Held-out error of each sublayer's output against the dense model's: hollow before its refit, filled after."


def _lead(figures: Mapping[str, Any]) -> str:
    """What was made of what, in one sentence."""
    budget, model = figures["budget"], figures["arguments"].get("model")
    kept = f"runed to {numbers.share(budget['kept']).text} of the {COUNTED[budget['metric']]}, without retraining."
    return f"{PurePath(model).name}, p{kept}" if model else f"P{kept}"


def _target_label(figures: Mapping[str, Any], target: Mapping[str, Any] | None) -> str:
    """What is bounded, with its unit."""
    if target is None or target["kind"] == "divergence":
        return f"divergence ({numbers.distance_label(figures['task']['problem'])})"
    return f"drop of {str(target['metric']).replace('_', ' ')}, points"
