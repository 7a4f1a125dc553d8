"""What is known of a pruned model: measured on both, and gathered in one report."""

from collections.abc import Mapping
from dataclasses import replace

from trimformer.checkpoints.checkpoint import file_size
from trimformer.costs.macs import model_macs
from trimformer.costs.measure_latency import random_inputs
from trimformer.costs.pass_cost import peak_memory
from trimformer.data.outputs import find_problem
from trimformer.evaluation.latency_target import LatencyTarget, compare_latency
from trimformer.evaluation.scores import compare, score
from trimformer.models import find_sublayers
from trimformer.models.masking import units_left
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
from trimformer.session.setup import Prepared
from trimformer.utils.distributed import is_main, world_size
from trimformer.utils.environment import describe_device, versions

PRUNING = ("calibrate", "curves", "search", "shrink", "update", "judge")


def report(
    given: Prepared,
    method: AnyMethod,
    budget: Budget,
    pruned: Pruned,
    asked_ms: float | None,
    seconds: Mapping[str, float],
) -> PruningResult:
    """What is known of a pruned model; the main process measures what takes both models.

    Args:
        given: the dense model, samples and prices.
        method: that pruned it.
        budget: that it keeps.
        pruned: the model.
        asked_ms: the latency that was asked for, if one was.
        seconds: what its making took, by stage.
    """
    data, price = given.data, given.prices
    stages = {stage: seconds[stage] / given.seconds_per_pass for stage in PRUNING if stage in seconds}
    costs = price.costs.of(units_left(pruned.masks))
    result = PruningResult(
        given.finished(pruned.model),
        pruned.masks,
        task=TaskReport(data.task.name, find_problem(given.model), data.task.metric),
        method=method,
        budget=BudgetReport(price.metric, budget.constraint, costs / price.costs.dense),
        samples=SampleReport(len(data.features), data.evaluation, data.seq_len, data.blank_dropped, data.blank_scored),
        cost=CostReport(
            dict(seconds),
            {**stages, "total": sum(stages.values())},
            given.seconds_per_pass,
            peak_memory(given.model.device),
        ),
        machine=MachineReport(describe_device(given.model.device), world_size(), versions()),
        refits=pruned.refits,
        predicted=pruned.predicted,
        kinds=[s.kind for s in find_sublayers(given.model)],
        polish=pruned.polish,
        processor=given.processor,
    )
    if is_main():
        before = dict(given.clock.seconds)
        _verify(given, result, budget, asked_ms)
        result.cost.seconds.update(given.clock.since(before))
    return result


def _verify(given: Prepared, result: PruningResult, budget: Budget, asked_ms: float | None) -> None:
    """Adds what is measured on both models: scores, sizes and latency."""
    data, price, model = given.data, given.prices, given.model
    with given.clock("evaluate"):
        pruned = score(data.retold or data.scorers, result.model, "pruned")
        result.scores = compare(data.scorers, given.dense, pruned, data.retold)
    own = None
    if data.vocabulary is not None:
        own = random_inputs(result.model, price.latency.batch_size, price.length)  # the dense model's are others
        changed = sum(scorer.changed for scorer in data.retold)
        result.vocabulary = VocabularyReport(len(data.vocabulary.kept), data.vocabulary.of, changed)
    with given.clock("timing"):
        seen = compare_latency(model, result.model, price.inputs, price.latency.backend, own)
    result.latency = LatencyReport(
        price.latency.batch_size, price.length, price.latency.backend, seen.dense, seen.pruned, seen.ratio
    )
    kept = {s.layer for s, mask in zip(find_sublayers(model), result.masks, strict=True) if mask.any()}
    left = data.lengths  # of the sublayers that are there still: a plain layout leaves layers out
    if len(find_sublayers(result.model)) < len(left):
        left = [length for s, length in zip(find_sublayers(model), left, strict=True) if s.layer in kept]
    result.sizes = {
        name: Size(
            model_macs(find_sublayers(candidate), lengths),
            sum(p.numel() for p in candidate.parameters()),
            file_size(candidate),
        )
        for name, candidate, lengths in (("dense", model, data.lengths), ("pruned", result.model, left))
    }
    if price.metric == "latency":
        promise = budget.correct
        corrected = promise if isinstance(promise, LatencyTarget) else None
        costs = corrected.costs if corrected else price.costs
        result.budget = replace(
            result.budget,
            asked_ms=asked_ms or budget.constraint * seen.dense.median,
            estimated_ms=costs.of(units_left(result.masks)),
            corrected=bool(corrected and corrected.corrected),
            missed=corrected is not None and corrected.misses(seen),
        )
