"""The orchestrator: runs the stages in their order, times them, and gathers what they report."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.arch.masking import units_left
from trimformer.asked import as_the_table, check_budget, check_method, check_reachable, with_ms
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import Task
from trimformer.costs.backends import check_backend
from trimformer.costs.cost import Costs, Metric, linear_costs
from trimformer.costs.lut import LatencyTable, check_table
from trimformer.costs.mac import model_macs
from trimformer.costs.measure import measure_table, random_inputs
from trimformer.costs.yardstick import forward_seconds, peak_memory
from trimformer.environment import describe_device, resolve_device, versions
from trimformer.errors import TrimformerError
from trimformer.methods import DEFAULT_METHOD, AnyMethod, Layout, WholeMethod, find_method, laid_out
from trimformer.polish.budget import DEFAULT_BUDGET
from trimformer.polish.data import check_asked, draw_polishing, polishes
from trimformer.processes import count, decide, is_main
from trimformer.progress import progress
from trimformer.pruner import Pruned, Pruner
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
from trimformer.run import Run
from trimformer.samples import Samples, draw_samples, with_fewer_tokens
from trimformer.select.allocations import NEURON_MULTIPLE, smallest_constraint
from trimformer.shrinking.checkpoint import file_size, unwrap
from trimformer.shrinking.embeddings import with_rows
from trimformer.shrinking.vocabulary import check_trimmable, read_vocabulary
from trimformer.verify.evaluation import compare
from trimformer.verify.promise import LatencyOptions, LatencyPromise, compare_latency

logger = logging.getLogger(__name__)

PRUNING = ("calibrate", "curves", "search", "shrink", "update")


def prune(
    model: PreTrainedModel | Any,
    processor: Any,
    dataset: Any,
    constraint: float | None = None,
    *,
    latency_ms: float | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    eval_dataset: Any = None,
    task: Task | None = None,
    metric: Metric | None = None,
    latency: LatencyOptions | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    method: str | AnyMethod = DEFAULT_METHOD,
    layout: Layout = "free",
    polish_data: Any = None,
    polish_budget: str = DEFAULT_BUDGET,
    num_samples: int = 2048,
    batch_size: int = 32,
    neuron_multiple: int = NEURON_MULTIPLE,
    seed: int = 0,
    max_memory: float = math.inf,
    bf16: bool = False,
    device: str = "auto",
) -> PruningResult:
    """Prunes a fine-tuned model without retraining.

    Args:
        model: a supported model; moved to the device, else left as it was. Or a SentenceTransformer or CrossEncoder.
        processor: its tokenizer; of a model of images or sounds its image processor, feature extractor or processor;
            None: the tokenizer that a SentenceTransformer or CrossEncoder has.
        dataset: examples to calibrate on: texts, dictionaries, tuples, a `datasets.Dataset`, a pandas DataFrame, a
            dictionary of columns, or any iterable of these; see `trimformer.batches.data.as_rows`.
        constraint: MACs (or what `metric` names) to keep, as a fraction in (0, 1] of the model's own; 0.5 if neither
            this nor a latency is given.
        latency_ms: milliseconds to keep to instead.
        text_column: the column of texts, or two for pairs; None guesses it from the usual names.
        label_column: the column of labels; None guesses it.
        eval_dataset: examples to score on, or several sets by name; None sets a fifth of `dataset` aside.
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
        num_samples: calibration examples, drawn without replacement.
        batch_size: for calibration and evaluation; the result does not depend on it.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for every random choice.
        max_memory: bytes that the hidden states of the calibration samples may take; beyond, they go to
            temporary files. On a GPU half of its free memory if nothing is said.
        bf16: calibrate and refit with passes in bfloat16, where the hardware is fast at it; statistics stay in
            float32 and float64.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The shrunk model with masks, scores, sizes and costs.

    Raises:
        TrimformerError: the input cannot be used or the constraint cannot be reached.
    """
    model, processor = unwrap(model, processor)
    method = laid_out(find_method(method) if isinstance(method, str) else method, layout)
    latency = as_the_table(with_ms(latency or LatencyOptions(), latency_ms))
    metric = metric or ("mac" if latency.ms is None else "latency")
    constraint = 0.5 if constraint is None and latency.ms is None else constraint
    check_budget(constraint, metric, latency)
    check_method(method, metric, bf16)
    check_asked(method, polish_data, polish_budget)
    target = resolve_device(device)
    check_backend(latency.backend, target)
    if bf16 and model.dtype != torch.float32:
        raise TrimformerError(f"bf16 needs a checkpoint in float32, not in {model.dtype}; leave out bf16")
    find_problem(model)
    texts = None if vocabulary is None else read_vocabulary(vocabulary)
    if vocabulary is not None:
        check_trimmable(model, processor)
    model.to(target)  # type: ignore[arg-type]
    if latency.table is not None:
        check_table(latency.table, model, any_setting=latency.any_table)

    seconds: dict[str, float] = {}
    clock = partial(_clock, seconds)
    transformers.set_seed(seed)
    with clock("data"):
        columns = [text_column] if isinstance(text_column, str) else text_column
        options = {"text_columns": columns, "label_column": label_column}
        data = draw_samples(model, processor, dataset, eval_dataset, task, num_samples, batch_size, seed, **options)
        polishing = None
        if polishes(method):
            polishing = draw_polishing(
                model, processor, data.task, data.features, polish_data, polish_budget, batch_size
            )
    if vocabulary is not None:
        with clock("vocabulary"):
            data = with_fewer_tokens(model, processor, data, texts)
    price = _price(model, data, metric, constraint, latency, clock)
    allocation = "global" if isinstance(method, WholeMethod) else method.allocation
    smallest = smallest_constraint(allocation, find_sublayers(model), price.costs, neuron_multiple)
    check_reachable(price.constraint, smallest, price.costs)
    if polishing is not None and metric != "latency":
        polishing.check_affordable(price.constraint)

    if target.type == "cuda" and math.isinf(max_memory):
        max_memory = torch.cuda.mem_get_info(target)[0] / 2  # rather files than a run that ends out of memory
    run = Run(max_memory=max_memory, bf16=bf16, seed=seed, progress=progress, clock=clock)
    seconds_per_pass = forward_seconds(model, data.batches)
    pruner = Pruner(model, data.batches, method, neuron_multiple=neuron_multiple, polishing=polishing, run=run)
    pruned = pruner(price.costs, price.constraint, price.promise)
    if data.vocabulary is not None:
        pruned = replace(pruned, model=with_rows(pruned.model, data.vocabulary.kept))
    result = _report(model, pruned, method, data, price, seconds, seconds_per_pass)
    result.processor = processor if data.vocabulary is None else data.vocabulary.tokenizer
    if is_main():
        _verify(result, model, data, price, clock)
    return result


@dataclass(frozen=True)
class _Price:
    """What units cost, and how much of it may be kept.

    Attributes:
        metric: what is counted.
        costs: of the units.
        constraint: share of the dense cost.
        latency: how latency is measured.
        inputs: to time with.
        length: tokens of these.
        promise: of a latency; None for other metrics, and for tables of other machines.
    """

    metric: Metric
    costs: Costs
    constraint: float
    latency: LatencyOptions
    inputs: Mapping[str, Tensor]
    length: int
    promise: LatencyPromise | None = None


def _price(
    model: PreTrainedModel, data: Samples, metric: Metric, constraint: float | None, latency: LatencyOptions, clock: Any
) -> _Price:
    """The costs of units, measured first where they are latencies."""
    length = latency.seq_len or max(1, min(round(data.seq_len), data.longest))
    inputs = random_inputs(model, latency.batch_size, length)
    if metric != "latency":
        assert constraint is not None
        costs = linear_costs(find_sublayers(model), metric, data.lengths)
        return _Price(metric, costs, constraint, latency, inputs, length)
    with clock("table"):
        table = latency.table or decide(lambda: _measure(model, latency, length))
    costs = table.costs(model)
    constraint = constraint or latency.ms / costs.dense  # type: ignore[operator]
    promise = None
    if table.setting and not latency.any_table:
        promise = LatencyPromise(model, costs, constraint, latency.ms, inputs, latency.backend)
    else:
        logger.warning("the latency table may be of another machine: its word is taken, nothing is corrected")
    return _Price(metric, costs, constraint, latency, inputs, length, promise)


def _report(
    model: PreTrainedModel,
    pruned: Pruned,
    method: AnyMethod,
    data: Samples,
    price: _Price,
    seconds: dict[str, float],
    seconds_per_pass: float,
) -> PruningResult:
    """What every process knows of the run."""
    stages = {stage: seconds[stage] / seconds_per_pass for stage in PRUNING if stage in seconds}
    return PruningResult(
        pruned.model,
        pruned.masks,
        task=TaskReport(data.task.name, find_problem(model), data.task.metric),
        method=method,
        budget=BudgetReport(
            price.metric, price.constraint, price.costs.of(units_left(pruned.masks)) / price.costs.dense
        ),
        samples=SampleReport(len(data.features), data.evaluation, data.seq_len),
        cost=CostReport(
            seconds, {**stages, "total": sum(stages.values())}, seconds_per_pass, peak_memory(model.device)
        ),
        machine=MachineReport(describe_device(model.device), count(), versions()),
        refits=pruned.refits,
        predicted=pruned.predicted,
        kinds=[s.kind for s in find_sublayers(model)],
        polish=pruned.polish,
    )


def _verify(result: PruningResult, model: PreTrainedModel, data: Samples, price: _Price, clock: Any) -> None:
    """Adds what is measured on both models: scores, sizes and latency."""
    with clock("evaluate"):
        result.scores = compare(data.scorers, model, result.model, data.retold)
    own = None
    if data.vocabulary is not None:
        own = random_inputs(result.model, price.latency.batch_size, price.length)  # the dense model's ids are others
        changed = sum(scorer.changed for scorer in data.retold)
        result.vocabulary = VocabularyReport(len(data.vocabulary.kept), data.vocabulary.of, changed)
    with clock("timing"):
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
        costs = price.promise.costs if price.promise else price.costs
        result.budget = replace(
            result.budget,
            asked_ms=price.latency.ms or price.constraint * seen.dense.median,
            estimated_ms=costs.of(units_left(result.masks)),
            corrected=bool(price.promise and price.promise.corrected),
        )


def _measure(model: PreTrainedModel, latency: LatencyOptions, length: int) -> LatencyTable:
    shown = partial(progress, desc="latency table")
    return measure_table(model, latency.batch_size, length, backend=latency.backend, progress=shown)


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    logger.info("%s ...", stage)
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
