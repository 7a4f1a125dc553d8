"""The orchestrator: runs the stages in their order, times them, and gathers what they report."""

import logging
import platform
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.arch import find_sublayers
from trimformer.calibration import make_batches, mean_length, sample_indices
from trimformer.checkpoint import file_size
from trimformer.data import Rows, Selection, find_splits
from trimformer.efficiency.cost import Metric, unit_costs
from trimformer.efficiency.mac import model_macs
from trimformer.efficiency.timing import interleaved_latency
from trimformer.errors import TrimformerError
from trimformer.evaluation import Scorer, compare
from trimformer.methods import DEFAULT_METHOD, Method, find_method
from trimformer.objective import find_problem
from trimformer.pruner import Pruner
from trimformer.select import NEURON_MULTIPLE, smallest_constraint
from trimformer.streams import Refit
from trimformer.tasks import Task, infer_task

logger = logging.getLogger(__name__)

LATENCY_BATCH = 32


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
        info: sequence length of the MAC count, samples used, device, versions.
    """

    model: PreTrainedModel
    masks: list[Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    refits: list[Refit] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one.

    Raises:
        TrimformerError: the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrimformerError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error
    return torch.device(device)


def check_constraint(constraint: float) -> None:
    """Raises:
    TrimformerError: it is not in (0, 1].
    """
    if not 0 < constraint <= 1:
        raise TrimformerError(f"constraint {constraint} is outside (0, 1]; 0.5 keeps half of the MACs")


def check_reachable(constraint: float, smallest: float) -> None:
    """Raises:
    TrimformerError: not even one unit fits.
    """
    if constraint < smallest:
        raise TrimformerError(
            f"constraint {constraint} leaves no unit; the smallest reachable is {smallest * 1.005:.3g}"
        )


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Rows,
    constraint: float = 0.5,
    *,
    eval_dataset: Rows | Mapping[str, Rows] | None = None,
    task: Task | None = None,
    metric: Metric = "mac",
    method: str | Method = DEFAULT_METHOD,
    num_samples: int = 2048,
    batch_size: int = 32,
    neuron_multiple: int = NEURON_MULTIPLE,
    seed: int = 0,
    device: str = "auto",
) -> PruningResult:
    """Prunes a fine-tuned model without retraining.

    Args:
        model: a supported model; moved to the device, else left as it was.
        tokenizer: its tokenizer.
        dataset: examples to calibrate on: a `datasets.Dataset`, or a list of dictionaries.
        constraint: MACs (or what `metric` names) to keep, as a fraction in (0, 1] of the model's own.
        eval_dataset: examples to score on, or several sets by name; None sets a fifth of `dataset` aside.
        task: what the columns mean; None guesses it from the model's head and the usual column names.
        metric: what the budget is counted in: "mac", or "parameters" of the sublayers.
        method: a preset's name, or a point of the grid.
        num_samples: calibration examples, drawn without replacement.
        batch_size: for calibration and evaluation; the result does not depend on it.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for every random choice.
        device: "auto", "cpu", "cuda", ...

    Returns:
        The shrunk model with masks, metrics, sizes and timings.

    Raises:
        TrimformerError: the input cannot be used or the constraint cannot be reached.
    """
    check_constraint(constraint)
    method = find_method(method) if isinstance(method, str) else method
    target = resolve_device(device)
    sublayers, problem = find_sublayers(model), find_problem(model)
    if eval_dataset is None:
        dataset, eval_dataset = find_splits({"all": dataset}, seed)
    eval_sets = eval_dataset if isinstance(eval_dataset, Mapping) else {"validation": eval_dataset}
    task = task or infer_task(problem, model.config, dataset)

    timings: dict[str, float] = {}
    clock = partial(_clock, timings)
    transformers.set_seed(seed)
    with clock("data"):
        chosen = sample_indices(len(dataset), num_samples, seed)
        if len(chosen) < num_samples:
            logger.warning("%d calibration samples asked for, %d are there: all are used", num_samples, len(chosen))
        if len(chosen) < 2:
            raise TrimformerError(f"{len(chosen)} calibration samples are too few; give at least 2")
        features = task.encode(Selection(dataset, chosen), tokenizer, model.config)
        seq_len = task.average_length or mean_length(features)
        batches = make_batches(features, tokenizer, batch_size, target)
        scorers = [Scorer(name, rows, task, model, tokenizer, batch_size) for name, rows in eval_sets.items()]
        costs = unit_costs(sublayers, metric, seq_len)
        check_reachable(constraint, smallest_constraint(method.allocation, sublayers, costs, neuron_multiple))

    model.to(target)  # type: ignore[arg-type]
    pruner = Pruner(model, batches, method, costs, neuron_multiple=neuron_multiple, seed=seed, clock=clock)
    pruned = pruner(constraint)
    with clock("evaluate"):
        metrics = compare(scorers, model, pruned.model)
    with clock("latency"):
        length = max(1, min(round(seq_len), task.length_limit(tokenizer, model.config)))
        inputs = _random_inputs(model, LATENCY_BATCH, length)
        seconds = interleaved_latency([model, pruned.model], inputs)

    result = PruningResult(
        pruned.model, pruned.masks, metrics, timings=timings, refits=pruned.refits, predicted=pruned.predicted
    )
    for name, candidate, latency in zip(("dense", "pruned"), (model, pruned.model), seconds, strict=True):
        result.sizes[name] = {
            "macs": model_macs(find_sublayers(candidate), seq_len),
            "parameters": sum(p.numel() for p in candidate.parameters()),
            "bytes": file_size(candidate),
            "latency_ms": latency * 1e3,
        }
    result.info = {
        "task": task.name,
        "problem": problem,
        "metric": task.metric,
        "seq_len": seq_len,
        "calibration_samples": len(chosen),
        "evaluation_samples": sum(len(rows) for rows in eval_sets.values()),
        "latency_shape": [LATENCY_BATCH, length],
        "device": describe_device(target),
        "versions": versions(),
    }
    return result


@contextmanager
def _clock(timings: dict[str, float], stage: str) -> Iterator[None]:
    logger.info("%s ...", stage)
    start = time.perf_counter()
    yield
    timings[stage] = timings.get(stage, 0.0) + time.perf_counter() - start


def _random_inputs(model: PreTrainedModel, batch: int, length: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch, length), generator=generator).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def describe_device(device: torch.device) -> str:
    """The device in words, with the threads PyTorch uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpu_info.read_text()) if cpu_info.is_file() else []
    return f"{names[0] if names else platform.processor()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    from trimformer import __version__

    return {
        "trimformer": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
