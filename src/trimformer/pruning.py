"""The orchestrator: one model to one budget, or to the smallest one that keeps a promise of quality."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer.allocation.smallest_budget import budgets_within_target
from trimformer.costs.cost_tables import Metric
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.evaluation.latency_target import LatencyOptions
from trimformer.evaluation.quality_test import Verdict
from trimformer.options.budgets import BudgetRequest, check_asked
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.methods import DEFAULT_METHOD, AnyMethod, Layout, find_method, with_layout
from trimformer.options.polish_budget import DEFAULT_BUDGET
from trimformer.options.quality_target import target_of
from trimformer.polish.data import check_polish
from trimformer.pruner import Pruned
from trimformer.results import PruningResult, QualityTargetReport
from trimformer.session.measure import report
from trimformer.session.session import Session
from trimformer.utils.distributed import decide, is_main

logger = logging.getLogger(__name__)

QUICK_SAMPLES = 256  # to refit on, of what is only looked at
LOWEST = 1.01  # of the smallest that can be reached


def prune(
    model: PreTrainedModel | Any,
    processor: Any,
    dataset: Any,
    constraint: float | None = None,
    *,
    latency_ms: float | None = None,
    max_drop: float | None = None,
    max_divergence: float | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    eval_dataset: Any = None,
    judge_dataset: Any = None,
    task: Task | None = None,
    metric: Metric | None = None,
    latency: LatencyOptions | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    method: str | AnyMethod = DEFAULT_METHOD,
    layout: Layout = "free",
    polish_data: Any = None,
    polish_budget: str = DEFAULT_BUDGET,
    polish_stoppable: bool = False,
    num_samples: int = 2048,
    batch_size: int = 32,
    neuron_multiple: int = NEURON_MULTIPLE,
    seed: int = 0,
    max_memory: float = math.inf,
    bf16: bool = False,
    calibration_dir: str | Path | None = None,
    device: str = "auto",
) -> PruningResult:
    """Prunes a fine-tuned model without retraining.

    Args:
        model: a supported model; moved to the device, else left as it was. Or a SentenceTransformer or CrossEncoder.
        processor: its tokenizer; of a model of images or sounds its image processor, feature extractor or processor;
            None: the tokenizer that a SentenceTransformer or CrossEncoder has.
        dataset: examples to calibrate on: texts, dictionaries, tuples, a `datasets.Dataset`, a pandas DataFrame, a
            dictionary of columns, or any iterable of these; see `trimformer.data.rows.as_rows`.
        constraint: MACs (or what `metric` names) to keep, as a fraction in (0, 1] of the model's own; 0.5 if nothing
            else is asked for.
        latency_ms: milliseconds to keep to instead.
        max_drop: the quality to keep instead: points of the task's main score that may be lost. The result is the
            smallest model found that loses no more, with 95 % confidence.
        max_divergence: the same by the mean divergence of the outputs from the dense model's, which needs no labels.
        text_column: the column of texts, or two for pairs; None guesses it from the usual names.
        label_column: the column of labels; None guesses it.
        eval_dataset: examples to score on, or several sets by name; None sets a fifth of `dataset` aside.
        judge_dataset: examples to judge `max_drop` or `max_divergence` by; None sets up to twice `num_samples` of
            `dataset` aside. They neither calibrate nor are scored on.
        task: what the columns mean; None tells it from the model's head and the columns.
        metric: what the budget is counted in: "mac" (the default) or "parameters" of the sublayers, or measured
            "latency" of the whole model (the default with `latency_ms`).
        latency: how latency is measured, for the report too.
        vocabulary: drops the tokens that texts never use, from tokenizer and embeddings: those of the data ("used"), of
            a file with a text a line, or of a list; the result's `processor` is the tokenizer that is left.
        method: a preset's name, or a point of the grid.
        layout: "free", every sublayer its own number of units, or "plain", only what the model's own config can say,
            so that the result loads anywhere: one width for all layers, some left out. It costs accuracy.
        polish_data: more examples like those of `dataset`, for a method that polishes; labels are not looked at.
        polish_budget: what the polish may cost: dense forward passes over its samples ("10x") or a time ("2min").
        polish_stoppable: Ctrl-C while the polish trains ends it, and the best so far is kept.
        num_samples: calibration examples, drawn without replacement.
        batch_size: for calibration and evaluation; the result does not depend on it.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for every random choice.
        max_memory: bytes that the hidden states of the calibration samples may take; beyond, they go to
            temporary files. On a GPU half of its free memory if nothing is said.
        bf16: calibrate and refit with passes in bfloat16, where the hardware is fast at it; statistics stay in
            float32 and float64.
        calibration_dir: folder where what calibration finds is kept; another run on the same model and samples, to
            whatever budget, takes it from there.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The shrunk model with masks, scores, sizes and costs.

    Raises:
        TrimformerError: the input cannot be used, the constraint cannot be reached, or no budget keeps the quality.
    """
    method = with_layout(find_method(method) if isinstance(method, str) else method, layout)
    check_polish([method], polish_data, polish_budget, polish_stoppable)
    target = target_of(max_drop, max_divergence)
    metric = metric or ("mac" if latency_ms is None else "latency")
    asked = BudgetRequest(constraint, latency_ms)
    if target is None:
        if judge_dataset is not None:
            raise TrimformerError("judge_dataset judges a max_drop or a max_divergence; give one, or leave it out")
        asked = BudgetRequest(0.5) if constraint is None and latency_ms is None else asked
        check_asked(asked, metric)
    elif asked != BudgetRequest():
        raise TrimformerError("give either a budget or the quality to keep, max_drop or max_divergence")
    session = Session(
        model,
        processor,
        dataset,
        [method],
        eval_dataset=eval_dataset,
        judge_dataset=judge_dataset,
        target=target,
        task=task,
        text_column=text_column,
        label_column=label_column,
        metric=metric,
        latency=latency,
        vocabulary=vocabulary,
        polish_data=polish_data,
        polish_budget=polish_budget,
        polish_stoppable=polish_stoppable,
        num_samples=num_samples,
        batch_size=batch_size,
        neuron_multiple=neuron_multiple,
        seed=seed,
        max_memory=max_memory,
        bf16=bf16,
        calibration_dir=calibration_dir,
        device=device,
    )
    if target is None:
        return session.prune(method, [asked])[0]
    return _keep_quality(session, method)


def _keep_quality(session: Session, method: AnyMethod) -> PruningResult:
    """The smallest model that keeps the target: found in quick looks, then refitted on all samples and judged again.

    Budgets are taken to be ordered: where one keeps the target, so do all larger ones. Then the bound of each model
    holds with the confidence of one, however many were looked at on the way.
    """
    target = session.target
    assert target is not None
    tried: list[Verdict] = []
    start = session.started(method)
    with session.clock("judge"):
        judge = session.judge() if is_main() else None
    every = max(1, min(4, session.samples // QUICK_SAMPLES))

    def look(pruned: Pruned, constraint: float, *, as_served: bool) -> Verdict:
        with session.clock("judge"):
            # Only the main process has a judge; what it says holds for all.
            verdict = decide(lambda: judge(session.finished(pruned.model), constraint, as_served=as_served))  # type: ignore[misc]
        logger.info(
            "at %.3f of the cost: %s %.4f, below %.4f", constraint, target.kind, verdict.measured, verdict.bound
        )
        tried.append(verdict)
        return verdict

    whole: dict[float, Pruned] = {}  # looks on all samples need not be refitted again

    def excess(constraint: float) -> float:
        budget = session.budget(method, BudgetRequest(constraint))
        pruned = session.pruner(method).prune_all([replace(budget, correct=None)], every=every)[0]
        if every == 1 and budget.correct is None:
            whole[constraint] = pruned
        return look(pruned, constraint, as_served=False).bound - target.most

    candidates = budgets_within_target(excess, min(1.0, LOWEST * session.smallest(method)))
    for constraint in [*candidates, *_larger(candidates)]:
        budget = session.budget(method, BudgetRequest(constraint))
        pruned = whole.get(constraint) or session.pruner(method).prune_all([budget])[0]
        if look(pruned, constraint, as_served=True).keeps:
            result = report(session, method, budget, pruned, None, session.since(start))
            result.target = QualityTargetReport.of(target, tried, session.judged, result.task.score)
            return result
    best = max(tried, key=lambda verdict: verdict.constraint)
    raise TrimformerError(
        f"no model was found that keeps the {target.kind} within {target.most:g}: at {best.constraint:.3f} of the "
        f"cost it is {best.measured:.3g}, and below {best.bound:.3g} with 95 % confidence on {session.judged:,} "
        "samples; allow more, or give more rows to judge by"
    )


def _larger(budgets: Sequence[float]) -> list[float]:
    """Some more to try where none of these keeps the quality after all."""
    largest = max(budgets, default=1.0)
    return [largest**0.5, largest**0.25] if largest < 1 else []
