"""Measures latency tables on the user's model.

Each pass draws a random width for every sublayer, shrinks a copy of the model to these widths, and times every sublayer
in place, with realistic inputs and caches. Every measurement is divided by the latency of the dense model before and
after it, so that the load of the machine cancels. Whole models of three sizes are timed in between, to find the time
that the sum over sublayers leaves out.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from trimformer.costs.backends import check_backend
from trimformer.costs.latency_bench import LatencyBench, resized
from trimformer.costs.lookup_tables import LatencyTable, describe_setting, input_shapes
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing
from trimformer.costs.workloads import LlamaCppRun, Workload
from trimformer.data.batches import Features
from trimformer.errors import TrimformerError
from trimformer.models import KINDS, Kind, find_sublayers
from trimformer.models.masking import frozen
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import Backend
from trimformer.utils.environment import versions


def measure_table(
    model: PreTrainedModel,
    batch_size: int,
    seq_len: int,
    *,
    example: Features | None = None,
    backend: Backend = "eager",
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> LatencyTable:
    """Times the model's sublayers at a grid of widths and fills a table for every width.

    The grid is refined where the latency bends. Between levels the table is linear; it never falls with more
    units, except where the measurements say so beyond their noise (tile effects).

    Args:
        model: on its device; it is not changed.
        batch_size: number of random inputs in a batch.
        seq_len: length of the random inputs.
        example: an encoded sample, see `random_inputs`.
        backend: name of the backend.
        seconds: upper bound for the passes; compiling and exporting come on top.
        seed: seed of the order of widths.
        progress: wraps the passes.

    Raises:
        TrimformerError: the shape cannot be run, or the backend cannot run here.
    """
    check_backend(backend, model.device)
    inputs = random_inputs(model, batch_size, seq_len, example)
    with frozen(model), torch.inference_mode():
        bench = LatencyBench(model, inputs, backend, seed)
        for _ in progress(bench.passes(seconds)):
            pass
    setting = {**describe_setting(model, batch_size, seq_len, backend), "inputs": input_shapes(inputs)}
    fixed, factor = bench.fit_whole()
    levels = {kind: factor * bench.table(kind) for kind in KINDS}
    # From fractions of the dense latency to milliseconds; the sum for the dense model is what was measured.
    scale = float(np.median(bench.dense_ms)) / LatencyTable(levels, fixed).costs(model).dense
    levels, fixed, factor = {kind: scale * levels[kind] for kind in KINDS}, scale * fixed, scale * factor
    measured: dict[Kind, list[list[float]]] = {}
    for kind in KINDS:
        measured[kind] = [
            [u, factor * t.median, factor * t.low, factor * t.high, t.count] for u, t in bench.timings(kind)
        ]
    return LatencyTable(levels, fixed, {**setting, "versions": versions()}, measured)


def check_reachable(model: PreTrainedModel, workload: Workload, requests: Sequence[BudgetRequest]) -> None:
    """Checks requested latencies against the dense model and the model without any head or neuron, timed in turns.

    Args:
        model: on its device; it is not changed.
        workload: what is timed.
        requests: latencies in ms, or fractions of the dense latency.

    Raises:
        TrimformerError: a latency is below that of the empty model, or above that of the dense model, by more than the
            noise.
    """
    requests = [request for request in requests if request.constraint != 1]  # the dense model itself
    if not requests:
        return
    with frozen(model):
        units = [0] * len(find_sublayers(model))
        units[0] = int(isinstance(workload, LlamaCppRun))  # the head without which llama.cpp loads no file
        empty = resized(model, units)
        dense_laps, empty_laps = workload.time([model, empty], seconds=1.0)
    dense, smallest = Timing.of(dense_laps), Timing.of(empty_laps)
    for request in requests:
        requested_ms = request.ms if request.constraint is None else request.constraint * dense.median
        assert requested_ms is not None
        name = f"a latency of {request.ms:g} ms" if request.constraint is None else f"constraint {request.constraint:g}"
        if requested_ms < smallest.low:
            share = smallest.median / dense.median
            raise TrimformerError(
                f"{name} cannot be reached; the smallest reachable is above {share:.3g} ({smallest.median:.3g} ms), "
                f"because everything but heads and neurons takes that long; the dense model takes {dense.median:.3g} ms"
            )
        if request.ms is not None and request.ms > dense.high:
            raise TrimformerError(f"the dense model takes {dense.median:.3g} ms already; ask for less")
