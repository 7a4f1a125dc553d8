import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.allocation.dynamic_programming import allocate
from trimformer.errors import TrimformerError

LEVELS = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=4
)
COSTS = st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=1, max_size=6)


def total(values, chosen):
    return sum(v[i] for v, i in zip(values, chosen, strict=True))


@given(levels=LEVELS, budget=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force_on_integer_costs(levels, budget):
    errors, costs = ([np.array([pair[k] for pair in level], float) for level in levels] for k in (0, 1))
    choices = product(*(range(len(level)) for level in levels))
    within = [total(errors, c) for c in choices if total(costs, c) <= budget]
    if not within:
        with pytest.raises(TrimformerError):
            allocate(errors, costs, budget, buckets=10 * budget)
        return
    above = budget - sum(cost.min() for cost in costs)  # a bucket is then a tenth of a unit
    chosen = allocate(errors, costs, budget, buckets=max(1, 10 * int(above)))
    assert total(costs, chosen) <= budget
    assert total(errors, chosen) == min(within)


@given(seed=st.integers(0, 999), share=st.floats(0, 1), buckets=st.sampled_from([2, 30, 20_000]))
@settings(max_examples=60, deadline=None)
def test_budget_is_never_exceeded_and_all_from_the_smallest_up_are_reachable(seed, share, buckets):
    generator = np.random.default_rng(seed)
    shape = generator.integers(1, 7), generator.integers(1, 5)
    errors, costs = list(generator.random(shape)), list(generator.random(shape) * 10 ** generator.uniform(-3, 9))
    smallest, largest = (sum(float(f(cost)) for cost in costs) for f in (min, max))
    budget = smallest + share * (largest - smallest)
    assert total(costs, allocate(errors, costs, budget, buckets)) <= budget * (1 + 1e-9)


@pytest.mark.parametrize("sublayers", [1, 3, 7, 24])
def test_a_full_budget_keeps_everything(sublayers):
    costs = [np.linspace(0, 1, 5) * (1 + i / 7) for i in range(sublayers)]
    errors = [np.linspace(1, 0, 5)] * sublayers
    assert allocate(errors, costs, sum(float(cost[-1]) for cost in costs)) == [4] * sublayers


@given(costs=COSTS)
@settings(max_examples=40, deadline=None)
def test_unreachable_names_a_budget_that_can_be_reached(costs):
    costs = [np.array(cost) + 0.1 for cost in costs]
    with pytest.raises(TrimformerError) as error:
        allocate(costs, costs, 0.05)
    smallest = float(re.search(r"smallest reachable is ([\d.e+-]+)", str(error.value))[1])
    assert total(costs, allocate(costs, costs, smallest)) <= smallest


def test_free_levels_are_chosen_at_any_budget():
    assert allocate([np.array([3.0, 1.0, 0.0])], [np.array([0.0, 0.0, 5.0])], 1.0) == [1]
