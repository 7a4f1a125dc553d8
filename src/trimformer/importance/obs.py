"""Optimal Brain Surgeon over the units of one sublayer: the order of removal and the loss increase of each removal.

Removing the units P and optimally correcting all others raises the loss, to second order with curvature H (x) G, by
e(P) = 1/2 tr(G W_P^T ([H^-1]_PP)^-1 W_P), where W_P [channels of P, hidden] are P's rows of the transposed output
projection. The correction is W -= H^-1[:, P] ([H^-1]_PP)^-1 W_P, and the same elimination removes P's rows and
columns from H^-1 (Hassibi & Stork 1993; in blocks as in ZipLM, 2023).
"""

from dataclasses import dataclass, field, replace

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
        fewer_queries: curves of the sublayer with fewer query heads in every unit; empty without grouped queries.
    """

    order: Tensor
    error: Tensor
    fewer_queries: list["QueryCurve"] = field(default_factory=list)

    @classmethod
    def of(cls, order: Tensor, increments: Tensor) -> "Curve":
        """Returns the curve of losses that add up: the increment [units] of each removal, in order of removal."""
        losses = torch.cat([increments.new_zeros(1), increments.cumsum(0)])
        return cls(order.cpu(), losses.flip(0).cpu())

    @property
    def increments(self) -> Tensor:
        """Loss increase of each removal, in order of removal, [units]."""
        return -self.error.diff().flip(0)

    def scaled(self, factor: float) -> "Curve":
        """Returns the curve with errors times a factor."""
        fewer_queries = [replace(narrow, curve=narrow.curve.scaled(factor)) for narrow in self.fewer_queries]
        return replace(self, error=self.error * factor, fewer_queries=fewer_queries)

    def mask(self, units: int) -> Tensor:
        """Returns the mask [units of the dense sublayer] that keeps the last `units` units of the order."""
        mask = torch.ones(len(self.order))
        mask[self.order[: len(self.order) - units]] = 0
        return mask


@dataclass
class QueryCurve:
    """Removal curve of grouped-query attention that has lost query heads, the same number in every unit.

    Attributes:
        kept: true for query heads that stay, [units, queries of the dense sublayer], on the CPU.
        curve: curve of the units, with the error of the lost query heads in it.
    """

    kept: Tensor
    curve: Curve


def importance_curve(importance: Tensor) -> Curve:
    """Returns the curve of independent units [units]: the least important are removed first, and losses add up."""
    values, order = importance.double().cpu().sort(stable=True)
    return Curve.of(order, values)


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
    return _removal_curve(_mean_inputs(moments), weight.double().T @ _gradient_root(moments), unit_size, ridge, step)


def _mean_inputs(moments: SublayerMoments) -> Tensor:
    """Returns H as a weighted mean over tokens, [channels, channels]."""
    return moments.inputs / max(moments.weight_sum, 1e-300)


def _gradient_root(moments: SublayerMoments) -> Tensor:
    """Returns a root of G as a mean over tokens, [hidden, hidden]: root @ root^T = G."""
    eigenvalues, vectors = torch.linalg.eigh(moments.gradients / max(moments.count, 1))
    return vectors * eigenvalues.clamp(min=0).sqrt()


def _removal_curve(inputs: Tensor, rows: Tensor, unit_size: int, ridge: float, step: int = 32) -> Curve:
    """Removes units greedily; see `obs_curve`.

    Args:
        inputs: H as a mean over tokens, [channels, channels].
        rows: transposed weight times the root of G, [channels, hidden]; changed in place.
        unit_size: see `obs_curve`.
        ridge: see `obs_curve`.
        step: see `obs_curve`.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(add_ridge(inputs, ridge)))
    units = torch.arange(len(rows) // unit_size, device=rows.device)
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
    return Curve.of(torch.cat(order), torch.cat(increments))


def query_curves(
    moments: SublayerMoments, weight: Tensor, unit_size: int, queries: int, ridge: float = 1e-3
) -> list[QueryCurve]:
    """Computes the curves of grouped-query attention with one query head less in every unit, two less, and so on.

    In each step every unit loses the query head that costs least alone; the error is that of all of them together,
    with the best correction of the weights, from which the units' curve goes on.

    Args:
        moments: H and G of the sublayer.
        weight: weight of the output projection, [hidden, channels].
        unit_size: channels per unit.
        queries: query heads per unit.
        ridge: see `obs_curve`.
    """
    size, units = unit_size // queries, weight.shape[1] // unit_size
    root, inputs = _gradient_root(moments), _mean_inputs(moments)
    hessian = add_ridge(inputs, ridge)
    heads = torch.arange(units * queries, device=weight.device).view(units, queries)  # those that are left
    w, lost, curves = weight.double(), 0.0, list[QueryCurve]()
    for left in range(queries - 1 if units else 0, 0, -1):
        channels = unit_channels(heads.flatten(), size)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[channels][:, channels]))
        cost = _removal_cost(inverse, inverse.diagonal(), w.T @ root, size).view(units, left + 1)
        removed = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, cost.argmin(1, keepdim=True), True)
        gone, stays = (unit_channels(mask.flatten().nonzero().flatten(), size) for mask in (removed, ~removed))
        factor = torch.linalg.cholesky(inverse[gone][:, gone])
        correction = torch.cholesky_solve(w[:, gone].T, factor)  # [gone, hidden]
        lost += float(0.5 * ((w[:, gone] @ correction) * (root @ root.T)).sum())
        w = w[:, stays] - (inverse[stays][:, gone] @ correction).T
        heads = heads[~removed].view(units, left)
        kept_channels = unit_channels(heads.flatten(), size)
        curve = _removal_curve(inputs[kept_channels][:, kept_channels], w.T @ root, left * size, ridge)
        kept = torch.zeros(units * queries, dtype=torch.bool)
        kept[heads.flatten().cpu()] = True
        curves.append(QueryCurve(kept.view(units, queries), replace(curve, error=curve.error + lost)))
    return curves


def _removal_cost(inverse: Tensor, diagonal: Tensor, rows: Tensor, unit_size: int) -> Tensor:
    """Computes e(P) of each single unit, [units]."""
    if unit_size == 1:
        return 0.5 * rows.square().sum(1) / diagonal
    units = len(rows) // unit_size
    blocks = inverse.view(units, unit_size, units, unit_size).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    factor = torch.linalg.cholesky(blocks)  # [units, size, size]
    solved = torch.linalg.solve_triangular(factor, rows.view(units, unit_size, -1), upper=False)
    return 0.5 * solved.square().sum((1, 2))
