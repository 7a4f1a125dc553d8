"""The smallest budget that keeps a promise, in few looks."""

import math
from collections.abc import Callable

FIRST = 0.5
LOOKS = 3
AIM = 0.85  # of the way to where a line would cross: looks are few, so each should keep the promise
STEP = 0.6  # from one look to the next, as long as all keep the promise
NEAR = 1.06  # budgets of this ratio are as good as equal


def budgets_within_target(excess: Callable[[float], float], lowest: float, looks: int = LOOKS) -> list[float]:
    """Looks at some budgets between the lowest and the whole; the wider, the better they keep the promise.

    Args:
        excess: of a budget, by how much it breaks the promise; not above 0 where it keeps it.
        lowest: that can be reached, in (0, 1].
        looks: how often to look at most.

    Returns:
        The budgets that keep it, the smallest first; empty where none did.
    """
    kept: list[tuple[float, float]] = []  # (budget, excess)
    broken: list[tuple[float, float]] = []
    budget = max(FIRST, lowest)
    for _ in range(looks):
        seen = excess(budget)
        (kept if seen <= 0 else broken).append((budget, seen))
        high, low = min(kept, default=(1.0, None)), max(broken, default=(lowest, None))
        if high[0] <= lowest or high[0] / low[0] <= NEAR:
            break
        budget = _between(low, high)
    return sorted(budget for budget, _ in kept)


def _between(low: tuple[float, float | None], high: tuple[float, float | None]) -> float:
    """Where to look next: at a step below, or where a straight line in log budget crosses 0."""
    if low[1] is None:
        return max(low[0], STEP * high[0])
    share = 0.5  # of the way down from high to low
    if high[1] is not None:
        share = min(0.8, max(0.2, AIM * high[1] / (high[1] - low[1])))
    budget = math.exp(math.log(high[0]) + share * math.log(low[0] / high[0]))
    return math.ceil(1e3 * budget) / 1e3
