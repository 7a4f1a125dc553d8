"""From what the calibration pass gathered to one mask per sublayer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trimformer.arch import Kind, Sublayer
from trimformer.arch.linear import matrix
from trimformer.costs.cost import Costs, Floats
from trimformer.curves.fisher import compute_fisher_info
from trimformer.curves.moments import SublayerMoments
from trimformer.curves.obs import Curve, importance_curve, obs_curve
from trimformer.errors import TrimformerError
from trimformer.methods import Allocation, Criterion
from trimformer.processes import each
from trimformer.select.dynamic import allocate
from trimformer.select.rearrange import rearrange_mask
from trimformer.select.search_latency import search_latency
from trimformer.select.search_mac import search_units

NEURON_MULTIPLE = 32


def magnitude_importance(sublayer: Sublayer) -> Tensor:
    """Sum of squares of all weights of each unit, [units]."""
    units = sublayer.num_units
    squares = [matrix(sublayer.projection).double().square().sum(0).view(units, sublayer.unit_size).sum(1)]
    for producer in sublayer.producers:
        rows = matrix(producer.linear).double().square().sum(1)  # [blocks * units * size]
        squares.append(rows.view(producer.blocks, units, producer.size).sum((0, 2)))
    return torch.stack(squares).sum(0)


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

        def curve(i: int) -> Curve:
            found = obs_curve(moments[i], matrix(sublayers[i].projection).detach(), sublayers[i].unit_size)
            # Curves are per token of the first sublayer: others may see another number of tokens of each sample.
            return replace(found, error=found.error * (moments[i].count / max(moments[0].count, 1)))

        return each(range(len(sublayers)), curve, cost=lambda i: sublayers[i].channels ** 3)
    if criterion == "fisher":
        scores = [compute_fisher_info(grad) for grad in grads]
    elif criterion == "magnitude":
        scores = [magnitude_importance(s).detach() for s in sublayers]
    else:
        generator = torch.Generator().manual_seed(seed)
        scores = [torch.rand(s.num_units, generator=generator) for s in sublayers]
    return [importance_curve(score) for score in scores]


def select_masks(
    allocation: Allocation,
    sublayers: Sequence[Sublayer],
    curves: Sequence[Curve],
    costs: Costs,
    *,
    constraint: float,
    rearrange_grads: Sequence[Tensor] | None = None,
    neuron_multiple: int = NEURON_MULTIPLE,
) -> list[Tensor]:
    """One mask of zeros and ones per sublayer, on the CPU, together within the budget.

    Args:
        allocation: what shares out the budget.
        sublayers: of the dense model.
        curves: their removal curves.
        costs: of their units.
        constraint: fraction of the dense cost to keep.
        rearrange_grads: mask gradients for the paper's rearrangement, or None to leave it out.
        neuron_multiple: "dp" keeps multiples of so many neurons; hardware likes them.

    Raises:
        TrimformerError: the constraint cannot be reached.
    """
    if allocation == "global":
        masks = _search_globally(sublayers, curves, costs, constraint)
    elif allocation == "uniform":
        units = _share_uniformly(costs, constraint)
        masks = [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]
    else:
        levels = [unit_levels(s, neuron_multiple) for s in sublayers]
        errors = [curve.error.cpu().numpy()[level] for curve, level in zip(curves, levels, strict=True)]
        level_costs = [cost[level] for cost, level in zip(costs.levels, levels, strict=True)]
        chosen = allocate(errors, level_costs, constraint * costs.dense - costs.fixed)
        masks = [curve.mask(int(level[i])) for curve, level, i in zip(curves, levels, chosen, strict=True)]
    if rearrange_grads is not None:
        masks = [rearrange_mask(mask, grad) for mask, grad in zip(masks, rearrange_grads, strict=True)]
    return masks


def smallest_constraint(
    allocation: Allocation, sublayers: Sequence[Sublayer], costs: Costs, neuron_multiple: int = NEURON_MULTIPLE
) -> float:
    """The smallest constraint that leaves at least one unit, as a fraction of the dense cost."""
    if allocation == "uniform":
        return costs.of(_shares(costs, 1 / max(s.num_units for s in sublayers))) / costs.dense
    step = neuron_multiple if allocation == "dp" else 1
    cheapest = sum(float(cost.min()) for cost in costs.levels)
    # By noise, a measured table may say that nothing at all costs more than a little.
    extra = [
        float(cost[min(step if s.kind == "ffn" else 1, s.num_units) :].min() - cost.min())
        for s, cost in zip(sublayers, costs.levels, strict=True)
        if s.num_units
    ]
    return min(1.0, (costs.fixed + cheapest + min(extra)) / costs.dense)


def unit_levels(sublayer: Sublayer, neuron_multiple: int) -> np.ndarray:
    """Numbers of units that a sublayer may keep, from none to all."""
    step = neuron_multiple if sublayer.kind == "ffn" else 1
    return np.unique([*range(0, sublayer.num_units, step), sublayer.num_units])


def _shares(costs: Costs, share: float) -> list[int]:
    """Units kept if each sublayer keeps this share of its own."""
    return [int((len(level) - 1) * share + 1e-9) for level in costs.levels]


def _share_uniformly(costs: Costs, constraint: float) -> list[int]:
    """The largest share of every sublayer's units that the budget allows."""
    budget = constraint * costs.dense * (1 + 1e-12)
    widths = {len(level) - 1 for level in costs.levels}
    for share in sorted({kept / width for width in widths if width for kept in range(width + 1)}, reverse=True):
        units = _shares(costs, share)
        if any(units) and costs.of(units) <= budget:
            return units
    raise TrimformerError(f"constraint {constraint:.4g} cannot be reached by the same share of every sublayer")


def _search_globally(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float
) -> list[Tensor]:
    importance: dict[Kind, list[Tensor]] = {"attention": [], "ffn": []}
    tables: dict[Kind, Floats] = {"attention": np.zeros(1), "ffn": np.zeros(1)}  # the longest of a kind holds them all
    for s, curve, level in zip(sublayers, curves, costs.levels, strict=True):
        increments = -curve.error.diff().flip(0)  # of each removal, first removal first
        importance[s.kind].append(torch.empty_like(increments).scatter_(0, curve.order, increments))
        tables[s.kind] = max(tables[s.kind], level, key=len)
    heads, neurons = importance["attention"], importance["ffn"]
    if costs.measured:
        # The paper's search knows only what units add, so the cost of empty sublayers is taken out.
        nothing = costs.of([0] * len(sublayers))
        if costs.dense <= nothing:
            raise TrimformerError("by this latency table dropping everything saves nothing; measure it again")
        share = (constraint * costs.dense - nothing) / (costs.dense - nothing)
        luts = [tables[kind][1:] - tables[kind][0] for kind in ("attention", "ffn")]
        masks = search_latency(heads, neurons, *luts, constraint=share)
    else:
        # A model may have lost all of a kind: what one would cost is not asked then.
        head_cost, neuron_cost = (
            float(tables[kind][-1]) / (len(tables[kind]) - 1) if len(tables[kind]) > 1 else 1.0
            for kind in ("attention", "ffn")
        )
        masks = search_units(heads, neurons, head_cost=head_cost, neuron_cost=neuron_cost, constraint=constraint)
    rows = {"attention": iter(masks[0]), "ffn": iter(masks[1])}
    return [next(rows[s.kind]).float() for s in sublayers]
