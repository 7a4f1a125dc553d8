import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimformer.allocation.smallest_budget import MAX_EVALUATIONS, TOLERANCE, predict_budget


@given(st.floats(0.02, 1.2), st.floats(0.01, 0.5))
def test_few_budgets_are_evaluated_and_the_prediction_lies_above_those_that_miss_the_target(edge, lowest):
    evaluated = []

    def excess(budget):
        evaluated.append(budget)
        return edge / budget - 1  # not above 0 from the edge up

    predicted, pairs = predict_budget(excess, lowest)
    assert len(evaluated) <= MAX_EVALUATIONS
    assert all(lowest <= budget <= 1 for budget in (*evaluated, predicted))
    assert pairs == sorted((budget, edge / budget - 1) for budget in evaluated)
    assert all(predicted > budget for budget in evaluated if budget < edge)
    passed = [budget for budget in evaluated if budget >= edge]
    assert predicted <= min(passed, default=1.0)


@pytest.mark.parametrize("edge", [0.9, 0.61, 0.45, 0.3, 0.17])
def test_enough_evaluations_come_near_the_edge(edge):
    predicted, _ = predict_budget(lambda budget: edge - budget, 0.05, max_evaluations=12)
    assert edge / TOLERANCE <= predicted <= edge * TOLERANCE**2


def test_the_lowest_budget_is_predicted_if_all_meet_the_target():
    assert predict_budget(lambda _: -1.0, 0.3)[0] == 0.3
    assert predict_budget(lambda _: 1.0, 0.3)[0] > 0.5
