"""Solves the small dense linear systems of rescaling and reconstruction, in float64."""

import importlib.util
import logging
from functools import cache

import numpy as np
import torch
import torch.utils.dlpack
from scipy.sparse.linalg import lsmr
from torch import Tensor

logger = logging.getLogger(__name__)

# The LSMR of scipy and CuPy stops with code 0 to 2 at a solution, 3 and above at a limit.
_FIRST_FAILURE = 3


def lsmr_solver(matrix: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """Solves matrix @ x = target near x = 1 by damped LSMR for x - 1 (section 4.3 of the paper, damp 1), with scipy.

    Args:
        matrix: matrix of the normal equations, A^T A, [units, units].
        target: right side of the normal equations, A^T b, [units].

    Returns:
        x [units], float64, on the device of `matrix`, and whether LSMR converged.
    """
    a, b = matrix.double().cpu().numpy(), target.double().cpu().numpy()
    x, stop, *_ = lsmr(a, b - a.sum(axis=1), damp=1.0, maxiter=5 * len(b))
    return torch.as_tensor(np.asarray(x) + 1.0, device=matrix.device), bool(stop < _FIRST_FAILURE)


def lsmr_cupy_solver(matrix: Tensor, target: Tensor) -> tuple[Tensor, bool]:
    """Like `lsmr_solver`, but on the GPU with CuPy; without CuPy or a GPU it logs a line and uses scipy."""
    if not _has_cupy() or len(target) == 1:  # CuPy's LSMR cannot solve for one unknown
        return lsmr_solver(matrix, target)
    import cupy
    from cupyx.scipy.sparse.linalg import lsmr as cupy_lsmr

    a, b = (cupy.from_dlpack(t.detach().double().cuda().contiguous()) for t in (matrix, target))
    x, stop, *_ = cupy_lsmr(a, b - a.sum(axis=1), damp=1.0, maxiter=5 * len(b))
    return torch.utils.dlpack.from_dlpack(x + 1.0).to(matrix.device), bool(stop < _FIRST_FAILURE)


@cache
def _has_cupy() -> bool:
    """Returns whether CuPy and a CUDA device are available."""
    if importlib.util.find_spec("cupy") is not None and torch.cuda.is_available():
        return True
    logger.info("no CuPy with a CUDA device: LSMR runs on the CPU with scipy")
    return False


def closed_form_solver(matrix: Tensor, target: Tensor, ridge: float = 1e-6) -> tuple[Tensor, bool]:
    """Solves matrix @ x = target by Cholesky, with `ridge` times the mean diagonal added to the diagonal.

    Args:
        matrix: symmetric positive semi-definite matrix, [n, n].
        target: right side, [n] or [n, m].
        ridge: ridge relative to the mean of the diagonal.

    Returns:
        x of the shape of `target`, float64, and whether the factorisation succeeded; zeros if not.
    """
    columns = target.double().reshape(len(target), -1)
    factor, info = torch.linalg.cholesky_ex(add_ridge(matrix, ridge))
    if int(info) != 0:
        return torch.zeros_like(target, dtype=torch.float64), False
    halfway = torch.linalg.solve_triangular(factor, columns, upper=False)  # faster than torch.cholesky_solve
    return torch.linalg.solve_triangular(factor.mT, halfway, upper=True).view(target.shape), True


def add_ridge(matrix: Tensor, ridge: float) -> Tensor:
    """Returns `matrix` in float64 plus `ridge` times its mean diagonal on the diagonal, or plus 1 if that mean is 0."""
    matrix = matrix.double().clone()
    if len(matrix):
        mean = matrix.diagonal().mean()
        matrix.diagonal().add_(torch.where(mean > 0, ridge * mean, 1.0))
    return matrix
