"""Solvers for the small dense systems of rescaling and reconstruction. All run in float64."""

import importlib.util
import logging
from functools import cache

import numpy as np
import torch
import torch.utils.dlpack
from scipy.sparse.linalg import lsmr
from torch import Tensor

logger = logging.getLogger(__name__)

# scipy and CuPy both report stop codes 0 to 2 for a solution found, 3 and above for a limit reached.
_FIRST_FAILURE = 3


def lsmr_solver(matrix: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """Solves matrix @ x = target near x = 1: damped LSMR for x - 1 (section 4.3, damp 1), on scipy.

    Args:
        matrix: normal equations' matrix A^T A, [units, units].
        target: A^T b, [units].

    Returns:
        x [units], float64, on the device of `matrix`, and whether LSMR converged.
    """
    a, b = matrix.double().cpu().numpy(), target.double().cpu().numpy()
    x, stop, *_ = lsmr(a, b - a.sum(axis=1), damp=1.0, maxiter=5 * len(b))
    return torch.as_tensor(np.asarray(x) + 1.0, device=matrix.device), bool(stop < _FIRST_FAILURE)


def lsmr_cupy_solver(matrix: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """`lsmr_solver` on the GPU by CuPy; on scipy, with one log line, where CuPy or a GPU is missing."""
    if not _has_cupy() or len(target) == 1:  # CuPy's LSMR takes no system of one unknown
        return lsmr_solver(matrix, target)
    import cupy
    from cupyx.scipy.sparse.linalg import lsmr as cupy_lsmr

    a, b = (cupy.from_dlpack(t.detach().double().cuda().contiguous()) for t in (matrix, target))
    x, stop, *_ = cupy_lsmr(a, b - a.sum(axis=1), damp=1.0, maxiter=5 * len(b))
    return torch.utils.dlpack.from_dlpack(x + 1.0).to(matrix.device), bool(stop < _FIRST_FAILURE)


@cache
def _has_cupy() -> bool:
    if importlib.util.find_spec("cupy") is not None and torch.cuda.is_available():
        return True
    logger.info("no CuPy with a CUDA device: LSMR runs on the CPU with scipy")
    return False


def closed_form_solver(matrix: Tensor, target: Tensor, ridge: float = 1e-6) -> tuple[Tensor, bool]:
    """Solves matrix @ x = target by Cholesky, with `ridge` times the mean diagonal added to the diagonal.

    Args:
        matrix: symmetric positive semi-definite, [n, n].
        target: [n] or [n, m].
        ridge: relative to the mean of the diagonal.

    Returns:
        x of the shape of `target`, float64, and whether the factorisation succeeded.
    """
    columns = target.double().reshape(len(target), -1)
    factor, info = torch.linalg.cholesky_ex(add_ridge(matrix, ridge))
    if int(info) != 0:
        return torch.zeros_like(target, dtype=torch.float64), False
    halfway = torch.linalg.solve_triangular(factor, columns, upper=False)  # faster than torch.cholesky_solve
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True).view(target.shape), True


def add_ridge(matrix: Tensor, ridge: float) -> Tensor:
    """`matrix` in float64 with `ridge` times its mean diagonal on the diagonal; 1 if the diagonal is 0."""
    matrix = matrix.double().clone()
    if len(matrix):
        mean = matrix.diagonal().mean()
        matrix.diagonal().add_(torch.where(mean > 0, ridge * mean, 1.0))
    return matrix
