"""The orchestrator: runs the stages in their order, times them, and gathers what they report."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, get_args

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.arch import find_sublayers
from trimformer.arch.calls import Batch
from trimformer.batches.calibration import Features, make_batches, mean_length, sample_indices
from trimformer.batches.calibration import num_samples as num_samples_of
from trimformer.batches.data import Rows, Selection, find_splits
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import Task, infer_task
from trimformer.costs.backends import check_backend
from trimformer.costs.cost import Costs, Metric, linear_costs
from trimformer.costs.lut import LatencyTable, check_table
from trimformer.costs.mac import layer_lengths, model_macs
from trimformer.costs.measure import measure_table, random_inputs
from trimformer.costs.yardstick import forward_seconds, peak_memory
from trimformer.environment import describe_device, resolve_device, versions
from trimformer.errors import TrimformerError
from trimformer.methods import DEFAULT_METHOD, Method, find_method
from trimformer.processes import count, decide, is_main, part
from trimformer.progress import progress
from trimformer.pruner import Pruner
from trimformer.run import Run
from trimformer.select.allocations import NEURON_MULTIPLE, smallest_constraint
from trimformer.shrinking.checkpoint import file_size
from trimformer.update.walk import Refit
from trimformer.verify.evaluation import Scorer, compare
from trimformer.verify.promise import LatencyOptions, LatencyPromise, compare_latency

logger = logging.getLogger(__name__)

PRUNING = ("calibrate", "curves", "search", "shrink", "update")


@dataclass
class PruningResult:
    """A pruned model and what is known of it.

    Attributes:
        model: shrunk, in evaluation mode.
        masks: one per sublayer of the model that was given: 0 for a removed unit, else its scale.
        metrics: "dense" and "pruned" scores, and the "divergence" between their outputs.
        sizes: "dense" and "pruned" MACs, parameters, bytes and latency in ms.
        timings: seconds of each stage.
        refits: what became of each sublayer's refit; empty without an update.
        predicted: the loss increase that each sublayer's curve foretells; empty where there are no curves.
        info: sequence length of the MAC count, samples used, cost in forward passes, peak memory, device, versions.
            Of several processes only the main one has more than the cost and the memory.
    """

    model: PreTrainedModel
    masks: list[Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    refits: list[Refit] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


def check_constraint(constraint: float) -> None:
    """Raises:
    TrimformerError: it is not in (0, 1].
    """
    if not 0 < constraint <= 1:
        raise TrimformerError(f"constraint {constraint} is outside (0, 1]; 0.5 keeps half of the dense model's cost")


def check_method(method: Method, metric: Metric, bf16: bool) -> None:
    """Raises:
    TrimformerError: the metric is unknown, or the method cannot count in it or compute in this precision.
    """
    if metric not in get_args(Metric):
        raise TrimformerError(f"metric '{metric}' is unknown; known are {', '.join(get_args(Metric))}")
    if method.criterion == "kprune" and metric == "latency":
        raise TrimformerError("criterion 'kprune' knows no latency table; use the metric 'mac'")
    if method.criterion == "kprune" and bf16:
        raise TrimformerError("criterion 'kprune' runs in float32 only; leave out bf16")


def check_budget(constraint: float | None, metric: Metric, latency: LatencyOptions) -> None:
    """Raises:
    TrimformerError: no budget is given or two are, or it does not go with the metric.
    """
    if (constraint is None) == (latency.ms is None):
        raise TrimformerError("give either a constraint or a latency in ms")
    if constraint is not None:
        check_constraint(constraint)
    if latency.ms is not None and not (metric == "latency" and 0 < latency.ms < float("inf")):
        raise TrimformerError(f"a latency of {latency.ms} ms needs the metric 'latency', and to be a positive number")


def check_reachable(constraint: float, smallest: float, costs: Costs) -> None:
    """Raises:
    TrimformerError: not even one unit fits, or the dense model is within the budget already.
    """
    # Rounded up, as what is named here must be reachable.
    unit = f" ({smallest * 1.005 * costs.dense:.3g} ms)" if costs.measured else ""
    if constraint < smallest:
        raise TrimformerError(
            f"constraint {constraint:.4g} leaves no unit; the smallest reachable is {smallest * 1.005:.3g}{unit}"
        )
    if constraint > 1:
        raise TrimformerError(f"the dense model takes {costs.dense:.3g} ms already; ask for less")


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Rows,
    constraint: float | None = 0.5,
    *,
    eval_dataset: Rows | Mapping[str, Rows] | None = None,
    task: Task | None = None,
    metric: Metric = "mac",
    latency: LatencyOptions | None = None,
    method: str | Method = DEFAULT_METHOD,
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
        model: a supported model; moved to the device, else left as it was.
        tokenizer: its tokenizer.
        dataset: examples to calibrate on: a `datasets.Dataset`, or a list of dictionaries.
        constraint: MACs (or what `metric` names) to keep, as a fraction in (0, 1] of the model's own; None if
            `latency` gives milliseconds.
        eval_dataset: examples to score on, or several sets by name; None sets a fifth of `dataset` aside.
        task: what the columns mean; None guesses it from the model's head and the usual column names.
        metric: what the budget is counted in: "mac" or "parameters" of the sublayers, or measured "latency" of the
            whole model.
        latency: how latency is measured, for the report too.
        method: a preset's name, or a point of the grid.
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
        The shrunk model with masks, metrics, sizes and timings.

    Raises:
        TrimformerError: the input cannot be used or the constraint cannot be reached.
    """
    method = find_method(method) if isinstance(method, str) else method
    latency = _as_the_table(latency or LatencyOptions())
    check_budget(constraint, metric, latency)
    check_method(method, metric, bf16)
    target = resolve_device(device)
    check_backend(latency.backend, target)
    model.to(target)  # type: ignore[arg-type]
    if latency.table is not None:
        check_table(latency.table, model, any_setting=latency.any_table)
    sublayers, problem = find_sublayers(model), find_problem(model)
    if bf16 and model.dtype != torch.float32:
        raise TrimformerError(f"bf16 needs a checkpoint in float32, not in {model.dtype}; leave out bf16")
    if eval_dataset is None:
        dataset, eval_dataset = find_splits(dataset if isinstance(dataset, Mapping) else {"all": dataset}, seed)
    eval_sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"validation": eval_dataset}
    task = task or infer_task(problem, model.config, dataset)

    timings: dict[str, float] = {}
    clock = partial(_clock, timings)
    transformers.set_seed(seed)
    with clock("data"):
        features = _encode(task, dataset, tokenizer, model, num_samples, seed)
        seq_len = task.average_length or mean_length(features)
        batches = _share(make_batches(features, tokenizer, batch_size, target))
        scorers = [Scorer(name, rows, task, model, tokenizer, batch_size) for name, rows in eval_sets.items()]

    lengths = layer_lengths(model, sublayers, batches[0], seq_len)
    length = latency.seq_len or max(1, min(round(seq_len), task.length_limit(tokenizer, model.config)))
    inputs = random_inputs(model, latency.batch_size, length)
    promise = None
    if metric == "latency":
        with clock("table"):
            table = latency.table or decide(lambda: _measure(model, latency, length))
        costs = table.costs(model)
        constraint = constraint or latency.ms / costs.dense  # type: ignore[operator]
        if table.setting and not latency.any_table:
            promise = LatencyPromise(model, costs, constraint, latency.ms, inputs, latency.backend)
        else:
            logger.warning("the latency table may be of another machine: its word is taken, nothing is corrected")
    else:
        costs = linear_costs(sublayers, metric, lengths)
    assert constraint is not None
    check_reachable(constraint, smallest_constraint(method.allocation, sublayers, costs, neuron_multiple), costs)

    if target.type == "cuda" and math.isinf(max_memory):
        max_memory = torch.cuda.mem_get_info(target)[0] / 2  # rather files than a run that ends out of memory
    forward = forward_seconds(model, batches)
    pruner = Pruner(
        model,
        batches,
        method,
        neuron_multiple=neuron_multiple,
        run=Run(max_memory=max_memory, bf16=bf16, seed=seed, progress=progress, clock=clock),
    )
    pruned = pruner(costs, constraint, promise)
    result = PruningResult(
        pruned.model, pruned.masks, timings=timings, refits=pruned.refits, predicted=pruned.predicted
    )
    result.info = {"forward_passes": _forward_passes(timings, forward), "peak_memory": peak_memory(target)}
    if not is_main():
        return result
    with clock("evaluate"):
        result.metrics = compare(scorers, model, pruned.model)
    with clock("latency"):
        seen = compare_latency(model, pruned.model, inputs, latency.backend)

    for name, candidate, timing in (("dense", model, seen.dense), ("pruned", pruned.model, seen.pruned)):
        result.sizes[name] = {
            "macs": model_macs(find_sublayers(candidate), lengths),
            "parameters": sum(p.numel() for p in candidate.parameters()),
            "bytes": file_size(candidate),
            "latency_ms": timing.median,
        }
    units = [s.num_units for s in find_sublayers(pruned.model)]
    shape = {"batch_size": latency.batch_size, "seq_len": length, "backend": latency.backend}
    result.info |= {
        "task": task.name,
        "problem": problem,
        "metric": task.metric,
        "method": asdict(method),
        "budget": {"metric": metric, "constraint": constraint, "kept": costs.of(units) / costs.dense},
        "seq_len": seq_len,
        "calibration_samples": len(features),
        "evaluation_samples": sum(len(rows) for rows in eval_sets.values()),
        "latency": {**shape, **asdict(seen)},
        "device": describe_device(target),
        "processes": count(),
        "versions": versions(),
    }
    if metric == "latency":
        result.info["latency"] |= {
            "asked_ms": latency.ms or constraint * seen.dense.median,
            "estimated_ms": (promise.costs if promise else costs).of(units),
            "corrected": bool(promise and promise.corrected),
        }
    return result


def _forward_passes(timings: Mapping[str, float], forward: float) -> dict[str, float]:
    """Cost of the stages of pruning proper, in forward passes of the dense model over the calibration samples."""
    stages = {stage: timings[stage] / forward for stage in PRUNING if stage in timings}
    return {**stages, "total": sum(stages.values()), "seconds_of_one": forward}


def _as_the_table(latency: LatencyOptions) -> LatencyOptions:
    """The options with the shape and the backend of the table, where one is given that knows them.

    Raises:
        TrimformerError: the options ask for others.
    """
    if latency.table is None or not latency.table.setting:
        return latency
    setting = {key: latency.table.setting[key] for key in ("batch_size", "seq_len", "backend")}
    for key, value in setting.items():
        asked = getattr(latency, key)
        if asked not in (value, getattr(LatencyOptions(), key)):
            raise TrimformerError(f"the latency table was measured with {key} {value}, not {asked}; measure another")
    return replace(latency, **setting)


def _measure(model: PreTrainedModel, latency: LatencyOptions, length: int) -> LatencyTable:
    shown = partial(progress, desc="latency table")
    return measure_table(model, latency.batch_size, length, backend=latency.backend, progress=shown)


def _encode(
    task: Task, dataset: Rows, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, num_samples: int, seed: int
) -> Sequence[Features]:
    """Draws calibration samples and tokenises them."""
    chosen = sample_indices(len(dataset), num_samples, seed)
    if len(chosen) < num_samples:
        logger.warning("%d calibration samples asked for, %d are there: all are used", num_samples, len(chosen))
    if len(chosen) < 2:
        raise TrimformerError(f"{len(chosen)} calibration samples are too few; give at least 2")
    return task.encode(Selection(dataset, chosen), tokenizer, model.config)


def _share(batches: list[Batch]) -> list[Batch]:
    """This process's part of the batches."""
    if len(batches) < count():
        raise TrimformerError(
            f"{num_samples_of(batches)} calibration samples make {len(batches)} batches, too few for {count()} "
            "processes; lower the batch size"
        )
    return part(batches)


@contextmanager
def _clock(timings: dict[str, float], stage: str) -> Iterator[None]:
    logger.info("%s ...", stage)
    start = time.perf_counter()
    yield
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start
