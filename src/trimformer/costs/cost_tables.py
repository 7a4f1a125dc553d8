"""Tables with the cost of every number of units that a sublayer may keep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimformer.costs.macs import Lengths, Positions, per_sublayer, unit_macs, unit_parameters
from trimformer.errors import TrimformerError
from trimformer.models import Sublayer
from trimformer.options.checks import shorten
from trimformer.options.choices import Metric

Floats = NDArray[np.float64]

ROUNDED_UP = 1 + 1e-12  # costs are compared by twelve digits, so that rounding refuses no model that fits


@dataclass(frozen=True)
class Costs:
    """Costs that add up over sublayers.

    Attributes:
        levels: per sublayer [units + 1]; entry k is the cost of k units.
        fixed: the cost that pruning cannot remove.
        measured: costs are measured latencies in ms; otherwise they are proportional to the units.
        narrow: per sublayer, costs [units + 1] by number of query heads per unit, from 1 to one less than in the dense
            sublayer; empty where units keep all query heads.
    """

    levels: Sequence[Floats]
    fixed: float = 0.0
    measured: bool = False
    narrow: Sequence[Sequence[Floats]] = ()

    @property
    def dense(self) -> float:
        """Cost of the dense model."""
        return self.fixed + sum(float(level[-1]) for level in self.levels)

    def budget(self, constraint: float) -> float:
        """Returns the largest cost that a constraint allows, rounded up."""
        return constraint * self.dense * ROUNDED_UP

    def of(self, units: Iterable[int]) -> float:
        """Returns the cost of a model with the given number of units per sublayer."""
        return self.fixed + sum(float(level[k]) for level, k in zip(self.levels, units, strict=True))

    @property
    def per_unit(self) -> list[float]:
        """Per sublayer, the average cost of a unit."""
        return [float(level[-1] - level[0]) / max(len(level) - 1, 1) for level in self.levels]


def linear_costs(sublayers: Sequence[Sublayer], metric: Metric, lengths: Lengths) -> Costs:
    """Returns the costs of all sublayers in MACs per sample, or in parameters.

    Args:
        sublayers: of the dense model; see `find_sublayers`.
        metric: "mac" for MACs or "parameters".
        lengths: tokens of a sample: one number, or one per sublayer.

    Raises:
        TrimformerError: the metric is another one, or a length is not positive.
    """
    if metric not in ("mac", "parameters"):
        raise TrimformerError(f"linear costs are of the metric 'mac' or 'parameters', not {shorten(metric)}")
    lengths = per_sublayer(lengths, sublayers)
    tokens = [each.length if isinstance(each, Positions) else each for each in lengths]
    for length in tokens if metric == "mac" else ():
        if not 0 < length < np.inf:
            raise TrimformerError(f"a sample of {shorten(length)} tokens has no cost; give a positive number")

    def levels(sublayer: Sublayer, length: float | Positions, num_units: int) -> Floats:
        unit = unit_macs(sublayer, length) if metric == "mac" else float(unit_parameters(sublayer))
        return np.arange(num_units + 1, dtype=np.float64) * unit

    pairs = list(zip(sublayers, per_sublayer(lengths, sublayers), strict=True))
    narrow = [
        [levels(s.with_queries(m), length, s.num_units) for m in range(1, s.queries)] if s.queries_attribute else []
        for s, length in pairs
    ]
    return Costs([levels(s, length, s.num_units) for s, length in pairs], narrow=narrow)
