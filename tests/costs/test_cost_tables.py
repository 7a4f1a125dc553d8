import numpy as np
import pytest

from tests.conftest import make_model, pruned, random_masks
from trimformer.costs.cost_tables import Costs, linear_costs
from trimformer.costs.macs import Positions, model_macs
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers

MEASURED = Costs([np.array([1.0, 3.0, 4.0]), np.array([0.5, 0.5])], fixed=10.0, measured=True)


def test_the_cost_is_the_fixed_part_and_a_level_of_each_sublayer():
    assert MEASURED.of([1, 0]) == 13.5
    assert MEASURED.dense == MEASURED.of([2, 1]) == 14.5
    assert MEASURED.per_unit == [1.5, 0.0]


@pytest.mark.parametrize("units", [[1], [1, 0, 0]])
def test_every_sublayer_needs_its_number_of_units(units):
    with pytest.raises(ValueError, match="zip"):
        MEASURED.of(units)


def test_macs_of_the_units_left_are_those_of_the_shrunk_model():
    model = make_model()
    costs, masks = linear_costs(find_sublayers(model), "mac", 12.5), random_masks(model)
    left = [int(mask.sum()) for mask in masks]
    assert costs.of(left) == pytest.approx(model_macs(find_sublayers(pruned(model, masks)), 12.5))
    assert costs.dense == pytest.approx(model_macs(find_sublayers(model), 12.5))
    assert not costs.measured


def test_parameters_saved_are_those_of_the_shrunk_model():
    model = make_model()
    costs, masks = linear_costs(find_sublayers(model), "parameters", 1), random_masks(model)
    saved = costs.dense - costs.of(int(mask.sum()) for mask in masks)
    small = pruned(model, masks)
    assert saved == sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in small.parameters())


def test_a_sublayer_that_is_empty_costs_nothing():
    model = make_model()
    masks = random_masks(model)
    masks[0].zero_()
    costs = linear_costs(find_sublayers(pruned(model, masks)), "mac", 10)
    assert costs.levels[0].tolist() == [0.0]
    assert costs.per_unit[0] == 0.0


@pytest.mark.parametrize("metric", ["macs", "MAC", "memory", "latency", None])
def test_a_metric_that_is_not_linear_is_refused(metric):
    with pytest.raises(TrimformerError, match="of the metric 'mac' or 'parameters'"):
        linear_costs(find_sublayers(make_model()), metric, 10)


def test_lengths_are_any_positive_numbers():
    sublayers = find_sublayers(make_model())
    expected = linear_costs(sublayers, "mac", 10).dense
    for lengths in (np.int64(10), np.full(len(sublayers), 10.0), iter([10] * len(sublayers)), [Positions(10)] * 6):
        assert linear_costs(sublayers, "mac", lengths).dense == expected
    assert linear_costs(sublayers, "parameters", 0).dense > 0
    for length in (0, -5, float("nan"), float("inf")):
        with pytest.raises(TrimformerError, match="give a positive number"):
            linear_costs(sublayers, "mac", length)
