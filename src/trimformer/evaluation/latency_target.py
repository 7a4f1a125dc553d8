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
    """Times two models in turn, in one process; the pruned one on inputs of its own where its tokens are others."""
    with frozen(dense), frozen(pruned):
        pairs = [(dense, inputs), (pruned, inputs if pruned_inputs is None else pruned_inputs)]
        laps = interleaved([prepare(model, given, backend) for model, given in pairs], dense.device)
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
        seen = compare_latency(self._model, student, self._inputs, self._backend)
        if not self.misses(seen):
            return None
        asked, measured = self._asked(seen)
        logger.info("latency is %.1f %% over what was asked: searching again", 100 * (measured.median / asked - 1))
        self.corrected = True
        self.costs = corrected_costs(self.costs, units, seen.pruned.median)
        asked_ms = self._latency_ms or self._constraint * seen.dense.median
        return self.costs, min(1.0, asked_ms / self.costs.dense)

    def misses(self, seen: Comparison) -> bool:
        """Returns whether the pruned model is slower than requested by more than the noise."""
        asked, measured = self._asked(seen)
        return measured.low > asked

    def _asked(self, seen: Comparison) -> tuple[float, Timing]:
        """Returns the requested latency and its measurement, both in ms or both relative to the dense model."""
        if self._latency_ms is None:
            return self._constraint, seen.ratio
        return self._latency_ms, seen.pruned


def corrected_costs(costs: Costs, units: Sequence[int], pruned_ms: float) -> Costs:
    """Scales costs to agree with a measured model, given its units left per sublayer.

    Two measurements could separate fixed from growing costs, but would amplify their noise.
    """
    scale = pruned_ms / costs.of(units)
    return Costs([level * scale for level in costs.levels], costs.fixed * scale, costs.measured)
