import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimformer.allocation.predict_constraint import MAX_EVALUATIONS, TOLERANCE, predict_constraint


@given(st.floats(0.02, 1.2), st.floats(0.01, 0.5))
def test_few_constraints_are_evaluated_and_the_prediction_lies_above_those_that_miss_the_target(edge, lowest):
    evaluated = []

    def excess(constraint):
        evaluated.append(constraint)
        return edge / constraint - 1  # not above 0 from the edge up

    predicted = predict_constraint(excess, lowest)
    assert len(evaluated) <= MAX_EVALUATIONS
    assert all(lowest <= constraint <= 1 for constraint in (*evaluated, predicted))
    assert all(predicted > constraint for constraint in evaluated if constraint < edge)
    passed = [constraint for constraint in evaluated if constraint >= edge]
    assert predicted <= min(passed, default=1.0)


@pytest.mark.parametrize("edge", [0.9, 0.61, 0.45, 0.3, 0.17])
def test_enough_evaluations_come_near_the_edge(edge):
    predicted = predict_constraint(lambda constraint: edge - constraint, 0.05, max_evaluations=12)
    assert edge / TOLERANCE <= predicted <= edge * TOLERANCE**2


def test_the_lowest_constraint_is_predicted_if_all_meet_the_target():
    assert predict_constraint(lambda _: -1.0, 0.3) == 0.3
    assert predict_constraint(lambda _: 1.0, 0.3) > 0.5
