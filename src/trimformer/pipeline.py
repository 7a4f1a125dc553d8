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
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.arch.calls import Batch
from trimformer.asked import as_the_table, check_budget, check_method, check_reachable, with_ms
from trimformer.batches.calibration import Features, make_batches, mean_length, sample_indices
from trimformer.batches.calibration import num_samples as num_samples_of
from trimformer.batches.data import Rows, Selection, as_rows, find_splits
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import Task, task_of
from trimformer.costs.backends import check_backend
from trimformer.costs.cost import Costs, Metric, linear_costs
from trimformer.costs.lut import LatencyTable, check_table
from trimformer.costs.mac import layer_lengths, model_macs
from trimformer.costs.measure import measure_table, random_inputs
from trimformer.costs.yardstick import forward_seconds, peak_memory
from trimformer.environment import describe_device, resolve_device, versions
from trimformer.errors import TrimformerError
from trimformer.methods import DEFAULT_METHOD, AnyMethod, Layout, WholeMethod, find_method, laid_out
from trimformer.processes import count, decide, is_main, part
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
from trimformer.select.allocations import NEURON_MULTIPLE, smallest_constraint
from trimformer.shrinking.checkpoint import file_size, unwrap
from trimformer.shrinking.embeddings import with_rows
from trimformer.shrinking.vocabulary import (
    Vocabulary,
    check_texts,
    check_trimmable,
    of_rows,
    of_texts,
    read_vocabulary,
)
from trimformer.verify.evaluation import Scorer, compare
from trimformer.verify.promise import LatencyOptions, LatencyPromise, compare_latency
from trimformer.verify.retold import RetoldScorer

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
        data = _prepare(model, processor, dataset, eval_dataset, task, num_samples, batch_size, seed, **options)
    if vocabulary is not None:
        with clock("vocabulary"):
            data = _with_fewer_tokens(model, processor, data, texts)
    price = _price(model, data, metric, constraint, latency, clock)
    allocation = "global" if isinstance(method, WholeMethod) else method.allocation
    smallest = smallest_constraint(allocation, find_sublayers(model), price.costs, neuron_multiple)
    check_reachable(price.constraint, smallest, price.costs)

    if target.type == "cuda" and math.isinf(max_memory):
        max_memory = torch.cuda.mem_get_info(target)[0] / 2  # rather files than a run that ends out of memory
    run = Run(max_memory=max_memory, bf16=bf16, seed=seed, progress=progress, clock=clock)
    seconds_per_pass = forward_seconds(model, data.batches)
    pruner = Pruner(model, data.batches, method, neuron_multiple=neuron_multiple, run=run)
    pruned = pruner(price.costs, price.constraint, price.promise)
    if data.vocabulary is not None:
        pruned = replace(pruned, model=with_rows(pruned.model, data.vocabulary.kept))
    result = _report(model, pruned, method, data, price, seconds, seconds_per_pass)
    result.processor = processor if data.vocabulary is None else data.vocabulary.tokenizer
    if is_main():
        _verify(result, model, data, price, clock)
    return result


@dataclass(frozen=True)
class _Data:
    """Samples to calibrate on, and sets to score on.

    Attributes:
        task: what they mean.
        sets: all rows that were read.
        features: encoded samples.
        batches: this process's part of them.
        scorers: one per evaluation set.
        evaluation: samples in all of these.
        seq_len: tokens of a text on average, or positions that the first layer sees of an image or a sound.
        longest: tokens that a text may have.
        lengths: positions that each sublayer sees of a sample.
        vocabulary: the tokens that the pruned model keeps, where some are dropped.
        retold: the evaluation sets by these tokens.
    """

    task: Task
    sets: list[Rows]
    features: Sequence[Features]
    batches: list[Batch]
    scorers: list[Scorer]
    evaluation: int
    seq_len: float
    longest: int
    lengths: list[float]
    vocabulary: Vocabulary | None = None
    retold: Sequence[RetoldScorer] = ()


def _prepare(
    model: PreTrainedModel,
    processor: Any,
    dataset: Any,
    eval_dataset: Any,
    task: Task | None,
    num_samples: int,
    batch_size: int,
    seed: int,
    **columns: Any,
) -> _Data:
    """Draws calibration samples and encodes all that is needed of the data."""
    if eval_dataset is None:
        splits = dataset if _are_splits(dataset) else {"all": dataset}
        train, sets = find_splits({name: as_rows(rows) for name, rows in splits.items()}, seed)
    else:
        train = as_rows(dataset)
        named = eval_dataset if _are_splits(eval_dataset) else {"validation": eval_dataset}
        sets = {name: as_rows(rows, "eval_dataset") for name, rows in named.items()}
    task = task or task_of(model, train, **columns)
    chosen = sample_indices(len(train), num_samples, seed)
    if len(chosen) < num_samples:
        logger.warning("%d calibration samples asked for, %d are there: all are used", num_samples, len(chosen))
    if len(chosen) < 2:
        raise TrimformerError(f"{len(chosen)} calibration samples are too few; give at least 2")
    features = task.encode(Selection(train, chosen), processor, model.config)
    batches = _share(make_batches(features, processor, batch_size, model.device))
    _check_ids(model, batches)
    seq_len = task.average_length or mean_length(features)
    lengths = layer_lengths(model, find_sublayers(model), batches[0], seq_len)
    return _Data(
        task=task,
        sets=[train, *sets.values()],
        features=features,
        batches=batches,
        scorers=[Scorer(name, rows, task, model, processor, batch_size) for name, rows in sets.items()],
        evaluation=sum(len(rows) for rows in sets.values()),
        seq_len=seq_len if "input_ids" in batches[0] else lengths[0],
        longest=task.length_limit(processor, model.config),
        lengths=lengths,
    )


def _with_fewer_tokens(model: PreTrainedModel, processor: Any, data: _Data, texts: Sequence[str] | None) -> _Data:
    """The data, and the tokens that the texts, or all rows of the data, need."""
    check_texts(data.task)
    vocabulary = of_rows(model, processor, data.sets, data.task) if texts is None else of_texts(model, processor, texts)
    logger.info("%d of %d tokens stay", len(vocabulary.kept), vocabulary.of)
    retold = [RetoldScorer(scorer, vocabulary, model) for scorer in data.scorers]
    return replace(data, vocabulary=vocabulary, retold=retold)


def _are_splits(data: Any) -> bool:
    """Whether it is several data sets by name (a `DatasetDict`, a mapping of lists of rows), and not one by columns."""

    def are_rows(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
        is_table = hasattr(value, "column_names") or hasattr(value, "columns")  # of datasets, of pandas
        return is_table or (is_list and isinstance(value[0], Mapping))

    return isinstance(data, Mapping) and bool(data) and all(map(are_rows, data.values()))


def _check_ids(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Raises:
    TrimformerError: the tokenizer knows tokens that the model does not.
    """
    largest = max((int(batch["input_ids"].max()) for batch in batches if "input_ids" in batch), default=-1)
    if largest < 0:
        return
    tower = getattr(model, "text_model", model)  # a model of two towers has no embeddings of its own
    embeddings = tower.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding) and largest >= embeddings.num_embeddings:
        raise TrimformerError(
            f"the samples hold token id {largest}, but the model has only {embeddings.num_embeddings} tokens; is the "
            "tokenizer another model's?"
        )


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
    model: PreTrainedModel, data: _Data, metric: Metric, constraint: float | None, latency: LatencyOptions, clock: Any
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
    data: _Data,
    price: _Price,
    seconds: dict[str, float],
    seconds_per_pass: float,
) -> PruningResult:
    """What every process knows of the run."""
    stages = {stage: seconds[stage] / seconds_per_pass for stage in PRUNING if stage in seconds}
    units = [int(mask.count_nonzero()) for mask in pruned.masks]
    return PruningResult(
        pruned.model,
        pruned.masks,
        task=TaskReport(data.task.name, find_problem(model), data.task.metric),
        method=method,
        budget=BudgetReport(price.metric, price.constraint, price.costs.of(units) / price.costs.dense),
        samples=SampleReport(len(data.features), data.evaluation, data.seq_len),
        cost=CostReport(
            seconds, {**stages, "total": sum(stages.values())}, seconds_per_pass, peak_memory(model.device)
        ),
        machine=MachineReport(describe_device(model.device), count(), versions()),
        refits=pruned.refits,
        predicted=pruned.predicted,
        kinds=[s.kind for s in find_sublayers(model)],
    )


def _verify(result: PruningResult, model: PreTrainedModel, data: _Data, price: _Price, clock: Any) -> None:
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
            estimated_ms=costs.of(int(mask.count_nonzero()) for mask in result.masks),
            corrected=bool(price.promise and price.promise.corrected),
        )


def _measure(model: PreTrainedModel, latency: LatencyOptions, length: int) -> LatencyTable:
    shown = partial(progress, desc="latency table")
    return measure_table(model, latency.batch_size, length, backend=latency.backend, progress=shown)


def _share(batches: list[Batch]) -> list[Batch]:
    """This process's part of the batches."""
    if len(batches) < count():
        raise TrimformerError(
            f"{num_samples_of(batches)} calibration samples make {len(batches)} batches, too few for {count()} "
            "processes; lower the batch size"
        )
    return part(batches)


@contextmanager
def _clock(seconds: dict[str, float], stage: str) -> Iterator[None]:
    logger.info("%s ...", stage)
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
