"""What is known of a pruned model: measured on both, and gathered in one report."""

from collections.abc import Mapping
from dataclasses import replace

from trimformer.arch import find_sublayers
from trimformer.arch.masking import units_left
from trimformer.batches.output import find_problem
from trimformer.costs.mac import model_macs
from trimformer.costs.measure import random_inputs
from trimformer.costs.yardstick import peak_memory
from trimformer.environment import describe_device, versions
from trimformer.methods import AnyMethod
from trimformer.prepared import Prepared
from trimformer.processes import count, is_main
from trimformer.pruner import Budget, Pruned
from trimformer.report import (
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
from trimformer.shrinking.checkpoint import file_size
from trimformer.verify.evaluation import compare, score
from trimformer.verify.promise import LatencyPromise, compare_latency

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
        machine=MachineReport(describe_device(given.model.device), count(), versions()),
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
        corrected = promise if isinstance(promise, LatencyPromise) else None
        costs = corrected.costs if corrected else price.costs
        result.budget = replace(
            result.budget,
            asked_ms=asked_ms or budget.constraint * seen.dense.median,
            estimated_ms=costs.of(units_left(result.masks)),
            corrected=bool(corrected and corrected.corrected),
            missed=corrected is not None and corrected.misses(seen),
        )
