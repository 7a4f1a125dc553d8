"""The cost of every unit of a model, in MACs, parameters or measured latency."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.costs.llama_cpp_memory import cache_tokens, memory_costs
from trimformer.costs.lookup_tables import FILES, LatencyTable, check_inputs, read_table
from trimformer.costs.measure_latency import check_reachable, measure_table
from trimformer.costs.measure_llama_cpp import measure_llama_cpp_table
from trimformer.costs.random_inputs import random_inputs, typical_sample
from trimformer.costs.workloads import ForwardPass, LlamaCppRun, Workload
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import LLAMA_CPP, Metric
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import DEFAULT_BATCH_SIZE, LatencyOptions
from trimformer.session.samples import CalibrationSamples, Samples
from trimformer.utils.distributed import broadcast_from_main
from trimformer.utils.progress import progress
from trimformer.utils.stage_timer import StageTimer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UnitCosts:
    """The cost of units, and the inputs that latency is measured with.

    Attributes:
        metric: what is counted.
        costs: cost of every number of units of each sublayer.
        latency: how latency is measured.
        workload: what is timed.
        length: tokens of the inputs that are timed.
        gguf: how llama.cpp holds the model, if memory is counted.
        is_local: whether the latencies were measured on this machine, so that measurements can correct them.
    """

    metric: Metric
    costs: Costs
    latency: LatencyOptions
    workload: Workload
    length: int
    is_local: bool = False
    gguf: GgufOptions | None = None


def find_unit_costs(
    model: PreTrainedModel,
    samples: Samples,
    metric: Metric,
    latency: LatencyOptions,
    timer: StageTimer,
    requests: Sequence[BudgetRequest] = (),
    gguf: GgufOptions | None = None,
) -> UnitCosts:
    """Returns the costs of a model's units; latencies are measured first, unless a table is given.

    Raises:
        TrimformerError: one of the requested latencies is out of reach; raised before a table is measured.
    """
    gguf = gguf or GgufOptions()
    example = typical_sample(samples.calibration.features)
    workload, length = _timed_workload(model, samples.calibration, latency, gguf, example)
    if metric == "memory":
        tokens = cache_tokens(model, gguf)
        costs = memory_costs(model, gguf.quantize, tokens)
        return UnitCosts(metric, costs, latency, workload, length, gguf=replace(gguf, context=tokens))
    if metric != "latency":
        costs = linear_costs(find_sublayers(model), metric, samples.calibration.positions)
        return UnitCosts(metric, costs, latency, workload, length)
    table = latency.table
    with timer("table"):
        if not isinstance(table, LatencyTable):

            def measure() -> LatencyTable:
                check_reachable(model, workload, requests)
                if isinstance(workload, LlamaCppRun):
                    return measure_llama_cpp_table(model, workload)
                batch_size = latency.batch_size or DEFAULT_BATCH_SIZE
                bar = partial(progress, desc="latency table")
                return measure_table(model, batch_size, length, example=example, backend=workload.backend, progress=bar)

            table = broadcast_from_main(measure)
        elif isinstance(workload, ForwardPass) and not latency.any_table:
            check_inputs(table, workload.inputs)
            _check_head(table, model, requests)
    is_local = bool(table.setting) and not latency.any_table
    if not is_local:
        logger.warning("the latency table may be from another machine; its values are used without correction")
    return UnitCosts(metric, table.costs(model), latency, workload, length, is_local)


def _timed_workload(
    model: PreTrainedModel,
    calibration: CalibrationSamples,
    latency: LatencyOptions,
    gguf: GgufOptions,
    example: Mapping[str, Any],
) -> tuple[ForwardPass | LlamaCppRun, int]:
    """Returns what is timed, and its length in tokens: the one asked for, or the calibration samples' mean.

    Args:
        model: the dense model.
        calibration: the samples to calibrate on.
        latency: shape of the inputs, and backend.
        gguf: how llama.cpp holds and runs the model.
        example: a calibration sample of typical length; random inputs have its keys.
    """
    if latency.backend == LLAMA_CPP:
        run = LlamaCppRun.of(model, gguf)
        return run, run.tokens
    length = max(1, round(calibration.mean_length))
    if "input_ids" in calibration.batches[0]:
        length = latency.seq_len or min(length, calibration.length_limit)
    inputs = random_inputs(model, latency.batch_size or DEFAULT_BATCH_SIZE, length, example)
    return ForwardPass(inputs, latency.backend), length


def _check_head(table: LatencyTable, model: PreTrainedModel, requests: Sequence[BudgetRequest]) -> None:
    """Warns if a table is of another head, as the paper's command measures one; shares are corrected by measuring.

    Raises:
        TrimformerError: milliseconds are asked for, which such a table cannot tell.
    """
    measured, name = table.setting.get("class", type(model).__name__), type(model).__name__
    if measured == name:
        return
    if any(request.ms is not None for request in requests):
        raise TrimformerError(
            f"the latency table was measured for '{measured}', and the model is '{name}', so its milliseconds do not "
            "apply; measure one with `trimformer lut`, or use this one nevertheless with --any-lut"
        )
    logger.warning(
        "the latency table was measured for '%s', and the model is '%s'; measured latencies correct it", measured, name
    )


def resolve_latency(latency: LatencyOptions) -> LatencyOptions:
    """Reads the latency table, where one is given, and takes shape and backend from it.

    Raises:
        TrimformerError: the table cannot be read, or the options ask for another shape or backend.
    """
    table = latency.table
    if table is None:
        return latency
    if not isinstance(table, LatencyTable):
        table = read_table(*(Path(table) / name for name in FILES.values()))
    if not table.setting:
        return replace(latency, table=table)
    setting = {key: table.setting[key] for key in ("batch_size", "seq_len", "backend")}
    for key, value in setting.items():
        requested = getattr(latency, key)
        if requested not in (value, getattr(LatencyOptions(), key)):
            raise TrimformerError(
                f"the latency table was measured with {key} {value}, not {requested}; leave it out, or measure another"
            )
    return replace(latency, table=table, **setting)
