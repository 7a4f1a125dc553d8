import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.costs.latency_model import LatencyFn, estimate_latency, fit_latency_fn

NUMBERS = st.floats(1e-6, 1e12)
TABLES = st.one_of(
    st.lists(NUMBERS, min_size=1, max_size=40),
    st.lists(NUMBERS, min_size=1, max_size=40).map(lambda values: sorted(values, reverse=True)),
    st.builds(lambda value, size: [value] * size, NUMBERS, st.integers(1, 40)),
    st.lists(st.floats(1e150, 1e308), min_size=1, max_size=5),
)


@given(
    size=st.integers(1, 60),
    threshold=st.integers(1, 60),
    base=st.floats(1e-3, 1e6),
    slope=st.floats(0, 1e6),
)
@settings(max_examples=60, deadline=None)
def test_a_flat_then_linear_table_is_found_again(size, threshold, base, slope):
    table = [LatencyFn(threshold, base, slope)(k) for k in range(1, size + 1)]
    found = fit_latency_fn(table)
    np.testing.assert_allclose([found(k) for k in range(1, size + 1)], table, rtol=1e-6)


@pytest.mark.parametrize("threshold", [1, 2, 5, 9])
def test_the_threshold_is_the_last_flat_entry(threshold):
    expected = LatencyFn(threshold, 3.0, 2.0)
    assert fit_latency_fn([expected(k) for k in range(1, 11)]) == expected


@pytest.mark.parametrize("size", [1, 2, 37])
def test_a_flat_table_is_flat_to_its_end(size):
    assert fit_latency_fn([2.0] * size) == LatencyFn(size, 2.0, 0.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # huge values overflow when squared
@given(table=TABLES)
@settings(max_examples=80, deadline=None)
def test_every_table_gets_a_function_that_can_be_used(table):
    found = fit_latency_fn(table)
    assert 1 <= found.threshold <= len(table)
    assert 0 <= found.slope < np.inf
    assert 0 < found.base < np.inf
    assert found(0) == 0.0
    assert found(1) <= found(len(table))


@given(seed=st.integers(0, 999), size=st.integers(3, 50))
@settings(max_examples=30, deadline=None)
def test_no_other_threshold_fits_better(seed, size):
    table = np.random.default_rng(seed).random(size) + 0.1

    def error(function):
        return sum((function(k + 1) - value) ** 2 for k, value in enumerate(table))

    least = error(fit_latency_fn(table))
    for threshold in range(1, size + 1):
        base = float(table[:threshold].mean())
        assert all(least <= error(LatencyFn(threshold, base, slope)) + 1e-9 for slope in np.linspace(0, 1, 11))


def test_lists_tensors_and_arrays_are_the_same():
    table = [1.0, 1.0, 2.0, 3.0]
    assert fit_latency_fn(table) == fit_latency_fn(torch.tensor(table)) == fit_latency_fn(np.array(table))


def test_the_estimate_is_the_sum_of_the_entries():
    heads = [torch.tensor([1.0, 0.0, 0.5]), torch.zeros(3)]
    neurons = [torch.tensor([0.0, 1.0]), torch.ones(2)]
    # 2 heads and none; 1 neuron and 2
    assert estimate_latency([10.0, 20.0, 40.0], [1.0, 3.0], heads, neurons) == 20.0 + 0.0 + 1.0 + 3.0


def test_the_estimate_takes_stacked_masks_and_tensors():
    tables = torch.tensor([10.0, 20.0]), torch.tensor([1.0, 3.0])
    assert estimate_latency(*tables, torch.ones(3, 2), torch.zeros(3, 2)) == 60.0
