import pickle
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_batch, make_model
from trimformer.allocation.allocations import ALLOCATIONS, ffn_levels, select_masks, smallest_constraint, unit_levels
from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.errors import TrimformerError, UnreachableError
from trimformer.importance.criteria import CRITERIA, magnitude_importance
from trimformer.importance.obs import importance_curve
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS, Allocation, Criterion, Method, Update, find_method
from trimformer.pruner import Pruner
from trimformer.refit.updates import UPDATES

SUBLAYERS = find_sublayers(make_model())


def cost_of(masks, costs):
    return costs.of(int(mask.count_nonzero()) for mask in masks)


def cost_left(model, costs):
    return costs.of(s.num_units for s in find_sublayers(model))


@given(st.sampled_from(get_args(Allocation)), st.floats(0.01, 1.0), st.sampled_from(["mac", "parameters"]))
@settings(max_examples=40, deadline=None)
def test_no_allocation_exceeds_the_budget(allocation, constraint, metric):
    costs = linear_costs(SUBLAYERS, metric, 10)
    curves = [importance_curve(magnitude_importance(s).detach()) for s in SUBLAYERS]
    if constraint < smallest_constraint(allocation, SUBLAYERS, costs, 8):
        return
    masks = select_masks(allocation, SUBLAYERS, curves, costs, constraint=constraint, neuron_multiple=8)
    assert cost_of(masks, costs) <= constraint * costs.dense * (1 + 1e-9)


@pytest.mark.parametrize("allocation", get_args(Allocation))
@pytest.mark.parametrize("constraint", [0.3, 0.5, 0.8])
def test_the_budget_holds_if_one_tower_has_longer_inputs(allocation, constraint):
    costs = linear_costs(SUBLAYERS, "mac", [10.0] * 2 + [50.0] * 4)
    curves = [importance_curve(magnitude_importance(s).detach()) for s in SUBLAYERS]
    constraint = max(constraint, smallest_constraint(allocation, SUBLAYERS, costs, 1))
    masks = select_masks(allocation, SUBLAYERS, curves, costs, constraint=constraint, neuron_multiple=1)
    assert cost_of(masks, costs) <= constraint * costs.dense * (1 + 1e-9)
    if allocation in ("dp", "global"):  # the others use one size for all layers
        assert cost_of(masks, costs) >= 0.95 * constraint * costs.dense


def costs_of_kind(kind):
    """Costs in proportion to units, the same beside a fixed cost, or a latency table that is flat at first."""
    linear = linear_costs(SUBLAYERS, "mac", 10)
    if kind == "linear":
        return linear
    if kind == "fixed":
        return Costs(linear.levels, 0.7 * linear.dense)
    table = {width: np.r_[0.1, np.maximum(1.0, np.linspace(0, 3, width + 1)[1:])] for width in (4, 40)}
    return Costs([table[s.num_units] for s in SUBLAYERS], 10.0, True)


@pytest.mark.parametrize("kind", ["linear", "fixed", "measured"])
@pytest.mark.parametrize("allocation", get_args(Allocation))
def test_the_smallest_constraint_keeps_a_unit_and_the_budget(allocation, kind):
    costs = costs_of_kind(kind)
    curves = [importance_curve(magnitude_importance(s).detach()) for s in SUBLAYERS]
    smallest = smallest_constraint(allocation, SUBLAYERS, costs, 8)
    for constraint in (smallest * 1.0001, (1 + smallest) / 2):
        masks = select_masks(allocation, SUBLAYERS, curves, costs, constraint=constraint, neuron_multiple=8)
        assert sum(float(mask.sum()) for mask in masks) >= 1
        assert cost_of(masks, costs) <= constraint * costs.dense * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["fixed", "measured"])
@pytest.mark.parametrize("allocation", ["dp", "global"])
def test_an_unreachable_budget_names_a_fraction_of_the_dense_cost(allocation, kind):
    costs = costs_of_kind(kind)
    curves = [importance_curve(magnitude_importance(s).detach()) for s in SUBLAYERS]
    select = partial(select_masks, allocation, SUBLAYERS, curves, costs, neuron_multiple=8)
    with pytest.raises(UnreachableError, match=r"constraint 0\.3 cannot be reached") as error:
        select(constraint=0.3)
    select(constraint=error.value.smallest)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    with pytest.raises(UnreachableError):
        select(constraint=0.98 * error.value.smallest)


def test_dp_keeps_multiples_of_neurons_or_all():
    ffn = next(s for s in SUBLAYERS if s.kind == "ffn")
    assert unit_levels(ffn, 16).tolist() == [0, 16, 32, 40]
    assert unit_levels(SUBLAYERS[0], 16).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("share", [1.0001, 1.2, 1.6])
def test_the_layout_ffn_keeps_all_heads_and_some_neurons_in_each_layer(share):
    costs = linear_costs(SUBLAYERS, "mac", 10)
    curves = [importance_curve(magnitude_importance(s).detach()) for s in SUBLAYERS]
    constraint = smallest_constraint("ffn", SUBLAYERS, costs, 8) * share
    masks = select_masks("ffn", SUBLAYERS, curves, costs, constraint=constraint, neuron_multiple=8)
    for s, mask in zip(SUBLAYERS, masks, strict=True):
        assert mask.all() if s.kind == "attention" else mask.sum() in (8, 16, 24, 32, 40)


def test_a_sublayer_without_units_has_one_level_in_the_layout_ffn():
    for neurons, levels in ((0, [0]), (16, [16]), (40, [16, 32, 40])):
        assert ffn_levels(SimpleNamespace(kind="ffn", num_units=neurons), 16).tolist() == levels


def test_importance_curves_sum_the_removed_units():
    curve = importance_curve(torch.tensor([3.0, 1.0, 2.0]))
    assert curve.error.tolist() == [6.0, 3.0, 1.0, 0.0]
    assert curve.mask(1).tolist() == [1.0, 0.0, 0.0]


GRID = [
    Method(criterion, allocation, update)
    for criterion, allocation, update in product(get_args(Criterion), get_args(Allocation), get_args(Update))
    if (allocation, update) != ("plain", "bias")  # a plain config has no room for new biases
]


@pytest.mark.parametrize("method", GRID, ids=lambda m: f"{m.criterion}-{m.allocation}-{m.update}")
def test_every_point_of_the_grid_prunes_within_the_budget(method):
    model, batch = make_model(), make_batch(batch=24)
    costs = linear_costs(find_sublayers(model), "mac", 10)
    constraint = max(0.5, smallest_constraint(method.allocation, find_sublayers(model), costs, 8))
    pruned = Pruner(model, [batch], method, neuron_multiple=8)(costs, constraint)
    units = [int(mask.count_nonzero()) for mask in pruned.masks]
    assert 0 < costs.of(units) <= constraint * costs.dense * (1 + 1e-12)
    shrunk_units = [s.num_units for s in find_sublayers(pruned.model)]  # a plain layout removes whole layers
    assert shrunk_units == ([k for k in units if k] if method.allocation == "plain" else units)
    assert len(pruned.refits) == (0 if method.update in ("none", "bias") else 6)


def test_one_calibration_serves_every_budget():
    model, batch = make_model(), make_batch(batch=24)
    costs = linear_costs(find_sublayers(model), "mac", 10)
    pruner = Pruner(model, [batch], METHODS["obs"], neuron_multiple=8)
    macs = [cost_left(pruner(costs, c).model, costs) for c in (0.3, 0.6, 0.9, 0.3)]
    assert macs[0] < macs[1] < macs[2]
    assert macs[3] == macs[0]


@pytest.mark.parametrize("choice", ["criterion", "allocation", "update", "objective"])
def test_an_unknown_choice_is_an_error(choice):
    with pytest.raises(TrimformerError, match=f"{choice} 'x' is unknown"):
        Method(**{choice: "x"})


def test_every_choice_has_a_function():
    for registry, names in ((CRITERIA, Criterion), (ALLOCATIONS, Allocation), (UPDATES, Update)):
        assert set(registry) == set(get_args(names))


def test_a_method_of_one_piece_has_no_choices():
    with pytest.raises(TrimformerError, match="'kprune' does not accept --update"):
        find_method("kprune", update="full")


def test_curves_never_rise_with_more_units():
    curve = importance_curve(torch.rand(20))
    assert (np.diff(curve.error.numpy()) <= 0).all()
