"""Predicts the smallest constraint, a fraction of the dense cost, that meets a quality target, from few evaluations."""

import math
from collections.abc import Callable

FIRST = 0.5  # the first constraint that is evaluated
MAX_EVALUATIONS = 3
MARGIN = 0.85  # fraction of the interpolated step: evaluations are few, so each should meet the target
STEP = 0.6  # factor to the next constraint while all meet the target
TOLERANCE = 1.06  # ratio of constraints at which the search ends


def predict_constraint(
    excess: Callable[[float], float], lowest: float, max_evaluations: int = MAX_EVALUATIONS
) -> float:
    """Evaluates some constraints between the lowest and 1 and predicts the smallest one that meets the target.

    Args:
        excess: function from a constraint to the amount by which its model misses the target; 0 or less if it meets it.
            It is expected to decrease with the constraint.
        lowest: the smallest constraint that can be reached, in (0, 1].
        max_evaluations: limit on the number of calls of `excess`.
    """
    passed: list[tuple[float, float]] = []  # (constraint, excess)
    failed: list[tuple[float, float]] = []
    constraint = max(FIRST, lowest)
    for _ in range(max_evaluations):
        amount = excess(constraint)
        (passed if amount <= 0 else failed).append((constraint, amount))
        high, low = min(passed, default=(1.0, None)), max(failed, default=(lowest, None))
        if high[0] <= lowest or high[0] / low[0] <= TOLERANCE:
            return high[0]
        constraint = _next_constraint(low, high)
    # If every constraint that was tried meets the target, the smallest of them is returned: no smaller one was seen.
    return constraint if failed else min(passed)[0]


def _next_constraint(low: tuple[float, float | None], high: tuple[float, float | None]) -> float:
    """Returns one step below, or a constraint near the zero of the excess, interpolated over the log constraint."""
    if low[1] is None:
        return max(low[0], STEP * high[0])
    share = 0.5  # of the way from high down to low
    if high[1] is not None:
        share = min(0.8, max(0.2, MARGIN * high[1] / (high[1] - low[1])))
    constraint = math.exp(math.log(high[0]) + share * math.log(low[0] / high[0]))
    return math.ceil(1e3 * constraint) / 1e3
