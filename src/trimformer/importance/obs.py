"""Optimal Brain Surgeon over the units of one sublayer: a removal order and what each removal costs.

Removing units P and correcting all others as well as can be raises the loss, to second order with the
curvature H (x) G, by e(P) = 1/2 tr(G W_P^T ([H^-1]_PP)^-1 W_P), where W_P [channels of P, hidden] are
P's rows of the transposed output projection. Then W -= H^-1[:, P] ([H^-1]_PP)^-1 W_P, and H^-1 loses
P's rows and columns by the same elimination (Hassibi & Stork 1993; in blocks as in ZipLM, 2023).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trimformer.importance.second_moments import SublayerMoments
from trimformer.utils.linalg import add_ridge

PUT_OFF = 256


@dataclass
class Curve:
    """What pruning a sublayer costs; on the CPU.

    Attributes:
        order: units in the order in which they are best removed, [units].
        error: loss increase per token with k units kept, [units + 1], float64; `error[units]` is 0.
    """

    order: Tensor
    error: Tensor

    def mask(self, units: int) -> Tensor:
        """[units of the dense sublayer], ones for the `units` units that are removed last."""
        mask = torch.ones(len(self.order))
        mask[self.order[: len(self.order) - units]] = 0
        return mask


def importance_curve(importance: Tensor) -> Curve:
    """The curve of independent units: the least important go first, and what they cost adds up."""
    values, order = importance.double().cpu().sort(stable=True)
    return Curve(order, torch.cat([values.new_zeros(1), values.cumsum(0)]).flip(0))


def obs_curve(moments: SublayerMoments, weight: Tensor, unit_size: int, ridge: float = 1e-3, step: int = 32) -> Curve:
    """Greedy removal of all units of a sublayer, cheapest first.

    Args:
        moments: H and G of the sublayer.
        weight: of the output projection, [hidden, channels].
        unit_size: channels per unit. Heads go one by one, neurons `step` at a time.
        ridge: added to H's diagonal, relative to its mean.
        step: neurons removed before the others are looked at again.
    """
    if not weight.shape[1]:
        return importance_curve(weight.new_zeros(0))
    scale = max(moments.weight_sum, 1e-300)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(add_ridge(moments.inputs / scale, ridge)))
    eigenvalues, vectors = torch.linalg.eigh(moments.gradients / max(moments.count, 1))
    root = vectors * eigenvalues.clamp(min=0).sqrt()  # root @ root^T = G
    rows = weight.double().T @ root  # [channels, hidden]; squared norms weigh by G
    left = torch.arange(weight.shape[1] // unit_size, device=weight.device)
    order, increments = [], []
    # What eliminations do to H^-1 is put off, but for its diagonal, until so many channels are gone.
    pending = [inverse.new_empty(0, len(inverse))]  # [removed, channels] each
    diagonal, alive = inverse.diagonal().clone(), torch.ones(len(left), dtype=torch.bool, device=left.device)
    remaining = len(left)
    while remaining:
        cost = _removal_cost(inverse, diagonal, rows, unit_size)  # [units left]
        count = min(remaining, step if unit_size == 1 else 1)
        remaining -= count
        picked = cost.masked_fill(~alive, torch.inf).argsort(stable=True)[:count]
        alive[picked] = False
        out = _channels(picked, unit_size)
        gone = torch.cat(pending)
        block = inverse[out] - gone[:, out].T @ gone  # [removed, channels], as of now
        factor = torch.linalg.cholesky(block[:, out])
        coupling = torch.linalg.solve_triangular(factor, block, upper=False)
        removed = torch.linalg.solve_triangular(factor, rows[out], upper=False)
        # Row i is what removing channel i costs after those before it: the elimination is sequential.
        increments.append(0.5 * removed.square().sum(1).view(count, unit_size).sum(1))
        order.append(left[picked])
        rows -= coupling.T @ removed
        diagonal -= coupling.square().sum(0)
        pending.append(coupling)
        if unit_size > 1 or sum(map(len, pending)) >= PUT_OFF or not remaining:
            kept, gone = _channels(alive.nonzero().flatten(), unit_size), torch.cat(pending)
            inverse = inverse[kept][:, kept] - gone[:, kept].T @ gone[:, kept]
            pending = [inverse.new_empty(0, len(inverse))]
            diagonal, rows, left = inverse.diagonal().clone(), rows[kept], left[alive]
            alive = alive[alive]
    costs = torch.cat(increments)
    return Curve(torch.cat(order).cpu(), torch.cat([costs.new_zeros(1), costs.cumsum(0)]).flip(0).cpu())


def _channels(units: Tensor, unit_size: int) -> Tensor:
    return (units.unsqueeze(1) * unit_size + torch.arange(unit_size, device=units.device)).flatten()


def _removal_cost(inverse: Tensor, diagonal: Tensor, rows: Tensor, unit_size: int) -> Tensor:
    """e(P) of each unit by itself, [units]."""
    if unit_size == 1:
        return 0.5 * rows.square().sum(1) / diagonal
    units = len(rows) // unit_size
    blocks = inverse.view(units, unit_size, units, unit_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    factor = torch.linalg.cholesky(blocks)  # [units, size, size]
    solved = torch.linalg.solve_triangular(factor, rows.view(units, unit_size, -1), upper=False)
    return 0.5 * solved.square().sum((1, 2))
