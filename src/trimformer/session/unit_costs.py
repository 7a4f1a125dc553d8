"""The cost of every unit of a model, in MACs, parameters or measured latency."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.costs.lookup_tables import FILES, LatencyTable, read_table
from trimformer.costs.measure_latency import check_reachable, measure_table
from trimformer.costs.random_inputs import random_inputs
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import Metric
from trimformer.options.latency import DEFAULT_BATCH_SIZE, LatencyOptions
from trimformer.session.calibration_data import Samples
from trimformer.utils.distributed import decide
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
        inputs: the inputs that are timed.
        length: tokens of these inputs.
        is_local: whether the latencies were measured on this machine, so that measurements can correct them.
    """

    metric: Metric
    costs: Costs
    latency: LatencyOptions
    inputs: Mapping[str, Tensor]
    length: int
    is_local: bool = False


def find_unit_costs(
    model: PreTrainedModel,
    data: Samples,
    metric: Metric,
    latency: LatencyOptions,
    timer: StageTimer,
    requests: Sequence[BudgetRequest] = (),
) -> UnitCosts:
    """Returns the costs of a model's units; latencies are measured first, unless a table is given.

    Raises:
        TrimformerError: one of the requested latencies is out of reach; raised before a table is measured.
    """
    batch_size = latency.batch_size or DEFAULT_BATCH_SIZE
    length = latency.seq_len or max(1, min(round(data.seq_len), data.longest))
    # A sound of median length; texts have the mean length, and images are of one size.
    by_length = sorted(data.features, key=lambda sample: np.shape(sample.get("input_values", 0)))
    example = by_length[len(by_length) // 2]
    inputs = random_inputs(model, batch_size, length, example)
    if metric != "latency":
        return UnitCosts(metric, linear_costs(find_sublayers(model), metric, data.lengths), latency, inputs, length)
    table = latency.table
    with timer("table"):
        if not isinstance(table, LatencyTable):
            desc = partial(progress, desc="latency table")

            def measure() -> LatencyTable:
                check_reachable(model, inputs, latency.backend, requests)
                return measure_table(model, batch_size, length, backend=latency.backend, progress=desc)

            table = decide(measure)
    is_local = bool(table.setting) and not latency.any_table
    if not is_local:
        logger.warning("the latency table may be from another machine; its values are used without correction")
    return UnitCosts(metric, table.costs(model), latency, inputs, length, is_local)


def resolve_latency(latency: LatencyOptions) -> LatencyOptions:
    """Reads the latency table, where one is given, and takes shape and backend from it.

    Raises:
        TrimformerError: the table cannot be read, or the options ask for another shape or backend.
    """
    table = latency.table
    if table is None:
        return replace(latency, batch_size=latency.batch_size or DEFAULT_BATCH_SIZE)
    if not isinstance(table, LatencyTable):
        table = read_table(*(Path(table) / name for name in FILES.values()))
    if not table.setting:
        return replace(latency, table=table, batch_size=latency.batch_size or DEFAULT_BATCH_SIZE)
    setting = {key: table.setting[key] for key in ("batch_size", "seq_len", "backend")}
    for key, value in setting.items():
        requested = getattr(latency, key)
        if requested not in (value, getattr(LatencyOptions(), key)):
            raise TrimformerError(
                f"the latency table was measured with {key} {value}, not {requested}; leave it out, or measure another"
            )
    return replace(latency, table=table, **setting)
