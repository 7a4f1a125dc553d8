import logging

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from trimformer.utils import linalg
from trimformer.utils.linalg import add_ridge, closed_form_solver, lsmr_cupy_solver, lsmr_solver


def positive(n, seed=0):
    factor = torch.randn(n + 3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor.T @ factor


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_closed_form_equals_numpy(shape, ridge):
    matrix, target = positive(7), torch.randn(shape)
    solution, success = closed_form_solver(matrix, target, ridge)
    ridged = matrix.numpy() + ridge * np.trace(matrix.numpy()) / 7 * np.eye(7)
    assert success
    assert solution.dtype == torch.float64
    np.testing.assert_allclose(solution, np.linalg.solve(ridged, target.double().numpy()), rtol=1e-8)


def test_closed_form_of_a_singular_system_is_a_least_squares_solution():
    x = torch.randn(7, 1, dtype=torch.float64)
    solution, success = closed_form_solver(x @ x.T, 3 * x.flatten())
    assert success
    torch.testing.assert_close(x.flatten() @ solution, torch.tensor(3.0, dtype=torch.float64), rtol=1e-4, atol=0)


def test_closed_form_of_an_indefinite_system_reports_failure():
    solution, success = closed_form_solver(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), torch.ones(2))
    assert not success
    assert solution.tolist() == [0, 0]


def test_closed_form_of_inputs_that_are_all_zero_is_zero():
    solution, success = closed_form_solver(torch.zeros(3, 3), torch.zeros(3))
    assert success
    assert solution.tolist() == [0.0] * 3


def test_add_ridge_leaves_its_argument_alone():
    matrix = positive(3)
    before = matrix.clone()
    assert add_ridge(matrix, 0.5).trace() == pytest.approx(1.5 * float(before.trace()))
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_lsmr_is_the_damped_least_squares_solution_near_one(scale):
    matrix, target = scale * positive(9), scale * torch.randn(9, dtype=torch.float64)
    solution, success = lsmr_solver(matrix, target)
    m, r = matrix.numpy(), target.numpy() - matrix.numpy().sum(1)
    expected = 1 + np.linalg.solve(m.T @ m + np.eye(9), m.T @ r)
    assert success
    np.testing.assert_allclose(solution, expected, rtol=1e-3, atol=1e-3)


def test_lsmr_solution_is_one_where_one_solves_the_system():
    matrix = positive(5)
    solution, _ = lsmr_solver(matrix, matrix.sum(1))  # libraries sum rows in different orders
    assert solution.tolist() == pytest.approx([1.0] * 5, rel=1e-14)


def test_lsmr_that_runs_out_of_iterations_reports_failure(monkeypatch):
    real = scipy.sparse.linalg.lsmr
    monkeypatch.setattr(linalg, "lsmr", lambda *args, **kwargs: real(*args, **{**kwargs, "maxiter": 1}))
    assert lsmr_solver(positive(9), torch.ones(9))[1] is False


def test_cupy_solver_falls_back_to_scipy_with_one_log_line(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    linalg._has_cupy.cache_clear()
    matrix, target = positive(5), torch.ones(5)
    with caplog.at_level(logging.INFO):
        solutions = [lsmr_cupy_solver(matrix, target)[0] for _ in range(2)]
    linalg._has_cupy.cache_clear()
    assert len(caplog.records) == 1
    for solution in solutions:
        assert torch.equal(solution, lsmr_solver(matrix, target)[0])
