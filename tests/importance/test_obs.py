import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.importance.obs import importance_curve, obs_curve
from trimformer.importance.second_moments import SublayerMoments

RIDGE = 1e-2
SHAPES = st.sampled_from([(1, 7), (2, 4), (3, 3)])  # unit size, units


def system(unit_size, units, seed=0, hidden=5, dead=0):
    """Returns the moments of 40 random tokens, and a weight; the last `dead` units are always zero."""
    generator = torch.Generator().manual_seed(seed)
    channels = unit_size * units
    x = torch.randn(40, channels, generator=generator, dtype=torch.float64)
    x = x @ (torch.eye(channels) + 0.4 * torch.randn(channels, channels, generator=generator)).double()
    x[:, channels - dead * unit_size :] = 0
    g = torch.randn(40, hidden, generator=generator, dtype=torch.float64)
    moments = SublayerMoments(x.T @ x, g.T @ g, count=40, weight_sum=40.0, token_norms=[])
    return moments, torch.randn(hidden, channels, generator=generator)


def ridged(moments):
    h = (moments.inputs / moments.weight_sum).numpy()
    return h + RIDGE * np.trace(h) / len(h) * np.eye(len(h))


def brute_force(moments, weight, unit_size, removed):
    """Returns the least 1/2 tr(G D H D^T) over all changes D of the weight that zero the removed columns."""
    w, g = weight.double().numpy(), (moments.gradients / moments.count).numpy()
    root = np.linalg.cholesky(ridged(moments)).T  # H = root^T root
    out = [u * unit_size + c for u in removed for c in range(unit_size)]
    rest = [c for c in range(w.shape[1]) if c not in out]
    change = np.zeros_like(w)
    change[:, out] = -w[:, out]
    change[:, rest] = np.linalg.lstsq(root[:, rest], root[:, out] @ w[:, out].T, rcond=None)[0].T
    return 0.5 * np.trace(g @ change @ ridged(moments) @ change.T)


@given(shape=SHAPES, seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_the_first_removal_is_the_cheapest_by_brute_force(shape, seed):
    moments, weight = system(*shape, seed)  # type: ignore[call-arg]
    curve = obs_curve(moments, weight, shape[0], RIDGE, step=1)
    costs = [brute_force(moments, weight, shape[0], [u]) for u in range(shape[1])]
    assert int(curve.order[0]) == int(np.argmin(costs))
    assert float(curve.error[-2]) == pytest.approx(min(costs))


@given(shape=SHAPES, seed=st.integers(0, 999), step=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_every_point_of_the_curve_is_the_joint_cost_of_its_removals(shape, seed, step):
    moments, weight = system(*shape, seed)  # type: ignore[call-arg]
    curve = obs_curve(moments, weight, shape[0], RIDGE, step=step)
    for kept in range(shape[1]):
        removed = curve.order[: shape[1] - kept].tolist()
        assert float(curve.error[kept]) == pytest.approx(brute_force(moments, weight, shape[0], removed), rel=1e-6)


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize(("unit_size", "units"), [(1, 9), (3, 3)])
def test_removing_everything_costs_the_whole_quadratic_form(unit_size, units, step):
    moments, weight = system(unit_size, units)
    w, g = weight.double().numpy(), (moments.gradients / 40).numpy()
    expected = 0.5 * np.trace(g @ w @ ridged(moments) @ w.T)
    assert float(obs_curve(moments, weight, unit_size, RIDGE, step=step).error[0]) == pytest.approx(expected)


@given(shape=SHAPES, seed=st.integers(0, 999), step=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_error_falls_with_units_kept_down_to_zero(shape, seed, step):
    curve = obs_curve(*system(*shape, seed), shape[0], RIDGE, step=step)  # type: ignore[call-arg]
    assert sorted(curve.order.tolist()) == list(range(shape[1]))
    assert curve.error.shape == (shape[1] + 1,)
    assert (curve.error.diff() <= 0).all()
    assert curve.error[-1] == 0


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize(("unit_size", "units"), [(1, 9), (3, 4)])
def test_permuting_units_permutes_the_order(unit_size, units, step):
    moments, weight = system(unit_size, units)
    curve = obs_curve(moments, weight, unit_size, RIDGE, step=step)
    permutation = torch.randperm(units, generator=torch.Generator().manual_seed(1))
    channels = (permutation.unsqueeze(1) * unit_size + torch.arange(unit_size)).flatten()
    moments.inputs = moments.inputs[channels][:, channels]
    permuted = obs_curve(moments, weight[:, channels], unit_size, RIDGE, step=step)
    assert permutation[permuted.order].tolist() == curve.order.tolist()
    torch.testing.assert_close(permuted.error, curve.error)


@pytest.mark.parametrize(("unit_size", "units"), [(1, 9), (3, 4)])
def test_units_that_are_always_zero_are_removed_first(unit_size, units):
    moments, weight = system(unit_size, units, dead=2)
    curve = obs_curve(moments, weight, unit_size, ridge=1e-6, step=1)
    assert set(curve.order[:2].tolist()) == {units - 2, units - 1}
    assert float(curve.error[units - 2]) < 1e-4 * float(curve.error[0])


@pytest.mark.parametrize("interval", [1, 7, 256, 10**9])
@pytest.mark.parametrize(("unit_size", "units", "step"), [(1, 300, 32), (1, 40, 3), (3, 5, 1)])
def test_the_update_interval_does_not_change_the_curve(monkeypatch, interval, unit_size, units, step):
    moments, weight = system(unit_size, units)
    expected = obs_curve(moments, weight, unit_size, RIDGE, step)
    monkeypatch.setattr("trimformer.importance.obs.UPDATE_INTERVAL", interval)
    curve = obs_curve(moments, weight, unit_size, RIDGE, step)
    assert curve.order.tolist() == expected.order.tolist()
    torch.testing.assert_close(curve.error, expected.error, rtol=1e-8, atol=1e-10)


def test_a_sublayer_without_influence_on_the_loss_costs_nothing():
    moments = SublayerMoments(torch.zeros(4, 4).double(), torch.zeros(3, 3).double(), 0, 0.0, [])
    curve = obs_curve(moments, torch.randn(3, 4), unit_size=2)
    assert curve.error.tolist() == [0.0] * 3


def test_curvature_of_low_rank_is_enough():
    moments, weight = system(2, 4)
    g = torch.randn(1, 5, dtype=torch.float64)
    moments.gradients, moments.count = g.T @ g, 1
    curve = obs_curve(moments, weight, 2, RIDGE)
    assert float(curve.error[1]) == pytest.approx(brute_force(moments, weight, 2, curve.order[:3].tolist()))


@pytest.mark.parametrize("kept", range(8))
def test_mask_keeps_the_units_removed_last(kept):
    curve = obs_curve(*system(1, 7), 1, RIDGE)  # type: ignore[call-arg]
    mask = curve.mask(kept)
    assert mask.sum() == kept
    assert set(mask.nonzero().flatten().tolist()) == set(curve.order[7 - kept :].tolist())


def test_importance_curve_adds_up_the_least_important():
    curve = importance_curve(torch.tensor([3.0, 1.0, 2.0]))
    assert curve.order.tolist() == [1, 2, 0]
    assert curve.error.tolist() == [6.0, 3.0, 1.0, 0.0]
