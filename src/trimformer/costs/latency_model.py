"""Estimates latency from look-up tables, and fits the paper's latency function (section 4.1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from trimformer.costs.cost_tables import Floats
from trimformer.models.masking import units_left


def estimate_latency(
    mha_lut: Sequence[float] | Tensor,
    ffn_lut: Sequence[float] | Tensor,
    head_mask: Tensor | Sequence[Tensor],
    neuron_mask: Tensor | Sequence[Tensor],
) -> float:
    """Returns the latency of the layers with only the units whose mask is not zero.

    Args:
        mha_lut: entry k - 1 is the latency of an attention sublayer with k heads.
        ffn_lut: entry k - 1 is the latency of a feed-forward sublayer with k neurons.
        head_mask: per layer, [heads].
        neuron_mask: per layer, [neurons].

    Returns:
        The sum in the unit of the tables; an empty sublayer counts as 0.
    """
    total = 0.0
    for lut, masks in ((mha_lut, head_mask), (ffn_lut, neuron_mask)):
        kept = units_left(masks)
        total += sum(float(lut[k - 1]) for k in kept if k)
    return total


@dataclass(frozen=True)
class LatencyFn:
    """Latency of a sublayer as a function of its units: 0 for none, flat up to a threshold, then linear.

    Attributes:
        threshold: units up to which the latency is flat, at least 1.
        base: latency of the flat part.
        slope: latency of each unit beyond, at least 0.
    """

    threshold: int
    base: float
    slope: float

    def __call__(self, units: int) -> float:
        """Returns the latency of a sublayer with this number of units."""
        return self.base + self.slope * max(units - self.threshold, 0) if units else 0.0


def fit_latency_fn(lut: Sequence[float] | Tensor | Floats) -> LatencyFn:
    """Fits the flat-then-linear function of least squared error, over all thresholds.

    Args:
        lut: entry k - 1 is the latency with k units.
    """
    table = np.asarray(lut, dtype=np.float64)
    if not len(table):
        return LatencyFn(1, 0.0, 0.0)
    best, least = LatencyFn(1, float(table[0]), 0.0), np.inf
    for threshold in range(len(table), 0, -1):  # of equal errors, the longest flat part wins
        base = float(table[:threshold].mean())
        beyond, rise = np.arange(1, len(table) - threshold + 1), table[threshold:] - base
        slope = max(0.0, float(beyond @ rise) / max(float(beyond @ beyond), 1.0))
        error = float(np.square(table[:threshold] - base).sum() + np.square(rise - slope * beyond).sum())
        # Rounding alone must not move the threshold.
        if error < least * (1 - 1e-9):
            best, least = LatencyFn(threshold, base, slope), error
    return best
