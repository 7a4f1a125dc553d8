import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimformer.allocation.smallest_budget import MAX_EVALUATIONS, TOLERANCE, budgets_within_target


@given(st.floats(0.02, 1.2), st.floats(0.01, 0.5))
def test_the_budgets_returned_meet_the_target_in_few_evaluations(edge, lowest):
    evaluated = []

    def excess(budget):
        evaluated.append(budget)
        return edge / budget - 1  # not above 0 from the edge up

    kept = budgets_within_target(excess, lowest)
    assert len(evaluated) <= MAX_EVALUATIONS
    assert all(lowest <= budget <= 1 for budget in evaluated)
    assert kept == sorted(budget for budget in evaluated if budget >= edge)


@pytest.mark.parametrize("edge", [0.9, 0.61, 0.45, 0.3, 0.17])
def test_enough_evaluations_come_near_the_edge(edge):
    kept = budgets_within_target(lambda budget: edge - budget, 0.05, max_evaluations=12)
    assert edge <= kept[0] <= edge * TOLERANCE**2


def test_the_lowest_budget_is_returned_if_all_meet_the_target():
    assert budgets_within_target(lambda _: -1.0, 0.3)[0] == 0.3
    assert budgets_within_target(lambda _: 1.0, 0.3) == []
