import copy
import math
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.commands import outputs
from tests.conftest import FAMILIES, make_model, pruned, random_masks
from trimformer.costs import timing as timing_module
from trimformer.costs.latency_bench import resized
from trimformer.costs.latency_fits import first_grid, fit_line, monotone
from trimformer.costs.lookup_tables import check_table
from trimformer.costs.measure_latency import check_reachable, measure_table
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing
from trimformer.costs.workloads import ForwardPass
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import Backend


def measure(model, **options):
    return measure_table(model, 2, 8, **{"seconds": 0.5, **options})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_has_a_latency_for_every_number_of_units(family):
    model = make_model(family)
    table = measure(model)
    assert {kind: len(levels) for kind, levels in table.levels.items()} == {"attention": 5, "ffn": 41}
    for levels in table.levels.values():
        assert np.isfinite(levels).all()
        assert (levels > 0).all()
    assert 0 <= table.fixed < math.inf
    check_table(table, model)


class FakeMachine:
    """A clock that advances by 1 ms for each 1,000 products of a linear layer, times the load at that moment."""

    def __init__(self, monkeypatch, load):
        self.seconds, self.load = 0.0, load
        monkeypatch.setattr(timing_module, "now", lambda: self.seconds)
        compute = torch.nn.Linear.forward

        def forward(linear, x):
            self.seconds += 1e-6 * x.numel() * linear.out_features * self.load(self.seconds)
            return compute(linear, x)

        monkeypatch.setattr(torch.nn.Linear, "forward", forward)


def fake_table(monkeypatch, load):
    with monkeypatch.context() as patch:
        FakeMachine(patch, load)
        return measure_table(make_model(), 2, 8, seconds=1e9)


def test_a_table_is_the_same_where_another_job_starts_or_comes_and_goes(monkeypatch):
    quiet = fake_table(monkeypatch, lambda _: 1.0)
    seconds = quiet.costs(make_model()).dense / 1e3
    # It starts early on, and there is a step for a few passes at a time.
    for load in (lambda now: 1.0 if now < 40 * seconds else 3.0, lambda now: 1.0 + 2.0 * (now // (30 * seconds) % 2)):
        busy = fake_table(monkeypatch, load)
        dense = busy.costs(make_model()).dense
        assert 0.999 < dense / quiet.costs(make_model()).dense < 3.001
        for units in ([4, 40] * 3, [2, 20] * 3, [1, 8, 4, 32, 0, 0], [0, 0, 0, 0, 0, 1]):
            share = quiet.costs(make_model()).of(units) / quiet.costs(make_model()).dense
            assert busy.costs(make_model()).of(units) / dense == pytest.approx(share, abs=0.02)


def test_a_table_adds_up_to_the_measured_dense_model(monkeypatch):
    inputs, model = random_inputs(make_model(), 2, 8), make_model()
    with monkeypatch.context() as patch:
        machine = FakeMachine(patch, lambda _: 2.0)
        outputs(model, inputs)
        dense = 1e3 * machine.seconds
    assert fake_table(monkeypatch, lambda _: 2.0).costs(model).dense == pytest.approx(dense)


@pytest.mark.parametrize("request_", [BudgetRequest(ms=5.0), BudgetRequest(0.002)])
def test_a_latency_below_the_empty_model_is_refused_before_a_table(monkeypatch, request_):
    # The dense model takes 2 s; pooler and classifier 13 ms, 0.6 % of it.
    FakeMachine(monkeypatch, lambda _: 10.0)
    with pytest.raises(TrimformerError, match=r"cannot be reached; the smallest reachable is above .* \([\d.]+ ms\)"):
        check_reachable(make_model(), ForwardPass(random_inputs(make_model(), 2, 8)), [BudgetRequest(0.9), request_])


def test_a_latency_above_the_dense_model_is_refused_and_those_between_are_not(monkeypatch):
    FakeMachine(monkeypatch, lambda _: 1.0)
    model, inputs = make_model(), random_inputs(make_model(), 2, 8)
    check_reachable(model, ForwardPass(inputs), [BudgetRequest(ms=100.0), BudgetRequest(ms=20.0), BudgetRequest(1.0)])
    with pytest.raises(TrimformerError, match="the dense model takes 204 ms already; ask for less"):
        check_reachable(model, ForwardPass(inputs), [BudgetRequest(ms=300.0)])


def test_what_was_measured_lies_within_its_interval():
    table = measure(make_model())
    for kind, units in (("attention", {0, 1, 2, 3, 4}), ("ffn", {0, 1, 32, 40})):
        rows = table.measured[kind]
        assert {row[0] for row in rows} >= units
        assert all(low <= median <= high and count >= 1 for _, median, low, high, count in rows)


def test_measuring_leaves_the_model_as_it_was():
    model = make_model().train()
    model.classifier.requires_grad_(False)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    parameters = list(model.parameters())
    measure(model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert model.config.to_dict() == config
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.classifier.parameters()] == [False, False]
    assert all(p.requires_grad for p in model.base_model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model(**random_inputs(model, 1, 4)).logits.sum().backward()  # nothing became an inference tensor


def test_a_model_that_was_pruned_can_be_measured():
    model = make_model()
    masks = random_masks(model)
    masks[2].zero_()
    small = pruned(model, masks)
    table, widest = measure(small), {"attention": 0, "ffn": 0}
    for sublayer in find_sublayers(small):
        widest[sublayer.kind] = max(widest[sublayer.kind], sublayer.num_units)
    assert {kind: len(levels) - 1 for kind, levels in table.levels.items()} == widest
    assert 0 < table.costs(small).dense < math.inf


def test_halves_can_be_measured():
    assert measure(make_model().to(torch.bfloat16)).setting["dtype"] == "bfloat16"


def test_the_passes_can_be_watched():
    seen = []
    measure(make_model(), progress=lambda passes: (seen.append(i) or i for i in passes))
    assert seen == list(range(1, len(seen) + 1))
    assert seen


@pytest.mark.parametrize("backend", ["tensorrt", ""])
def test_an_unknown_backend_is_refused(backend):
    with pytest.raises(TrimformerError, match=f"backend '{backend}' is unknown; known are eager, compile, onnx"):
        measure(make_model(), backend=backend)


@pytest.mark.parametrize("shape", [(0, 8), (-1, 8), (2, 0), (2, -3), (2, 65)])
def test_a_shape_that_cannot_be_run_is_refused(shape):
    with pytest.raises(TrimformerError, match=rf"{shape[0]} and length {shape[1]} cannot be timed.*64 tokens"):
        measure_table(make_model(), *shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_sequences_that_are_taken_can_be_run(family):
    model = make_model(family)
    longest = 64 if family in ("Bert", "DistilBert", "Electra") else 62  # RoBERTa's first position is 2
    with pytest.raises(TrimformerError, match=f"up to {longest} tokens"):
        random_inputs(model, 2, longest + 1)
    assert outputs(model, random_inputs(model, 2, longest))[0].isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resized_copy_computes_what_a_shrunk_model_does_and_leaves_the_model_alone(family):
    model, units = make_model(family), [1, 7, 4, 40, 0, 0]
    before = {name: (id(p), p.shape) for name, p in model.named_parameters()}
    small = resized(model, units)
    masks = [(torch.arange(s.num_units) < kept).float() for s, kept in zip(find_sublayers(model), units, strict=True)]
    inputs = random_inputs(model, 2, 8)
    torch.testing.assert_close(outputs(small, inputs), outputs(pruned(model, masks), inputs), atol=0, rtol=0)
    assert {name: (id(p), p.shape) for name, p in model.named_parameters()} == before
    assert [s.num_units for s in find_sublayers(model)] == [4, 40] * 3


def test_a_resized_copy_shares_what_it_does_not_shrink():
    model = make_model()
    small = resized(model, [2, 20] * 3)
    assert small.get_input_embeddings().weight is model.get_input_embeddings().weight
    assert find_sublayers(small)[0].projection.weight is not find_sublayers(model)[0].projection.weight


def timing(median, spread, count=12):
    return Timing(median, median - spread, median + spread, count)


MEDIANS = st.lists(st.floats(0.1, 10), min_size=1, max_size=30)


@given(medians=MEDIANS)
@settings(max_examples=40, deadline=None)
def test_a_table_never_falls_where_the_noise_could_be_the_cause(medians):
    fit = monotone([timing(median, 100.0) for median in medians])
    assert (np.diff(fit) >= -1e-12).all()
    assert min(medians) - 1e-9 <= fit.min()
    assert fit.max() <= max(medians) + 1e-9


@given(medians=MEDIANS)
@settings(max_examples=40, deadline=None)
def test_medians_that_rise_are_left_alone(medians):
    fit = monotone([timing(median, 0.01) for median in sorted(medians)])
    np.testing.assert_allclose(fit, sorted(medians))


def test_a_dip_beyond_the_noise_stays():
    # 32 units are faster than 31, as tiles go.
    timings = [timing(1.0, 0.01), timing(3.0, 0.01), timing(2.0, 0.01), timing(4.0, 0.01)]
    assert monotone(timings).tolist() == [1.0, 3.0, 2.0, 4.0]
    timings[1:3] = [timing(3.0, 0.01, count=2), timing(2.0, 0.01, count=2)]  # too few to tell
    assert monotone(timings).tolist() == [1.0, 2.5, 2.5, 4.0]


@given(intercept=st.floats(0, 100), slope=st.floats(0.01, 100), start=st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_an_exact_line_is_found_again(intercept, slope, start):
    x = [start, 2 * start, 4 * start]
    found = fit_line(x, [intercept + slope * value for value in x])
    assert found == pytest.approx((intercept, slope), rel=1e-5, abs=1e-5 * slope * start)


@pytest.mark.parametrize("y", [[0.5, 1.5, 3.5], [4.0, 2.0, 1.0], [2.0, 2.0, 1.9]])
def test_neither_intercept_nor_slope_is_negative(y):
    intercept, slope = fit_line([1.0, 2.0, 4.0], y)
    assert intercept >= 0
    assert slope > 0


@pytest.mark.parametrize("kind", ["attention", "ffn"])
def test_a_grid_begins_with_none_and_ends_with_all(kind):
    for units, backend in product([1, 2, 12, 16, 31, 32, 40, 1000, 3072], get_args(Backend)):
        grid = first_grid(kind, units, backend)
        assert grid == sorted(set(grid))
        assert (grid[0], grid[-1]) == (0, units)
        assert len(grid) <= 27
        assert kind == "attention" or all(k % 32 == 0 for k in grid[2:-1])
