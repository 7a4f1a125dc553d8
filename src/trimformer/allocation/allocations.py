"""What shares out the budget: from removal curves to one mask per sublayer. An allocation is a row of `ALLOCATIONS`."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from trimformer.allocation.dynamic_programming import allocate
from trimformer.allocation.plain_layout import search_plain, smallest_plain
from trimformer.allocation.rearrange import rearrange_mask
from trimformer.allocation.search_latency import search_latency
from trimformer.allocation.search_mac import search_units, top_units
from trimformer.costs.cost_tables import Costs, Floats
from trimformer.errors import TrimformerError
from trimformer.importance.obs import Curve
from trimformer.models import KINDS, Kind, Sublayer
from trimformer.options.choices import NEURON_MULTIPLE as NEURON_MULTIPLE
from trimformer.options.methods import Allocation

_ROUNDED_UP = 1 + 1e-12  # costs of units are told apart by twelve digits

# (sublayers, their curves, costs of their units, constraint, multiple of neurons) -> one mask per sublayer.
Allocate = Callable[[Sequence[Sublayer], Sequence[Curve], Costs, float, int], list[Tensor]]


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
    masks = ALLOCATIONS[allocation](sublayers, curves, costs, constraint, neuron_multiple)
    if rearrange_grads is not None:
        masks = [rearrange_mask(mask, grad) for mask, grad in zip(masks, rearrange_grads, strict=True)]
    return masks


def share_dynamically(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Least predicted loss, by dynamic programming."""
    levels = [unit_levels(s, neuron_multiple) for s in sublayers]
    errors = [curve.error.cpu().numpy()[level] for curve, level in zip(curves, levels, strict=True)]
    level_costs = [cost[level] for cost, level in zip(costs.levels, levels, strict=True)]
    chosen = allocate(errors, level_costs, constraint * costs.dense - costs.fixed)
    return [curve.mask(int(level[i])) for curve, level, i in zip(curves, levels, chosen, strict=True)]


def share_uniformly(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """The same share of every sublayer."""
    units = _uniform_units(costs, constraint)
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


def _shares(costs: Costs, share: float) -> list[int]:
    """Units kept if each sublayer keeps this share of its own."""
    return [int((len(level) - 1) * share + 1e-9) for level in costs.levels]


def _uniform_units(costs: Costs, constraint: float) -> list[int]:
    """The largest share of every sublayer's units that the budget allows."""
    budget = constraint * costs.dense * (1 + 1e-12)
    widths = {len(level) - 1 for level in costs.levels}
    for share in sorted({kept / width for width in widths if width for kept in range(width + 1)}, reverse=True):
        units = _shares(costs, share)
        if any(units) and costs.of(units) <= budget:
            return units
    raise TrimformerError(f"constraint {constraint:.4g} cannot be reached by the same share of every sublayer")


def search_globally(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """The units of highest importance anywhere: the paper's search, by MACs or by latency."""
    importance: dict[Kind, list[Tensor]] = {"attention": [], "ffn": []}
    tables: dict[Kind, Floats] = {"attention": np.zeros(1), "ffn": np.zeros(1)}  # the longest of a kind holds them all
    for s, curve, level in zip(sublayers, curves, costs.levels, strict=True):
        increments = -curve.error.diff().flip(0)  # of each removal, first removal first
        importance[s.kind].append(torch.empty_like(increments).scatter_(0, curve.order, increments))
        tables[s.kind] = max(tables[s.kind], level, key=len)
    heads, neurons = importance["attention"], importance["ffn"]
    if not costs.measured and len(_classes(sublayers, costs)) > len(KINDS):
        rows = {kind: iter(importance[kind]) for kind in KINDS}
        own = [next(rows[s.kind]) for s in sublayers]
        return _search_classes(own, _classes(sublayers, costs), constraint * costs.dense - costs.fixed)
    if costs.measured:
        # The paper's search knows only what units add, so the cost of empty sublayers is taken out.
        nothing = costs.of([0] * len(sublayers))
        if costs.dense <= nothing:
            raise TrimformerError("by this latency table dropping everything saves nothing; measure it again")
        share = (constraint * costs.dense - nothing) / (costs.dense - nothing)
        luts = [tables[kind][1:] - tables[kind][0] for kind in KINDS]
        masks = search_latency(heads, neurons, *luts, constraint=share)
    else:
        # A model may have lost all of a kind: what one would cost is not asked then.
        head_cost, neuron_cost = (
            float(tables[kind][-1]) / (len(tables[kind]) - 1) if len(tables[kind]) > 1 else 1.0 for kind in KINDS
        )
        masks = search_units(heads, neurons, head_cost=head_cost, neuron_cost=neuron_cost, constraint=constraint)
    found = {"attention": iter(masks[0]), "ffn": iter(masks[1])}
    return [next(found[s.kind]).float() for s in sublayers]


def _classes(sublayers: Sequence[Sublayer], costs: Costs) -> dict[tuple[Kind, float], list[int]]:
    """Sublayers whose units are of one kind and cost the same: two of them, but where two towers see other lengths."""
    classes: dict[tuple[Kind, float], list[int]] = {}
    for i, (s, cost) in enumerate(zip(sublayers, costs.per_unit, strict=True)):
        if s.num_units:
            classes.setdefault((s.kind, float(f"{cost:.12g}")), []).append(i)
    return classes


def _search_classes(
    importance: Sequence[Tensor], classes: Mapping[tuple[Kind, float], Sequence[int]], budget: float
) -> list[Tensor]:
    """The paper's search where units of a kind differ in cost: the best of each class, by dynamic programming."""
    errors: list[Floats] = []
    level_costs: list[Floats] = []
    for (_, cost), members in classes.items():
        scores = torch.cat([importance[i] for i in members]).double().sort().values
        errors.append(torch.cat([scores.new_zeros(1), scores.cumsum(0)]).flip(0).numpy())
        level_costs.append(np.arange(len(scores) + 1, dtype=np.float64) * (cost * _ROUNDED_UP))
    masks = [torch.zeros(len(scores)) for scores in importance]
    for members, count in zip(classes.values(), allocate(errors, level_costs, budget * _ROUNDED_UP), strict=True):
        for i, mask in zip(members, top_units([importance[i] for i in members], count), strict=True):
            masks[i] = mask.float()
    return masks


def share_plainly(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """One number of neurons and of heads for all layers that are left, others left out: what any config can say."""
    units = search_plain(sublayers, curves, costs, constraint, neuron_multiple)
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


ALLOCATIONS: dict[Allocation, Allocate] = {
    "uniform": share_uniformly,
    "global": search_globally,
    "dp": share_dynamically,
    "plain": share_plainly,
}


def smallest_constraint(
    allocation: Allocation, sublayers: Sequence[Sublayer], costs: Costs, neuron_multiple: int = NEURON_MULTIPLE
) -> float:
    """The smallest constraint that leaves at least one unit, as a fraction of the dense cost."""
    if allocation == "plain":
        return smallest_plain(sublayers, costs, neuron_multiple)
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
