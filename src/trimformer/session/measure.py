"""Measures the dense and the pruned model side by side and gathers the figures in one result."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from trimformer.checkpoints.save_load import file_size
from trimformer.costs.macs import model_macs
from trimformer.costs.pass_cost import peak_memory
from trimformer.costs.random_inputs import random_inputs
from trimformer.data.outputs import find_problem, has_classes
from trimformer.evaluation.agreement import find_agreement, find_changed_tokens, paired_interval
from trimformer.evaluation.latency_target import LatencyTarget, compare_latency
from trimformer.evaluation.model_outputs import RerunOutputs
from trimformer.evaluation.scores import compare, score
from trimformer.models import find_sublayers
from trimformer.models.masking import units_left
from trimformer.options.latency import DEFAULT_BATCH_SIZE
from trimformer.options.methods import AnyMethod
from trimformer.pruner import Budget, Pruned
from trimformer.results import (
    BudgetReport,
    CostReport,
    LatencyReport,
    MachineReport,
    PruningResult,
    SampleReport,
    Size,
    TaskReport,
    VocabularyReport,
)
from trimformer.session.coverage import special_ids
from trimformer.session.setup import Session
from trimformer.utils.distributed import on_main, world_size
from trimformer.utils.environment import describe_device, versions

logger = logging.getLogger(__name__)

MOST_OUTSIDE = 0.05  # share of predictions outside the range of the calibration samples

PRUNING = ("calibrate", "curves", "search", "shrink", "update", "judge")


def report(
    session: Session,
    method: AnyMethod,
    budget: Budget,
    pruned: Pruned,
    requested_ms: float | None,
    seconds: Mapping[str, float],
) -> PruningResult:
    """Gathers the figures of a pruned model; only the main process measures.

    Args:
        session: the dense model, samples and unit costs.
        method: the method that pruned it.
        budget: the budget that it keeps.
        pruned: the pruned model.
        requested_ms: the requested latency, if there is one.
        seconds: seconds that pruning took, by stage.
    """
    data, unit_costs = session.data, session.unit_costs
    stages = {stage: seconds[stage] / session.seconds_per_pass for stage in PRUNING if stage in seconds}
    costs = unit_costs.costs.of(units_left(pruned.masks))
    result = PruningResult(
        session.finish(pruned.model),
        pruned.masks,
        task=TaskReport(
            data.task.name,
            find_problem(session.model),
            data.task.metric,
            data.task.reading.description if data.task.reading else None,
        ),
        method=method,
        budget=BudgetReport(unit_costs.metric, budget.constraint, costs / unit_costs.costs.dense),
        samples=SampleReport(
            len(data.features), data.evaluation, data.seq_len, data.blank_dropped, data.blank_scored, data.scored_on
        ),
        cost=CostReport(
            dict(seconds),
            {**stages, "total": sum(stages.values())},
            session.seconds_per_pass,
            peak_memory(session.model.device),
        ),
        machine=MachineReport(describe_device(session.model.device), world_size(), versions()),
        refits=pruned.refits,
        predicted=pruned.predicted,
        kinds=[s.kind for s in find_sublayers(session.model)],
        polish=pruned.polish,
        processor=session.processor,
        coverage=session.coverage,
    )
    before = dict(session.timer.seconds)
    on_main(lambda: _measure(session, result, budget, requested_ms))
    result.cost.seconds.update(session.timer.since(before))
    return result


def _measure(session: Session, result: PruningResult, budget: Budget, requested_ms: float | None) -> None:
    """Adds what is measured on both models: scores, latency and sizes."""
    data, unit_costs, model = session.data, session.unit_costs, session.model
    batch_size = unit_costs.latency.batch_size or DEFAULT_BATCH_SIZE
    with session.timer("evaluate"):
        pruned = score(data.retold or data.scorers, result.model, "pruned")
        result.scores = compare(data.scorers, session.dense_scores, pruned, data.retold)
        _compare_predictions(session, result, pruned[0][1])
    pruned_inputs = None
    if data.vocabulary is not None:
        # The pruned model has other token ids than the dense one.
        pruned_inputs = random_inputs(result.model, batch_size, unit_costs.length)
        changed = sum(scorer.changed for scorer in data.retold)
        result.vocabulary = VocabularyReport(len(data.vocabulary.kept_ids), data.vocabulary.dense_size, changed)
    with session.timer("timing"):
        latency = compare_latency(model, result.model, unit_costs.inputs, unit_costs.latency.backend, pruned_inputs)
    result.latency = LatencyReport(
        batch_size, unit_costs.length, unit_costs.latency.backend, latency.dense, latency.pruned, latency.ratio
    )
    kept_layers = {s.layer for s, mask in zip(find_sublayers(model), result.masks, strict=True) if mask.any()}
    pruned_lengths = data.lengths
    if len(find_sublayers(result.model)) < len(pruned_lengths):  # a plain layout leaves layers out
        pruned_lengths = [
            length for s, length in zip(find_sublayers(model), data.lengths, strict=True) if s.layer in kept_layers
        ]
    result.sizes = {
        name: Size(
            model_macs(find_sublayers(candidate), lengths),
            sum(p.numel() for p in candidate.parameters()),
            file_size(candidate),
        )
        for name, candidate, lengths in (("dense", model, data.lengths), ("pruned", result.model, pruned_lengths))
    }
    if unit_costs.metric == "latency":
        corrected = budget.correct if isinstance(budget.correct, LatencyTarget) else None
        costs = corrected.costs if corrected else unit_costs.costs
        result.budget = replace(
            result.budget,
            asked_ms=requested_ms or budget.constraint * latency.dense.median,
            estimated_ms=costs.of(units_left(result.masks)),
            corrected=bool(corrected and corrected.corrected),
            missed=corrected is not None and corrected.misses(latency),
            left_over=corrected.left_over(latency) if corrected else None,
            reference_ms=corrected.reference_ms if corrected else None,
        )
        if corrected is not None:
            corrected.log(latency)


def _compare_predictions(session: Session, result: PruningResult, pruned: Sequence[Tensor]) -> None:
    """Adds the agreement of the predictions and the interval of the score's change, on the first evaluation set.

    Args:
        session: the dense model and its outputs.
        result: of the run; its scores are known.
        pruned: the pruned model's outputs per batch.
    """
    data, model, scores = session.data, session.model, result.scores
    assert scores is not None
    scorer, pruned_scorer = data.scorers[0], (data.retold or data.scorers)[0]
    references = session.dense_scores[0][1]
    if any(isinstance(outputs, RerunOutputs) for outputs in (references, pruned)):
        return  # too large to be kept
    before, after = scorer.sample_outputs(references), pruned_scorer.sample_outputs(pruned)
    problem, names = result.task.problem, scorer.names if has_classes(model) else ()
    result.agreement = find_agreement(problem, names, before, after, special_ids(session.tokenizer))
    if scores.changed is None and names and session.tokenizer is not None:
        result.scores = replace(scores, changed=find_changed_tokens(session.tokenizer, names, before, after))
    metric = data.task.metric
    if metric is not None and metric in scores.dense:
        half = paired_interval(scorer, before.outputs, pruned_scorer, after.outputs, metric)
        result.change_ci95 = {} if half is None else {metric: half}
    _warn_of_range(result, before.outputs)


def _warn_of_range(result: PruningResult, outputs: Sequence[Tensor]) -> None:
    """Warns where many predictions of a regression lie outside the range of the calibration samples."""
    coverage = result.coverage
    if coverage is None or coverage.predicted_range is None:
        return
    low, high = coverage.predicted_range
    outside = sum(not low <= float(output[0]) <= high for output in outputs) / max(len(outputs), 1)
    if outside > MOST_OUTSIDE:
        line = (
            f"{100 * outside:.1f} % of the dense model's predictions lie outside {low:.3g} to {high:.3g}, the range on "
            "the calibration samples; add samples of these values"
        )
        logger.warning("%s", line)
        result.coverage = replace(coverage, warnings=[*coverage.warnings, line])
