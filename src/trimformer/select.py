"""From what the calibration pass gathered to one mask per sublayer."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimformer.arch import Sublayer
from trimformer.efficiency.cost import total_cost
from trimformer.fisher import compute_fisher_info
from trimformer.methods import Allocation, Criterion
from trimformer.moments import SublayerMoments
from trimformer.obs import Curve, importance_curve, obs_curve
from trimformer.rearrange import rearrange_mask
from trimformer.search.allocate import allocate
from trimformer.search.mac import search_units

NEURON_MULTIPLE = 32


def magnitude_importance(sublayer: Sublayer) -> Tensor:
    """Sum of squares of all weights of each unit, [units]."""
    rows = sum(p.weight.double().square().sum(1) for p in sublayer.producers)
    columns = sublayer.projection.weight.double().square().sum(0)
    return (rows + columns).view(-1, sublayer.unit_size).sum(1)


def find_curves(
    criterion: Criterion,
    sublayers: Sequence[Sublayer],
    *,
    grads: Sequence[Tensor] = (),
    moments: Sequence[SublayerMoments] = (),
    seed: int = 0,
) -> list[Curve]:
    """One curve per sublayer; it serves every budget.

    Args:
        criterion: what ranks units.
        sublayers: of the dense model.
        grads: mask gradients, for "fisher".
        moments: H and G, for "obs".
        seed: for "random".
    """
    if criterion == "kprune":
        return []  # it scores units as it goes
    if criterion == "obs":
        return [
            obs_curve(m, s.projection.weight.detach(), s.unit_size) for s, m in zip(sublayers, moments, strict=True)
        ]
    if criterion == "fisher":
        scores = [compute_fisher_info(grad) for grad in grads]
    elif criterion == "magnitude":
        scores = [magnitude_importance(s).detach() for s in sublayers]
    else:
        generator = torch.Generator().manual_seed(seed)
        scores = [torch.rand(s.num_units, generator=generator).to(s.projection.weight.device) for s in sublayers]
    return [importance_curve(score) for score in scores]


def select_masks(
    allocation: Allocation,
    sublayers: Sequence[Sublayer],
    curves: Sequence[Curve],
    unit_costs: Sequence[float],
    *,
    constraint: float,
    rearrange_grads: Sequence[Tensor] | None = None,
    neuron_multiple: int = NEURON_MULTIPLE,
) -> list[Tensor]:
    """One mask of zeros and ones per sublayer, together within the budget.

    Args:
        allocation: what shares out the budget.
        sublayers: of the dense model.
        curves: their removal curves.
        unit_costs: of one unit of each sublayer.
        constraint: fraction of the sublayers' total cost to keep.
        rearrange_grads: mask gradients for the paper's rearrangement, or None to leave it out.
        neuron_multiple: "dp" keeps multiples of so many neurons; hardware likes them.

    Raises:
        TrimformerError: the constraint cannot be reached.
    """
    if allocation == "global":
        masks = _search_globally(sublayers, curves, unit_costs, constraint)
    elif allocation == "uniform":
        masks = [curve.mask(int(len(curve.order) * constraint + 1e-9)) for curve in curves]
    else:
        levels = [unit_levels(s, neuron_multiple) for s in sublayers]
        errors = [curve.error.cpu().numpy()[level] for curve, level in zip(curves, levels, strict=True)]
        costs = [level * cost for cost, level in zip(unit_costs, levels, strict=True)]
        chosen = allocate(errors, costs, constraint * total_cost(sublayers, unit_costs))
        masks = [curve.mask(int(level[i])) for curve, level, i in zip(curves, levels, chosen, strict=True)]
    if rearrange_grads is not None:
        masks = [rearrange_mask(mask, grad) for mask, grad in zip(masks, rearrange_grads, strict=True)]
    return masks


def smallest_constraint(
    allocation: Allocation,
    sublayers: Sequence[Sublayer],
    unit_costs: Sequence[float],
    neuron_multiple: int = NEURON_MULTIPLE,
) -> float:
    """The smallest constraint that leaves at least one unit, as a fraction of the total cost."""
    present = [(s, cost) for s, cost in zip(sublayers, unit_costs, strict=True) if s.num_units]
    if allocation == "uniform":
        return min(1 / s.num_units for s, _ in present)
    step = neuron_multiple if allocation == "dp" else 1
    least = min(cost * (min(step, s.num_units) if s.kind == "ffn" else 1) for s, cost in present)
    return least / total_cost(sublayers, unit_costs)


def unit_levels(sublayer: Sublayer, neuron_multiple: int) -> np.ndarray:
    """Numbers of units that a sublayer may keep, from none to all."""
    step = neuron_multiple if sublayer.kind == "ffn" else 1
    return np.unique([*range(0, sublayer.num_units, step), sublayer.num_units])


def _search_globally(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], unit_costs: Sequence[float], constraint: float
) -> list[Tensor]:
    importance = []
    for curve in curves:
        costs = -curve.error.diff().flip(0)  # of each removal, first removal first
        importance.append(torch.empty_like(costs).scatter_(0, curve.order, costs))
    kinds = [s.kind for s in sublayers]
    masks = search_units(
        [i for i, kind in zip(importance, kinds, strict=True) if kind == "attention"],
        [i for i, kind in zip(importance, kinds, strict=True) if kind == "ffn"],
        head_cost=unit_costs[kinds.index("attention")],
        neuron_cost=unit_costs[kinds.index("ffn")],
        constraint=constraint,
    )
    rows = {"attention": iter(masks[0]), "ffn": iter(masks[1])}
    return [next(rows[kind]).float() for kind in kinds]
