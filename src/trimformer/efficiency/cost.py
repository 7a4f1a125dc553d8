"""The cost of a unit in what the budget is counted in."""

from collections.abc import Sequence
from typing import Literal

from trimformer.arch import Sublayer
from trimformer.efficiency.mac import unit_macs, unit_parameters

Metric = Literal["mac", "parameters"]


def unit_costs(sublayers: Sequence[Sublayer], metric: Metric, seq_len: float) -> list[float]:
    """Per sublayer, what one of its units costs: MACs for `seq_len` tokens, or parameters."""
    return [unit_macs(s, seq_len) if metric == "mac" else float(unit_parameters(s)) for s in sublayers]


def total_cost(sublayers: Sequence[Sublayer], costs: Sequence[float]) -> float:
    """Cost of all units that the sublayers have now."""
    return sum(s.num_units * cost for s, cost in zip(sublayers, costs, strict=True))
