"""The report page of one pruned model."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from trimformer.models import Sublayer
from trimformer.options.methods import Method
from trimformer.reporting import figures
from trimformer.reporting.page import tables
from trimformer.reporting.page.headlines import headlines
from trimformer.reporting.page.network import by_layer, sublayer_reports, totals
from trimformer.reporting.page.plots import predicted_plot, refit_plot, target_plot
from trimformer.reporting.page.render import render
from trimformer.reporting.score_table import describe_pruning, others_label, score_table, serving_table, target_scope
from trimformer.results import PruningResult

FIRST = 8  # changed samples that are shown; the others unfold

_PREDICTED = "Loss increase per token that each sublayer's curve predicts for its removed units, before any refit."
_REFIT = "Error of each sublayer's output against the dense model's, {}: hollow before its refit, filled after."


def prune_page(
    result: PruningResult,
    sublayers: Sequence[Sublayer],
    name: str,
    arguments: Mapping[str, Any],
    loading: Sequence[str] = (),
    command: Sequence[str] = (),
) -> str:
    """Renders the report of one pruned model as a self-contained HTML file without scripts.

    Args:
        result: of the run.
        sublayers: of the dense model, one for each mask.
        name: of the model.
        arguments: of the run; the page names model, data and seed.
        loading: lines of Python that load the model.
        command: words of the command line; paths are cut to their last part.
    """
    reports = sublayer_reports(result, sublayers)
    target, label = result.target, _target_label(result)
    return render(
        "prune.html",
        name=name,
        lead=_lead(result, arguments.get("model")),
        headlines=headlines(result),
        warnings=result.warnings,
        agreement=result.agreement,
        others_label=others_label,
        rows=score_table(result),
        notes=tables.notes(result),
        target=target,
        target_label=label,
        target_scope=target_scope(target) if target else [],
        target_value=figures.target_value,
        target_plot=target_plot(target, label) if target and target.tried else None,
        serving=serving_table(result),
        layers=by_layer(reports),
        totals=totals(reports),
        reports=reports,
        plots=[(predicted_plot(reports), _PREDICTED), (refit_plot(reports), _REFIT.format(_refit_samples(result)))],
        stages=tables.stages(result.cost.seconds, result.cost.forward_passes),
        cost=result.cost,
        changed=result.changed,
        first=FIRST,
        loading="\n".join(loading),
        details=tables.run_details(result, arguments, command),
    )


def _lead(result: PruningResult, model: str | None) -> str:
    """Describes the model in one sentence."""
    kept = describe_pruning(result)
    return f"{PurePath(model).name}, {kept}." if model else f"{kept[0].upper()}{kept[1:]}."


def _refit_samples(result: PruningResult) -> str:
    """Names the samples on which the errors of refits are measured."""
    is_full = isinstance(result.method, Method) and result.method.update == "full"
    return "on held-out samples" if is_full else "on the calibration samples"


def _target_label(result: PruningResult) -> str:
    """Names the quantity that the target bounds, with its unit."""
    if result.target is not None and result.target.kind == "perplexity":
        return "perplexity as a ratio to the dense model's"
    if result.target is None or result.target.kind == "divergence":
        return f"divergence: {figures.divergence_label(result.task.problem)}"
    return f"drop of {str(result.target.metric).replace('_', ' ')}, points"
