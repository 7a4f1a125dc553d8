"""Compares a requested latency with the measured latency of the shrunk model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.backends import Backend, prepare
from trimformer.costs.cost_tables import Costs
from trimformer.costs.timing import Timing, interleaved
from trimformer.models import find_sublayers
from trimformer.models.masking import frozen

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Latency of two models, timed in turns.

    Attributes:
        dense: of the dense model.
        pruned: of the pruned one.
        ratio: pruned / dense, turn by turn.
    """

    dense: Timing
    pruned: Timing
    ratio: Timing


def compare_latency(
    dense: PreTrainedModel,
    pruned: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    backend: Backend = "eager",
    pruned_inputs: Mapping[str, Tensor] | None = None,
) -> Comparison:
    """Times two models in turns, in one process; `pruned_inputs` are for a pruned model with other token ids."""
    with frozen(dense), frozen(pruned):
        pairs = [(dense, inputs), (pruned, inputs if pruned_inputs is None else pruned_inputs)]
        laps = interleaved([prepare(model, model_inputs, backend) for model, model_inputs in pairs], dense.device)
    ratio = np.divide(laps[1], laps[0]).tolist()
    return Comparison(Timing.of(laps[0]), Timing.of(laps[1]), Timing.of(ratio))


class LatencyTarget:
    """Requests another selection if the shrunk model is slower than requested by more than the noise.

    A faster model is kept: measuring it again on a noisy machine could only miss the target.

    Args:
        model: dense.
        costs: of its units, in ms.
        constraint: fraction of the dense latency; with `latency_ms`, what that is by the table.
        latency_ms: an absolute latency, or None.
        inputs: to time with.
        backend: to time with.

    Attributes:
        costs: as last corrected.
        corrected: whether another selection was asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        costs: Costs,
        constraint: float,
        latency_ms: float | None,
        inputs: Mapping[str, Tensor],
        backend: Backend,
    ) -> None:
        self._model, self._inputs, self._backend = model, inputs, backend
        self.costs, self.corrected = costs, False
        self._constraint, self._latency_ms = constraint, latency_ms

    def __call__(self, student: PreTrainedModel) -> tuple[Costs, float] | None:
        """Returns corrected costs and their constraint, or None if the student meets the target."""
        units = [s.num_units for s in find_sublayers(student)]
        comparison = compare_latency(self._model, student, self._inputs, self._backend)
        if not self.misses(comparison):
            return None
        requested, measured = self._requested(comparison)
        logger.info("latency is %.1f %% above the request: selecting again", 100 * (measured.median / requested - 1))
        self.corrected = True
        self.costs = corrected_costs(self.costs, units, comparison.pruned.median)
        requested_ms = self._latency_ms or self._constraint * comparison.dense.median
        return self.costs, min(1.0, requested_ms / self.costs.dense)

    def misses(self, comparison: Comparison) -> bool:
        """Returns whether the pruned model is slower than requested by more than the noise."""
        requested, measured = self._requested(comparison)
        return measured.low > requested

    def _requested(self, comparison: Comparison) -> tuple[float, Timing]:
        """Returns the requested latency and its measurement, both in ms or both relative to the dense model."""
        if self._latency_ms is None:
            return self._constraint, comparison.ratio
        return self._latency_ms, comparison.pruned


def corrected_costs(costs: Costs, units: Sequence[int], pruned_ms: float) -> Costs:
    """Scales costs to agree with a measured model, given its units left per sublayer.

    Two measurements could separate fixed from growing costs, but would amplify their noise.
    """
    scale = pruned_ms / costs.of(units)
    return Costs([level * scale for level in costs.levels], costs.fixed * scale, costs.measured)
