"""Exact allocation of a budget over sublayers by dynamic programming."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trimformer.errors import TrimformerError

Floats = NDArray[np.float64]

BUCKETS = 20_000


def allocate(errors: Sequence[Floats], costs: Sequence[Floats], budget: float, buckets: int = BUCKETS) -> list[int]:
    """Chooses one level per sublayer: least total error with total cost at most the budget.

    What levels cost beyond the cheapest is rounded up to 1/`buckets` of the budget beyond the cheapest, so
    the budget is never exceeded and at most sublayers / buckets of it is lost.

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
    if smallest > budget * (1 + 1e-12) or budget <= 0:
        # Rounded up, as what is named here must be reachable.
        raise TrimformerError(
            f"budget {budget:.4g} cannot be reached; the smallest reachable is {smallest * 1.0005:.4g}"
        )
    favourites = [int(np.lexsort((cost, error))[0]) for error, cost in zip(errors, costs, strict=True)]
    if sum(float(cost[level]) for cost, level in zip(costs, favourites, strict=True)) <= budget * (1 + 1e-12):
        return favourites
    # Rounding must not lose a level that meets the budget exactly; what is free stays free.
    scale = buckets * (1 - 1e-12) / max(budget - smallest, 1e-12 * budget)
    steps = [np.ceil(np.minimum((cost - cost.min()) * scale, buckets + 1.0)).astype(np.int64) for cost in costs]
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
    chosen, position = [], buckets
    for choice, step in zip(reversed(choices), reversed(steps), strict=True):
        level = int(choice[position])
        chosen.append(level)
        position -= step[level]
    return chosen[::-1]
