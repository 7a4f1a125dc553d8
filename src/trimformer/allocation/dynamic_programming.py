"""Exact allocation of a budget to sublayers by dynamic programming."""

from collections.abc import Sequence

import numpy as np

from trimformer.costs.cost_tables import ROUNDED_UP, Floats
from trimformer.errors import UnreachableError

BUCKETS = 20_000


def allocate(errors: Sequence[Floats], costs: Sequence[Floats], budget: float, buckets: int = BUCKETS) -> list[int]:
    """Selects one level per sublayer that minimizes the total error within the budget.

    Costs above that of the cheapest level are rounded up to steps of the discretized budget, so the budget is never
    exceeded, and at most sublayers / buckets of it remains unused.

    Args:
        errors: per sublayer, the error of each level.
        costs: per sublayer, the cost of each level, in any additive unit: MACs, parameters, ms.
        budget: limit on the total cost, in the same unit.
        buckets: number of steps of the discretized budget.

    Returns:
        The index of the selected level of each sublayer.

    Raises:
        UnreachableError: the cheapest levels together exceed the budget.
    """
    smallest = sum(float(cost.min()) for cost in costs)
    if smallest > budget * ROUNDED_UP or budget <= 0:
        # Rounded up: the value in the message must be reachable.
        raise UnreachableError("budget", budget, 1.0005 * smallest)
    least_errors = [int(np.lexsort((cost, error))[0]) for error, cost in zip(errors, costs, strict=True)]
    if sum(float(cost[level]) for cost, level in zip(costs, least_errors, strict=True)) <= budget * ROUNDED_UP:
        return least_errors
    # Rounding must not exclude a level that meets the budget exactly, nor charge one that costs nothing.
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
