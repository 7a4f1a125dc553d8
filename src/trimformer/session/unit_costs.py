"""What units cost, and a model's budget by that."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs, Metric, linear_costs
from trimformer.costs.lookup_tables import LatencyTable
from trimformer.costs.measure_latency import measure_table, random_inputs
from trimformer.evaluation.latency_target import LatencyOptions
from trimformer.models import find_sublayers
from trimformer.session.calibration_data import Samples
from trimformer.utils.distributed import decide
from trimformer.utils.progress import progress
from trimformer.utils.stage_timer import StageTimer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prices:
    """What units cost.

    Attributes:
        metric: what is counted.
        costs: of the units.
        latency: how latency is measured.
        inputs: to time with.
        length: tokens of these.
        is_own: latencies are this machine's, so that a promise of one can be held against measurements.
    """

    metric: Metric
    costs: Costs
    latency: LatencyOptions
    inputs: Mapping[str, Tensor]
    length: int
    is_own: bool = False


def price(model: PreTrainedModel, data: Samples, metric: Metric, latency: LatencyOptions, clock: StageTimer) -> Prices:
    """The costs of units, measured first where they are latencies."""
    length = latency.seq_len or max(1, min(round(data.seq_len), data.longest))
    inputs = random_inputs(model, latency.batch_size, length)
    if metric != "latency":
        return Prices(metric, linear_costs(find_sublayers(model), metric, data.lengths), latency, inputs, length)
    with clock("table"):
        table = latency.table or decide(lambda: _measure(model, latency, length))
    is_own = bool(table.setting) and not latency.any_table
    if not is_own:
        logger.warning("the latency table may be of another machine: its word is taken, nothing is corrected")
    return Prices(metric, table.costs(model), latency, inputs, length, is_own)


def _measure(model: PreTrainedModel, latency: LatencyOptions, length: int) -> LatencyTable:
    shown = partial(progress, desc="latency table")
    return measure_table(model, latency.batch_size, length, backend=latency.backend, progress=shown)
