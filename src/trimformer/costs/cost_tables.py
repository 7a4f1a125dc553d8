"""What the budget is counted in: the cost of every number of units that a sublayer may keep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimformer.costs.macs import Lengths, per_sublayer, unit_macs, unit_parameters
from trimformer.models import Sublayer
from trimformer.options.choices import Metric as Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Costs that add up over sublayers.

    Attributes:
        levels: per sublayer [units + 1], the cost of keeping k units, k = 0 .. units.
        fixed: what no pruning removes.
        measured: the costs are latencies read off a table; else they are proportional to the units.
    """

    levels: Sequence[Floats]
    fixed: float = 0.0
    measured: bool = False

    @property
    def dense(self) -> float:
        """Cost of the whole model as it is."""
        return self.fixed + sum(float(level[-1]) for level in self.levels)

    def of(self, units: Iterable[int]) -> float:
        """Cost of the model with so many units left in each sublayer."""
        return self.fixed + sum(float(level[k]) for level, k in zip(self.levels, units, strict=True))

    @property
    def per_unit(self) -> list[float]:
        """Per sublayer, the average cost of a unit."""
        return [float(level[-1] - level[0]) / max(len(level) - 1, 1) for level in self.levels]


def linear_costs(sublayers: Sequence[Sublayer], metric: Metric, lengths: Lengths) -> Costs:
    """MACs of all sublayers for samples of so many tokens, or their parameters."""
    pairs = zip(sublayers, per_sublayer(lengths, sublayers), strict=True)
    units = [unit_macs(s, length) if metric == "mac" else float(unit_parameters(s)) for s, length in pairs]
    return Costs(
        [np.arange(s.num_units + 1, dtype=np.float64) * unit for s, unit in zip(sublayers, units, strict=True)]
    )
