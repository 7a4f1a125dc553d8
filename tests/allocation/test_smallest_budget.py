import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimformer.allocation.smallest_budget import LOOKS, NEAR, budgets_within_target


@given(st.floats(0.02, 1.2), st.floats(0.01, 0.5))
def test_what_is_found_keeps_the_promise_in_few_looks(edge, lowest):
    looks = []

    def excess(budget):
        looks.append(budget)
        return edge / budget - 1  # not above 0 from the edge up

    kept = budgets_within_target(excess, lowest)
    assert len(looks) <= LOOKS
    assert all(lowest <= budget <= 1 for budget in looks)
    assert kept == sorted(budget for budget in looks if budget >= edge)


@pytest.mark.parametrize("edge", [0.9, 0.61, 0.45, 0.3, 0.17])
def test_with_looks_enough_it_comes_near_the_edge(edge):
    kept = budgets_within_target(lambda budget: edge - budget, 0.05, looks=12)
    assert edge <= kept[0] <= edge * NEAR**2


def test_the_lowest_is_enough_where_all_keep_the_promise():
    assert budgets_within_target(lambda _: -1.0, 0.3)[0] == 0.3
    assert budgets_within_target(lambda _: 1.0, 0.3) == []
