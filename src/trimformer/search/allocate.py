"""Exact allocation of a budget over sublayers by dynamic programming."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimformer.errors import TrimformerError

Floats = NDArray[np.float64]

BUCKETS = 20_000


def allocate(errors: Sequence[Floats], costs: Sequence[Floats], budget: float, buckets: int = BUCKETS) -> list[int]:
    """Chooses one level per sublayer: least total error with total cost at most the budget.

    Costs are rounded up to 1/`buckets` of the budget, so the budget is never exceeded and at most
    sublayers / buckets of it is lost.

    Args:
        errors: per sublayer, the error of each level.
        costs: per sublayer, the cost of each level, in any unit that adds up: MACs, parameters, ms.
        budget: in the same unit.
        buckets: steps of the discretised budget.

    Returns:
        The chosen level of each sublayer.

    Raises:
        TrimformerError: even the cheapest levels exceed the budget.
    """
    smallest = sum(float(cost.min()) for cost in costs)
    if smallest > budget or budget <= 0:
        raise TrimformerError(f"budget {budget:.4g} cannot be reached; the smallest reachable is {smallest:.4g}")
    # Rounding must not lose a level that meets the budget exactly; what is free stays free.
    steps = [np.ceil(cost / budget * buckets * (1 - 1e-12)).astype(np.int64) for cost in costs]
    best = np.zeros(buckets + 1)
    choices = []
    for error, step in zip(errors, steps, strict=True):
        total, choice = np.full(buckets + 1, np.inf), np.zeros(buckets + 1, dtype=np.int64)
        for level in np.argsort(-step, kind="stable"):
            if step[level] > buckets:
                continue
            candidate = best[: buckets + 1 - step[level]] + error[level]
            better = candidate < total[step[level] :]
            total[step[level] :][better] = candidate[better]
            choice[step[level] :][better] = level
        best = total
        choices.append(choice)
    if not np.isfinite(best[buckets]):
        raise TrimformerError(f"budget {budget:.4g} cannot be reached; the smallest reachable is {smallest:.4g}")
    chosen, position = [], buckets
    for choice, step in zip(reversed(choices), reversed(steps), strict=True):
        level = int(choice[position])
        chosen.append(level)
        position -= step[level]
    return chosen[::-1]
