"""Measures the dense and the pruned model side by side and gathers the figures in one result."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.save_load import file_size
from trimformer.costs.llama_cpp_memory import cache_tokens, model_memory
from trimformer.costs.macs import model_macs
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.workloads import ForwardPass, LlamaCppRun
from trimformer.data.outputs import find_problem, has_classes
from trimformer.evaluation.agreement import find_agreement, find_changed_tokens, paired_interval
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.latency_target import ComparedLatency, LatencyTarget, compare_latency
from trimformer.evaluation.model_outputs import RerunOutputs
from trimformer.evaluation.scores import DO_LABELS_FIT, Scorer, compare, score
from trimformer.models import find_sublayers
from trimformer.models.masking import units_left
from trimformer.options.budgets import BudgetRequest
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import DEFAULT_BATCH_SIZE
from trimformer.options.methods import AnyMethod
from trimformer.pruner import Budget, Pruned
from trimformer.reports import (
    BudgetReport,
    CostReport,
    LanguageVocabularyReport,
    LatencyReport,
    MachineReport,
    MemoryReport,
    SampleReport,
    Size,
    TaskReport,
    VocabularyReport,
)
from trimformer.results import PruningResult
from trimformer.session.coverage import special_ids
from trimformer.session.samples import Samples
from trimformer.session.setup import Session
from trimformer.utils.distributed import on_main, world_size
from trimformer.utils.environment import describe_device, versions
from trimformer.utils.memory import peak_memory

logger = logging.getLogger(__name__)

MOST_OUTSIDE = 0.05  # share of predictions outside the range of the calibration samples

PRUNING = ("calibrate", "curves", "search", "shrink", "update", "judge")


def report(
    session: Session,
    method: AnyMethod,
    budget: Budget,
    pruned: Pruned,
    request: BudgetRequest,
    seconds: Mapping[str, float],
) -> PruningResult:
    """Gathers the figures of a pruned model; only the main process measures.

    Args:
        session: the dense model, samples and unit costs.
        method: the method that pruned it.
        budget: the budget that it keeps.
        pruned: the pruned model.
        request: the budget as it was asked for.
        seconds: seconds that pruning took, by stage.
    """
    samples, unit_costs = session.samples, session.unit_costs
    stages = {stage: seconds[stage] / session.seconds_per_pass for stage in PRUNING if stage in seconds}
    result = PruningResult(
        session.with_kept_tokens(pruned.model),
        pruned.masks,
        task=TaskReport(
            samples.task.name,
            find_problem(session.model),
            samples.task.metric,
            samples.task.reading.description if samples.task.reading else None,
        ),
        method=method,
        budget=BudgetReport(unit_costs.metric, budget.constraint, pruned.cost / unit_costs.costs.dense),
        samples=SampleReport(
            len(samples.calibration.features),
            samples.scored.num_rows,
            samples.calibration.mean_length,
            samples.calibration.num_blank,
            samples.scored.num_blank,
            samples.scored.description,
            samples.scored.scorers[0].name if len(samples.scored.scorers) > 1 else None,
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
        queries=[None if kept is None else int(kept[0].sum()) for kept in pruned.queries],
    )
    if unit_costs.gguf is not None:
        result.budget = _memory(result, session.model, budget, request, unit_costs.gguf)
    before = dict(session.timer.seconds)
    on_main(lambda: _measure(session, result, pruned.model, budget, request.ms))
    result.cost.seconds.update(session.timer.since(before))
    return result


def _memory(
    result: PruningResult, dense: PreTrainedModel, budget: Budget, request: BudgetRequest, options: GgufOptions
) -> BudgetReport:
    """Returns the report of a memory budget, in bytes of the two models as they are."""
    tokens = cache_tokens(dense, options)
    sizes = [model_memory(model, options.quantize, tokens) for model in (dense, result.model)]
    asked = 1e6 * request.mb if request.mb is not None else budget.constraint * sizes[0].total
    memory = MemoryReport(options.quantize, tokens, asked, *sizes)
    return replace(result.budget, kept=sizes[1].total / sizes[0].total, memory=memory)


def _measure(
    session: Session, result: PruningResult, untrimmed: PreTrainedModel, budget: Budget, requested_ms: float | None
) -> None:
    """Adds what is measured on both models: scores, latency and sizes.

    Args:
        session: the dense model and its samples.
        result: of the run.
        untrimmed: the pruned model with all tokens.
        budget: the budget that it keeps.
        requested_ms: the latency that was asked for.
    """
    samples = session.samples
    with session.timer("evaluate"):
        scored = result.model if samples.lost is None else untrimmed  # see `evaluation.language_vocabulary`
        pruned = score(samples.pruned_scorers, scored, "pruned")
        result.scores = compare(samples.scored.scorers, session.dense_scores, pruned, samples.pruned_scorers)
        _compare_predictions(session, result, pruned[0][1])
    result.vocabulary = _vocabulary_report(samples)
    with session.timer("timing"):
        latency = _measure_latency(session, result)
    result.sizes = _sizes(session, result)
    if session.unit_costs.metric == "latency":
        result.budget = _latency_budget(session, result, budget, requested_ms, latency)


def _measure_latency(session: Session, result: PruningResult) -> ComparedLatency:
    """Times both models in turn, adds the latencies to the result and returns them."""
    samples, unit_costs = session.samples, session.unit_costs
    batch_size = unit_costs.latency.batch_size or DEFAULT_BATCH_SIZE
    workload = unit_costs.workload
    if samples.smaller_vocabulary is not None and isinstance(workload, ForwardPass):
        # The pruned model has other token ids than the dense one, but the same number of texts.
        first_ids = workload.inputs["input_ids"][0].cpu().numpy()
        example = {"input_ids": samples.smaller_vocabulary.vocabulary.new_ids[first_ids].clip(0).tolist()}
        pruned_inputs = random_inputs(result.model, batch_size, unit_costs.length, example)
        workload = replace(workload, pruned_inputs=pruned_inputs)
    latency = compare_latency(session.model, result.model, workload)
    result.latency = LatencyReport(
        batch_size, unit_costs.length, unit_costs.latency.backend, latency.dense, latency.pruned, latency.ratio
    )
    if isinstance(workload, LlamaCppRun):
        result.latency = replace(result.latency, quantize=workload.quantize, phase=workload.phase)
    return latency


def _sizes(session: Session, result: PruningResult) -> dict[str, Size]:
    """Returns MACs, parameters and bytes of both models."""
    model, lengths = session.model, session.samples.calibration.positions
    kept_layers = {s.layer for s, mask in zip(find_sublayers(model), result.masks, strict=True) if mask.any()}
    pruned_lengths = lengths
    if len(find_sublayers(result.model)) < len(lengths):  # a plain layout leaves layers out
        pairs = zip(find_sublayers(model), lengths, strict=True)
        pruned_lengths = [length for sublayer, length in pairs if sublayer.layer in kept_layers]
    return {
        name: Size(
            model_macs(find_sublayers(candidate), positions),
            sum(p.numel() for p in candidate.parameters()),
            file_size(candidate),
        )
        for name, candidate, positions in (("dense", model, lengths), ("pruned", result.model, pruned_lengths))
    }


def _latency_budget(
    session: Session,
    result: PruningResult,
    budget: Budget,
    requested_ms: float | None,
    latency: ComparedLatency,
) -> BudgetReport:
    """Returns the report of a latency budget; see `_measure` for the arguments."""
    target = budget.correct if isinstance(budget.correct, LatencyTarget) else None
    units = units_left(result.masks)
    kept, estimated_ms = result.budget.kept, session.unit_costs.costs.of(units)
    if target is not None:  # the machine may be faster or slower than when the table was measured
        target.observe(latency)
        kept = target.share(units)
        estimated_ms = kept * (target.reference_ms or latency.dense.median)
    corrected = target is not None and target.corrected
    report = replace(result.budget, kept=kept, estimated_ms=estimated_ms, corrected=corrected)
    if session.target is not None:  # the search found the latency, and nobody asked for it
        return report
    if target is not None:
        target.log(latency)
    return replace(
        report,
        asked_ms=requested_ms or budget.constraint * latency.dense.median,
        missed=target is not None and target.misses(latency),
        left_over=target.left_over(latency) if target else None,
        reference_ms=target.reference_ms if target else None,
    )


def _vocabulary_report(samples: Samples) -> VocabularyReport | None:
    """Returns the report of the smaller vocabulary; None without one."""
    smaller = samples.smaller_vocabulary
    if smaller is None:
        return None
    changed = sum(scorer.changed for scorer in smaller.scorers)
    counts = len(smaller.vocabulary.kept_ids), smaller.vocabulary.dense_size, changed
    if smaller.lost is None:
        return VocabularyReport(*counts)
    return LanguageVocabularyReport(*counts, **asdict(smaller.lost))


def _compare_predictions(session: Session, result: PruningResult, pruned: Sequence[Tensor]) -> None:
    """Adds the agreement of the predictions and the interval of the score's change, on the first evaluation set.

    Args:
        session: the dense model and its outputs.
        result: of the run; its scores are known.
        pruned: the pruned model's outputs per batch.
    """
    samples, model, scores = session.samples, session.model, result.scores
    assert scores is not None
    scorer, pruned_scorer = samples.scored.scorers[0], samples.pruned_scorers[0]
    references = session.dense_scores[0][1]
    if isinstance(pruned_scorer, LanguageScorer):
        result.agreement = pruned_scorer.agreement(pruned, references)
        change = pruned_scorer.change_interval(pruned, references)
        result.change_ci95 = {} if change is None else {"perplexity": change}
        return
    if any(isinstance(outputs, RerunOutputs) for outputs in (references, pruned)):
        return  # too large to be kept
    before, after = scorer.sample_outputs(references), pruned_scorer.sample_outputs(pruned)
    problem, names = result.task.problem, scorer.names if has_classes(model) else ()
    result.agreement = find_agreement(problem, names, before, after, special_ids(session.tokenizer))
    if scores.changed is None and names and session.tokenizer is not None:
        result.scores = replace(scores, changed=find_changed_tokens(session.tokenizer, names, before, after))
    metric = samples.task.metric
    if metric is not None and metric in scores.dense:
        half = paired_interval(scorer, before.outputs, pruned_scorer, after.outputs, metric)
        result.change_ci95 = {} if half is None else {metric: half}
    _warn_of_range(result, before.outputs)
    _warn_of_guessing(result, scorer)


def _warn_of_guessing(result: PruningResult, scorer: Scorer) -> None:
    """Warns where the dense model scores no better than guessing, as then a pruned model cannot lose either."""
    if result.scores is None or result.coverage is None or not scorer.is_guessing(result.scores.dense):
        return
    metric = str(scorer.task.metric)
    line = (
        f"the dense model's {metric} is {100 * result.scores.dense[metric]:.1f}, no better than guessing, so its "
        f"change says nothing; {DO_LABELS_FIT}"
    )
    logger.warning("%s", line)
    result.coverage = replace(result.coverage, warnings=[*result.coverage.warnings, line])


def _warn_of_range(result: PruningResult, outputs: Sequence[Tensor]) -> None:
    """Warns where many predictions of a regression lie outside the range of the calibration samples."""
    coverage = result.coverage
    if coverage is None or coverage.predicted_range is None:
        return
    low, high = coverage.predicted_range
    margin = 1e-5 * max(abs(low), abs(high))  # the same text in another batch
    outside = sum(not low - margin <= float(output[0]) <= high + margin for output in outputs) / max(len(outputs), 1)
    if outside > MOST_OUTSIDE:
        line = (
            f"{100 * outside:.1f} % of the dense model's predictions lie outside {low:.3g} to {high:.3g}, the range on "
            "the calibration samples; add samples of these values"
        )
        logger.warning("%s", line)
        result.coverage = replace(coverage, warnings=[*coverage.warnings, line])
