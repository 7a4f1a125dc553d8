import copy
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_model, make_table, pruned, random_masks
from trimformer.costs.cost_tables import Costs
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing
from trimformer.costs.workloads import ForwardPass
from trimformer.evaluation import latency_target
from trimformer.evaluation.latency_target import (
    ComparedLatency,
    LatencyTarget,
    compare_latency,
    corrected_costs,
    interpolated_costs,
)
from trimformer.models import find_sublayers

MODEL = make_model()
STUDENT = pruned(MODEL, random_masks(MODEL))
UNITS = [s.num_units for s in find_sublayers(STUDENT)]
COSTS = make_table(MODEL).costs(MODEL)


@given(pruned_ms=st.floats(0.01, 1e4))
@settings(max_examples=60, deadline=None)
def test_corrected_costs_agree_with_what_was_measured_and_keep_their_proportions(pruned_ms):
    costs = corrected_costs(COSTS, UNITS, pruned_ms)
    assert costs.of(UNITS) == pytest.approx(pruned_ms)
    assert costs.fixed / costs.dense == pytest.approx(COSTS.fixed / COSTS.dense)
    assert costs.measured


def test_costs_that_are_all_fixed_stay_usable():
    flat = Costs([np.zeros(5), np.zeros(41)] * 3, 3.0, True)
    assert corrected_costs(flat, UNITS, 8.0).of(UNITS) == pytest.approx(8.0)


def timing(median, noise=0.01):
    return Timing(median, median * (1 - noise), median * (1 + noise), 21)


def ask(monkeypatch, dense_ms, pruned_ms, constraint, latency_ms=None):
    """What the promise answers to these measurements."""
    seen = ComparedLatency(timing(dense_ms), timing(pruned_ms), timing(pruned_ms / dense_ms))
    monkeypatch.setattr(latency_target, "compare_latency", lambda *_: seen)
    asked = LatencyTarget(MODEL, COSTS, constraint, latency_ms, ForwardPass({}))
    answer = asked(STUDENT)
    assert asked.corrected == (answer is not None)
    assert answer is None or answer[0] is asked.costs
    return answer


@pytest.mark.parametrize("pruned_ms", [4.97, 4.96, 4.87])
def test_a_promise_kept_or_little_better_is_left_alone(monkeypatch, pruned_ms):
    assert ask(monkeypatch, 10.0, pruned_ms, 0.5) is None
    assert ask(monkeypatch, 10.0, pruned_ms, 0.4, latency_ms=5.0) is None


@pytest.mark.parametrize("dense_ms", [4.0, 10.0, 25.0])
@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_after_a_correction_the_estimated_share_is_the_measured_one_however_busy_the_machine(
    monkeypatch, dense_ms, ratio
):
    seen = ComparedLatency(timing(dense_ms), timing(ratio * dense_ms), timing(ratio, noise=0.0))
    monkeypatch.setattr(latency_target, "compare_latency", lambda *_: seen)
    asked = LatencyTarget(MODEL, COSTS, 0.5, None, ForwardPass({}))
    assert asked.share(UNITS) == COSTS.of(UNITS) / COSTS.dense
    assert asked(STUDENT) is not None
    assert asked.share(UNITS) == pytest.approx(ratio)


def test_a_model_that_is_faster_by_less_than_the_noise_is_searched_again(monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        assert ask(monkeypatch, 10.0, 4.99, 0.5) is not None
    assert "latency is 0.2 % below what was requested, less than half of the noise: searching again" in caplog.text


@pytest.mark.parametrize("pruned_ms", [5.04, 5.2, 9.0, 12.0])
def test_a_model_too_slow_is_searched_again(monkeypatch, pruned_ms):
    costs, constraint = ask(monkeypatch, 10.0, pruned_ms, 0.5)
    assert constraint == pytest.approx(min(1.0, 5.0 / costs.dense))
    assert costs.of(UNITS) == pytest.approx(1.01 * pruned_ms)  # the slower end of the interval
    costs, constraint = ask(monkeypatch, 10.0, pruned_ms, 0.4, latency_ms=5.0)
    assert constraint == pytest.approx(min(1.0, 5.0 / costs.dense))
    assert costs.of(UNITS) == pytest.approx(1.01 * pruned_ms)  # the slower end of the interval


@pytest.mark.parametrize("pruned_ms", [4.7, 2.0])
def test_a_model_too_fast_is_searched_again_between_itself_and_the_dense_model(monkeypatch, pruned_ms):
    for request in ({"constraint": 0.5}, {"constraint": 0.4, "latency_ms": 5.0}):
        costs, constraint = ask(monkeypatch, 10.0, pruned_ms, **request)
        assert constraint == pytest.approx(0.5)
        assert costs.dense == pytest.approx(10.0)
        assert costs.of(UNITS) == pytest.approx(1.01 * pruned_ms)
        assert constraint * costs.dense > costs.of(UNITS)


def test_load_of_the_machine_cancels(monkeypatch):
    # By the table the dense model takes 20.6 ms; other jobs slow both models to three times that.
    dense = COSTS.dense
    assert ask(monkeypatch, 3 * dense, 3 * 0.49 * dense, 0.5, latency_ms=0.5 * dense) is None
    # Other jobs ran while the table was measured: milliseconds are counted on the quiet machine.
    costs, constraint = ask(monkeypatch, dense / 2, 0.25 * dense, 0.5, latency_ms=0.375 * dense)
    assert constraint == pytest.approx(0.75)
    assert costs.dense == pytest.approx(dense / 2)


def test_the_latency_of_the_dense_model_takes_nothing_away(monkeypatch):
    assert ask(monkeypatch, 10.0, 10.0, 1.0) is None
    assert ask(monkeypatch, 10.0, 10.0, 0.5, latency_ms=12.0) is None


def test_what_is_left_over_is_a_share_of_the_request():
    target = LatencyTarget(MODEL, COSTS, 0.5, 0.5 * COSTS.dense, ForwardPass({}))
    half = COSTS.dense / 2
    for dense_ms, pruned_ms, left in ((2 * half, half, 0), (6 * half, 2.7 * half, 0.1)):
        latency = ComparedLatency(timing(dense_ms), timing(pruned_ms), timing(pruned_ms / dense_ms))
        target.observe(latency)
        assert target.left_over(latency) == pytest.approx(left)
        assert target.reference_ms == COSTS.dense
    faster = ComparedLatency(timing(1.5 * half), timing(0.75 * half), timing(0.5))
    target.observe(faster)
    assert target.left_over(faster) == pytest.approx(0.25)
    assert target.reference_ms == pytest.approx(1.5 * half)


def test_a_model_grows_once_and_the_dense_model_cannot_grow(monkeypatch):
    seen = ComparedLatency(timing(10.0), timing(2.0), timing(0.2))
    monkeypatch.setattr(latency_target, "compare_latency", lambda *_: seen)
    target = LatencyTarget(MODEL, COSTS, 0.5, None, ForwardPass({}))
    assert target(STUDENT) is not None
    assert target(STUDENT) is None
    assert LatencyTarget(MODEL, COSTS, 0.5, None, ForwardPass({}))(MODEL) is None


@given(few=st.integers(2, 40), smaller=st.floats(0.1, 5.0), more=st.floats(0.1, 5.0))
@settings(max_examples=60, deadline=None)
def test_interpolated_costs_agree_with_both_models(few, smaller, more):
    units = [
        [s.num_units if s.kind == "attention" else width for s in find_sublayers(MODEL)] for width in (few - 1, few)
    ]
    costs = interpolated_costs(COSTS, (units[0], smaller), (units[1], smaller + more))
    assert [costs.of(n) for n in units] == pytest.approx([smaller, smaller + more])


def test_a_model_that_grew_too_much_is_followed_by_one_between_the_two(monkeypatch):
    def measured(_, student, __):
        ratio = 0.5 + 0.5 * (find_sublayers(student)[1].num_units / 40) ** 0.25  # a line to the dense model is below it
        return ComparedLatency(timing(10.0, 0.0), timing(10 * ratio, 0.0), timing(ratio, 0.0))

    monkeypatch.setattr(latency_target, "compare_latency", measured)
    target, widths = LatencyTarget(MODEL, COSTS, 0.88, None, ForwardPass({})), [8]
    sizes = [[width if s.kind == "ffn" else s.num_units for s in find_sublayers(MODEL)] for width in range(41)]
    for _ in range(4):
        masks = [torch.arange(s.num_units) < n for s, n in zip(find_sublayers(MODEL), sizes[widths[-1]], strict=True)]
        answer = target(pruned(MODEL, [mask.float() for mask in masks]))
        if answer is None:
            break
        costs, constraint = answer
        widths.append(max(w for w, units in enumerate(sizes) if costs.of(units) <= constraint * costs.dense))
    assert widths == [8, 16, 13]  # 13.3 would take what is allowed; costs that are scaled would have given 12


def test_a_fraction_is_held_against_the_ratio_and_milliseconds_against_the_fastest_dense_model(monkeypatch):
    # The machine is half as fast as when the table was measured.
    assert ask(monkeypatch, 20.0, 9.8, 0.5) is None
    assert ask(monkeypatch, 20.0, 9.8, 0.5, latency_ms=5.0) is not None


def test_comparing_leaves_both_models_as_they_were():
    model = copy.deepcopy(MODEL).train()
    seen = compare_latency(model, STUDENT, ForwardPass(random_inputs(model, 1, 4)))
    assert model.training
    assert not STUDENT.training
    assert all(p.requires_grad for p in model.parameters())
    assert seen.dense.count == seen.pruned.count == seen.ratio.count
    assert min(seen.dense.median, seen.pruned.median, seen.ratio.median) > 0
    assert torch.is_grad_enabled()
