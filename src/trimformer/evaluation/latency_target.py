"""Compares a requested latency with the measured latency of the shrunk model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs
from trimformer.costs.timing import Timing
from trimformer.costs.workloads import Workload
from trimformer.models import find_sublayers
from trimformer.models.masking import frozen

logger = logging.getLogger(__name__)

WORTHWHILE = 0.02  # fraction of the requested latency; less is not worth another selection
BUSY = 0.1  # relative slowdown of the dense model that is reported


@dataclass(frozen=True)
class ComparedLatency:
    """Latency of two models, timed in turns.

    Attributes:
        dense: latency of the dense model.
        pruned: latency of the pruned model.
        ratio: pruned / dense of each turn.
    """

    dense: Timing
    pruned: Timing
    ratio: Timing


def compare_latency(dense: PreTrainedModel, pruned: PreTrainedModel, workload: Workload) -> ComparedLatency:
    """Times two models in turns."""
    with frozen(dense), frozen(pruned):
        laps = workload.time([dense, pruned])
    ratio = np.divide(laps[1], laps[0]).tolist()
    return ComparedLatency(Timing.of(laps[0]), Timing.of(laps[1]), Timing.of(ratio))


class LatencyTarget:
    """Requests another selection if the shrunk model is slower than requested, or faster by too little or too much.

    Everything is compared as a fraction of the dense model's latency at the same time, so that the load of the machine
    cancels. Requested milliseconds are counted at the fastest state of the machine that was seen.

    Args:
        model: dense.
        costs: of its units, in ms.
        constraint: fraction of the dense latency; with `latency_ms`, what that is by the table.
        latency_ms: an absolute latency, or None.
        workload: what is timed.

    Attributes:
        costs: as last corrected.
        corrected: whether another selection was requested.
        reference_ms: with `latency_ms`, the dense latency at which it is counted: the smallest that was seen.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        costs: Costs,
        constraint: float,
        latency_ms: float | None,
        workload: Workload,
    ) -> None:
        self._model, self._workload = model, workload
        self.costs, self.corrected = costs, False
        self._constraint, self._latency_ms = constraint, latency_ms
        self.reference_ms = costs.dense if latency_ms is not None else None
        self._dense_ms = costs.dense  # dense latency of the moment to which the costs belong
        self._faster: tuple[list[int], float] | None = None  # units and ratio of a model that was faster than requested

    def __call__(self, student: PreTrainedModel) -> tuple[Costs, float] | None:
        """Returns corrected costs and their constraint, or None if the student meets the target.

        A model that is too fast is followed by one between it and the dense model, at most once, so that corrections
        end; should that be too slow, by one between these two. Costs follow the slower end of what was measured, so
        that the model is not slower than asked when it is timed again; for the same reason, a model that is faster by
        less than half of the noise counts as too slow.
        """
        units = [s.num_units for s in find_sublayers(student)]
        latency = compare_latency(self._model, student, self._workload)
        self.observe(latency)
        requested, left_over = self.requested, self.left_over(latency)
        dense_ms = self.reference_ms or latency.dense.median
        measured = units, latency.ratio.high * dense_ms
        too_slow = requested < 1 and (latency.ratio.median + latency.ratio.high) / 2 > requested
        if too_slow:
            faster, self._faster = self._faster, None
            smaller = (faster[0], faster[1] * dense_ms) if faster else None
            if smaller and smaller[1] < measured[1] and self.costs.of(smaller[0]) < self.costs.of(units):
                self.costs = interpolated_costs(self.costs, smaller, measured)
            else:
                self.costs = corrected_costs(self.costs, *measured)
        elif not self.corrected and latency.ratio.high < (1 - WORTHWHILE) * requested and self._can_grow(units):
            dense_units = [s.num_units for s in find_sublayers(self._model)]
            self.costs = interpolated_costs(self.costs, measured, (dense_units, dense_ms))
            self._faster = units, latency.ratio.high
        else:
            return None
        logger.info(
            "latency is %.1f %% %s what was requested%s: searching again",
            100 * abs(left_over),
            "over" if left_over < 0 else "below",
            ", less than half of the noise" if too_slow and left_over >= 0 else "",
        )
        self.corrected, self._dense_ms = True, dense_ms
        return self.costs, min(1.0, requested * dense_ms / self.costs.dense)

    def observe(self, latency: ComparedLatency) -> None:
        """Lowers the dense latency at which requested milliseconds are counted, if the dense model was faster."""
        if self.reference_ms is not None:
            self.reference_ms = min(self.reference_ms, latency.dense.median)

    @property
    def requested(self) -> float:
        """Requested fraction of the dense latency."""
        if self._latency_ms is None or self.reference_ms is None:
            return self._constraint
        return min(1.0, self._latency_ms / self.reference_ms)

    def share(self, units: Sequence[int]) -> float:
        """Returns the fraction of the dense latency that the costs, as last corrected, give a model."""
        return self.costs.of(units) / self._dense_ms

    def misses(self, latency: ComparedLatency) -> bool:
        """Returns whether the pruned model is slower than requested by more than the noise."""
        return latency.ratio.low > self.requested

    def left_over(self, latency: ComparedLatency) -> float:
        """Returns the unused fraction of the requested latency; negative if the pruned model is slower."""
        return 1 - latency.ratio.median / self.requested

    def log(self, latency: ComparedLatency) -> None:
        """Logs what is left over of the request, and a changed speed of the machine."""
        if latency.ratio.high < (1 - WORTHWHILE) * self.requested:
            logger.warning(
                "the latency is %.0f %% below what was requested; the next larger selection would exceed it, or the "
                "machine was busier when the model was selected",
                100 * self.left_over(latency),
            )
        if self.reference_ms is not None and latency.dense.low > (1 + BUSY) * self.reference_ms:
            logger.warning(
                "the dense model takes %.3g ms now, and took %.3g ms before: the machine is busier, and %g ms are "
                "counted at the latter",
                latency.dense.median,
                self.reference_ms,
                self._latency_ms,
            )

    def _can_grow(self, units: Sequence[int]) -> bool:
        """Returns whether the student lacks units, and these cost something."""
        return self.costs.of(units) < self.costs.dense


def corrected_costs(costs: Costs, units: Sequence[int], pruned_ms: float) -> Costs:
    """Scales costs to agree with a measured model, given its units left per sublayer.

    Two measurements could separate fixed from growing costs, but would amplify their noise.
    """
    scale = pruned_ms / costs.of(units)
    return Costs([level * scale for level in costs.levels], costs.fixed * scale, costs.measured)


def interpolated_costs(
    costs: Costs, smaller: tuple[Sequence[int], float], larger: tuple[Sequence[int], float]
) -> Costs:
    """Maps costs linearly to agree with two measured models; for models between these two.

    Args:
        costs: in ms; the smaller model costs less than the larger one.
        smaller: units left per sublayer of a model, and its latency in ms.
        larger: the same of a larger and slower one.
    """
    (few, fast), (many, slow) = smaller, larger
    scale = (slow - fast) / (costs.of(many) - costs.of(few))
    # Fixed costs may become negative, because the line holds between the two models only.
    return Costs([level * scale for level in costs.levels], slow - scale * (costs.of(many) - costs.fixed), True)
