"""Optimal Brain Surgeon over the units of one sublayer: the order of removal and the loss increase of each removal.

Removing the units P and optimally correcting all others raises the loss, to second order with curvature H (x) G, by
e(P) = 1/2 tr(G W_P^T ([H^-1]_PP)^-1 W_P), where W_P [channels of P, hidden] are P's rows of the transposed output
projection. The correction is W -= H^-1[:, P] ([H^-1]_PP)^-1 W_P, and the same elimination removes P's rows and
columns from H^-1 (Hassibi & Stork 1993; in blocks as in ZipLM, 2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.importance.second_moments import SublayerMoments
from trimformer.models.removal import unit_channels
from trimformer.utils.linalg import add_ridge

# Removed channels after which H^-1 is updated; until then only its diagonal is.
UPDATE_INTERVAL = 256


@dataclass
class Curve:
    """Removal curve of a sublayer, on the CPU.

    Attributes:
        order: units in the order of removal, [units].
        error: loss increase per token with k units kept, [units + 1], float64; `error[units]` is 0.
    """

    order: Tensor
    error: Tensor

    def mask(self, units: int) -> Tensor:
        """Returns the mask [units of the dense sublayer] that keeps the last `units` units of the order."""
        mask = torch.ones(len(self.order))
        mask[self.order[: len(self.order) - units]] = 0
        return mask


def importance_curve(importance: Tensor) -> Curve:
    """Returns the curve of independent units [units]: the least important are removed first, and losses add up."""
    values, order = importance.double().cpu().sort(stable=True)
    return Curve(order, torch.cat([values.new_zeros(1), values.cumsum(0)]).flip(0))


def obs_curve(moments: SublayerMoments, weight: Tensor, unit_size: int, ridge: float = 1e-3, step: int = 32) -> Curve:
    """Computes the curve of greedily removing all units of a sublayer, least loss first.

    Args:
        moments: H and G of the sublayer.
        weight: weight of the output projection, [hidden, channels].
        unit_size: channels per unit. Heads are removed one by one, neurons `step` at a time.
        ridge: added to H's diagonal, relative to its mean.
        step: neurons removed before the costs of the others are computed again.
    """
    if not weight.shape[1]:
        return importance_curve(weight.new_zeros(0))
    scale = max(moments.weight_sum, 1e-300)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(add_ridge(moments.inputs / scale, ridge)))
    eigenvalues, vectors = torch.linalg.eigh(moments.gradients / max(moments.count, 1))
    root = vectors * eigenvalues.clamp(min=0).sqrt()  # root @ root^T = G
    rows = weight.double().T @ root  # [channels, hidden]; G is part of the norm
    units = torch.arange(weight.shape[1] // unit_size, device=weight.device)
    order, increments = [], []
    # The updates of H^-1 that are still to be applied, [removed, channels] each.
    pending = [inverse.new_empty(0, len(inverse))]
    diagonal, alive = inverse.diagonal().clone(), torch.ones(len(units), dtype=torch.bool, device=units.device)
    remaining = len(units)
    while remaining:
        cost = _removal_cost(inverse, diagonal, rows, unit_size)  # [units]
        count = min(remaining, step if unit_size == 1 else 1)
        remaining -= count
        chosen = cost.masked_fill(~alive, torch.inf).argsort(stable=True)[:count]
        alive[chosen] = False
        channels = unit_channels(chosen, unit_size)
        updates = torch.cat(pending)
        block = inverse[channels] - updates[:, channels].T @ updates  # [removed, channels]
        factor = torch.linalg.cholesky(block[:, channels])
        coupling = torch.linalg.solve_triangular(factor, block, upper=False)
        solved = torch.linalg.solve_triangular(factor, rows[channels], upper=False)
        # Elimination is sequential: row i is the cost of channel i after those before it.
        increments.append(0.5 * solved.square().sum(1).view(count, unit_size).sum(1))
        order.append(units[chosen])
        rows -= coupling.T @ solved
        diagonal -= coupling.square().sum(0)
        pending.append(coupling)
        if unit_size > 1 or sum(map(len, pending)) >= UPDATE_INTERVAL or not remaining:
            kept, updates = unit_channels(alive.nonzero().flatten(), unit_size), torch.cat(pending)
            inverse = inverse[kept][:, kept] - updates[:, kept].T @ updates[:, kept]
            pending = [inverse.new_empty(0, len(inverse))]
            diagonal, rows, units = inverse.diagonal().clone(), rows[kept], units[alive]
            alive = alive[alive]
    costs = torch.cat(increments)
    return Curve(torch.cat(order).cpu(), torch.cat([costs.new_zeros(1), costs.cumsum(0)]).flip(0).cpu())


def _removal_cost(inverse: Tensor, diagonal: Tensor, rows: Tensor, unit_size: int) -> Tensor:
    """Computes e(P) of each single unit, [units]."""
    if unit_size == 1:
        return 0.5 * rows.square().sum(1) / diagonal
    units = len(rows) // unit_size
    blocks = inverse.view(units, unit_size, units, unit_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    factor = torch.linalg.cholesky(blocks)  # [units, size, size]
    solved = torch.linalg.solve_triangular(factor, rows.view(units, unit_size, -1), upper=False)
    return 0.5 * solved.square().sum((1, 2))
