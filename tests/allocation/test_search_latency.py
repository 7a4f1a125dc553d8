import re
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.allocation.brute import candidate_masks
from tests.conftest import make_model
from trimformer.allocation.allocations import select_masks, smallest_constraint, unit_levels
from trimformer.allocation.search_latency import search_latency
from trimformer.costs.cost_tables import Costs
from trimformer.costs.latency_model import LatencyFn, estimate_latency, fit_latency_fn
from trimformer.errors import TrimformerError
from trimformer.importance.obs import importance_curve
from trimformer.models import find_sublayers

LAYERS, HEADS, NEURONS = 2, 3, 4


def tables(size):
    """Returns noisy latencies, increasing or not."""
    return st.lists(st.floats(0.1, 100), min_size=size, max_size=size).flatmap(
        lambda values: st.sampled_from([values, sorted(values)])
    )


SCORES = st.lists(st.integers(0, 9), min_size=LAYERS * (HEADS + NEURONS), max_size=LAYERS * (HEADS + NEURONS))


def split(scores):
    values = torch.tensor(scores, dtype=torch.float32)
    return values[: LAYERS * HEADS].view(LAYERS, HEADS), values[LAYERS * HEADS :].view(LAYERS, NEURONS)


def dense(mha_lut, ffn_lut):
    return LAYERS * (mha_lut[-1] + ffn_lut[-1])


@given(mha_lut=tables(HEADS), ffn_lut=tables(NEURONS), scores=SCORES, constraint=st.floats(0.01, 1))
@settings(max_examples=100, deadline=None)
def test_the_tables_own_latency_is_never_above_the_budget(mha_lut, ffn_lut, scores, constraint):
    try:
        masks = search_latency(*split(scores), mha_lut, ffn_lut, constraint=constraint)  # type: ignore[call-arg]
    except TrimformerError:
        return
    assert estimate_latency(mha_lut, ffn_lut, *masks) <= constraint * dense(mha_lut, ffn_lut) * (1 + 1e-9)
    assert sum(float(mask.sum()) for rows in masks for mask in rows) >= 1


@given(mha_lut=tables(HEADS), ffn_lut=tables(NEURONS), scores=SCORES)
@settings(max_examples=60, deadline=None)
def test_constraint_one_keeps_everything(mha_lut, ffn_lut, scores):
    heads, neurons = search_latency(*split(scores), mha_lut, ffn_lut, constraint=1.0)  # type: ignore[call-arg]
    assert torch.cat([*heads, *neurons]).all()


# Integers, so that the fitted functions are exact.
FUNCTIONS = st.builds(LatencyFn, st.integers(1, 3), st.integers(1, 9).map(float), st.sampled_from([0.0, 1.0, 2.0, 5.0]))


@given(head_fn=FUNCTIONS, neuron_fn=FUNCTIONS, scores=SCORES, constraint=st.floats(0.05, 1))
@settings(max_examples=60, deadline=None)
def test_importance_equals_brute_force_where_tables_are_flat_then_linear(head_fn, neuron_fn, scores, constraint):
    heads, neurons = split(scores)
    luts = [head_fn(k + 1) for k in range(HEADS)], [neuron_fn(k + 1) for k in range(NEURONS)]
    head_fn, neuron_fn = map(fit_latency_fn, luts)  # the same, except for a table that is flat throughout
    budget = constraint * dense(*luts) * (1 + 1e-12)
    pairs = product(candidate_masks(heads.tolist(), head_fn), candidate_masks(neurons.tolist(), neuron_fn))
    best = max((a[0] + b[0] for a, b in pairs if a[1] + b[1] <= budget and a[2] + b[2]), default=None)
    if best is None:
        with pytest.raises(TrimformerError, match="smallest reachable"):
            search_latency(heads, neurons, *luts, constraint=constraint)
        return
    masks = search_latency(heads, neurons, *luts, constraint=constraint)
    assert float((torch.stack(masks[0]) * heads).sum() + (torch.stack(masks[1]) * neurons).sum()) == best


@given(mha_lut=tables(HEADS), ffn_lut=tables(NEURONS), scores=SCORES, constraint=st.floats(0.001, 1))
@settings(max_examples=100, deadline=None)
def test_unreachable_names_a_larger_constraint_that_can_be_reached(mha_lut, ffn_lut, scores, constraint):
    try:
        search_latency(*split(scores), mha_lut, ffn_lut, constraint=constraint)  # type: ignore[call-arg]
    except TrimformerError as error:
        smallest = float(re.search(r"smallest reachable is ([\d.e+-]+)", str(error))[1])
        assert smallest > constraint
        heads, neurons = search_latency(*split(scores), mha_lut, ffn_lut, constraint=smallest)  # type: ignore[call-arg]
        assert torch.cat([*heads, *neurons]).sum() >= 1


def test_whole_sublayers_are_dropped_if_only_that_saves_time():
    heads, neurons = split([1, 1, 1, 2, 2, 2, 9, 0, 0, 0, 3, 3, 3, 3])
    # The budget is 5 of 10 ms: the most important sublayer of each kind remains.
    masks = search_latency(heads, neurons, [2.0] * HEADS, [3.0] * NEURONS, constraint=0.5)
    assert [mask.tolist() for rows in masks for mask in rows] == [[0.0] * 3, [1.0] * 3, [0.0] * 4, [1.0] * 4]


@given(scores=SCORES, constraint=st.floats(0.25, 1), threshold=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_sublayer_keeps_nothing_or_at_least_its_base_units(scores, constraint, threshold):
    luts = [[LatencyFn(threshold, 4.0, 1.0)(k + 1) for k in range(size)] for size in (HEADS, NEURONS)]
    for rows in search_latency(*split(scores), *luts, constraint=constraint):
        assert all(mask.sum() == 0 or mask.sum() >= threshold for mask in rows)


def test_the_best_units_of_each_sublayer_are_kept():
    heads, neurons = split([5, 1, 3, 2, 4, 6, 1, 2, 3, 4, 8, 7, 6, 5])
    for rows, scores in zip(
        search_latency(heads, neurons, [1.0, 2.0, 3.0], [1.0, 1.0, 2.0, 3.0], constraint=0.6),
        (heads, neurons),
        strict=True,
    ):
        for mask, score in zip(rows, scores, strict=True):
            assert mask.bool().all() or not mask.any() or score[mask == 1].min() > score[mask == 0].max()


def test_layers_of_different_width_keep_their_widths():
    heads, neurons = [torch.rand(3), torch.rand(0), torch.rand(2)], [torch.rand(5), torch.rand(7), torch.rand(0)]
    kept = search_latency(heads, neurons, [1.0, 2.0, 3.0], np.linspace(1, 3, 7), constraint=0.5)
    assert [[len(mask) for mask in masks] for masks in kept] == [[3, 0, 2], [5, 7, 0]]


# The "dp" allocation uses the table itself.

SUBLAYERS = find_sublayers(make_model(num_hidden_layers=2))  # 4 heads, 40 neurons each


def measured(seed):
    """Returns costs that increase irregularly, and curves of random units."""
    rng = np.random.default_rng(seed)
    widths = [s.num_units for s in SUBLAYERS]
    levels = [np.cumsum(rng.random(width + 1) * (rng.random(width + 1) < 0.5)) + rng.random() for width in widths]
    return Costs(levels, float(rng.random()), True), [importance_curve(torch.tensor(rng.random(w))) for w in widths]


def select(allocation, costs, curves, constraint):
    masks = select_masks(allocation, SUBLAYERS, curves, costs, constraint=constraint, neuron_multiple=8)
    return [int(mask.sum()) for mask in masks]


@given(seed=st.integers(0, 999), share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_dp_on_a_measured_table_equals_brute_force(seed, share):
    costs, curves = measured(seed)
    smallest = smallest_constraint("dp", SUBLAYERS, costs, 8) * 1.0001
    constraint = smallest + share * max(1 - smallest, 0)
    units = select("dp", costs, curves, constraint)
    assert costs.of(units) <= constraint * costs.dense * (1 + 1e-9)

    levels = [unit_levels(s, 8) for s in SUBLAYERS]
    price, error = (
        sum(np.ix_(*(values[level] for values, level in zip(rows, levels, strict=True))))
        for rows in (costs.levels, [curve.error.numpy() for curve in curves])
    )
    # Tolerance for rounding to buckets.
    budget = constraint * costs.dense - costs.fixed - len(SUBLAYERS) / 20_000 * (constraint * costs.dense)
    found = sum(float(curve.error[k]) for curve, k in zip(curves, units, strict=True))
    assert found <= error[price <= budget].min(initial=np.inf) + 1e-9


@pytest.mark.parametrize("allocation", ["dp", "uniform", "global"])
@given(seed=st.integers(0, 999), constraint=st.floats(0.01, 1))
@settings(max_examples=40, deadline=None)
def test_no_allocation_exceeds_a_measured_budget(allocation, seed, constraint):
    costs, curves = measured(seed)
    if allocation == "global":  # one table for all sublayers of a kind
        costs = Costs([costs.levels[i % 2] for i in range(4)], costs.fixed, True)
    if constraint < smallest_constraint(allocation, SUBLAYERS, costs, 8):
        return
    try:
        units = select(allocation, costs, curves, constraint)
    except TrimformerError:
        assert allocation == "global"  # its model of the table may be coarser than the table
        return
    assert costs.of(units) <= constraint * costs.dense * (1 + 1e-9)


@pytest.mark.parametrize("allocation", ["dp", "uniform", "global"])
def test_a_full_budget_keeps_everything(allocation):
    costs, curves = measured(3)
    if allocation == "global":
        costs = Costs([costs.levels[i % 2] for i in range(4)], costs.fixed, True)
    assert select(allocation, costs, curves, 1.0) == [4, 40, 4, 40]


@pytest.mark.parametrize("allocation", ["dp", "global"])
def test_sublayers_of_constant_cost_are_kept_whole_or_dropped(allocation):
    _, curves = measured(0)
    flat = Costs([np.array([0.0, *[1.0] * s.num_units]) for s in SUBLAYERS], 0.5, True)
    units = select(allocation, flat, curves, 0.6)
    assert sorted(units) in ([0, 0, 4, 40], [0, 0, 40, 40], [0, 0, 4, 4])
    assert flat.of(units) == 2.5
