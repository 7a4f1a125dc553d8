"""Predicts the smallest budget that meets a quality target, from few evaluations."""

import math
from collections.abc import Callable

FIRST_BUDGET = 0.5
MAX_EVALUATIONS = 3
MARGIN = 0.85  # fraction of the interpolated step: evaluations are few, so each should meet the target
STEP = 0.6  # factor to the next budget while all budgets meet the target
TOLERANCE = 1.06  # ratio of budgets at which the search ends


def predict_budget(
    excess: Callable[[float], float], lowest: float, max_evaluations: int = MAX_EVALUATIONS
) -> tuple[float, list[tuple[float, float]]]:
    """Evaluates some budgets between the lowest and 1 and predicts the smallest one that meets the target.

    Args:
        excess: function from a budget to the amount by which it misses the target; 0 or less if it meets it. It is
            expected to decrease with the budget.
        lowest: the smallest budget that can be reached, in (0, 1].
        max_evaluations: limit on the number of calls of `excess`.

    Returns:
        The predicted budget, and the evaluated budgets with their excess.
    """
    passed: list[tuple[float, float]] = []  # (budget, excess)
    failed: list[tuple[float, float]] = []
    budget = max(FIRST_BUDGET, lowest)
    for _ in range(max_evaluations):
        amount = excess(budget)
        (passed if amount <= 0 else failed).append((budget, amount))
        high, low = min(passed, default=(1.0, None)), max(failed, default=(lowest, None))
        if high[0] <= lowest or high[0] / low[0] <= TOLERANCE:
            return high[0], sorted(passed + failed)
        budget = _next_budget(low, high)
    # If every budget that was tried meets the target, the smallest of them is returned: no smaller one was seen.
    return budget if failed else min(passed)[0], sorted(passed + failed)


def _next_budget(low: tuple[float, float | None], high: tuple[float, float | None]) -> float:
    """Returns the next budget: one step lower, or near the zero of the excess interpolated over the log budget."""
    if low[1] is None:
        return max(low[0], STEP * high[0])
    share = 0.5  # of the way from high down to low
    if high[1] is not None:
        share = min(0.8, max(0.2, MARGIN * high[1] / (high[1] - low[1])))
    budget = math.exp(math.log(high[0]) + share * math.log(low[0] / high[0]))
    return math.ceil(1e3 * budget) / 1e3
