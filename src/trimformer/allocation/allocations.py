"""Allocations: from removal curves and a budget to one mask per sublayer. `ALLOCATIONS` lists them by name."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trimformer.allocation.dynamic_programming import allocate
from trimformer.allocation.rearrange import rearrange_mask
from trimformer.allocation.search_latency import search_latency
from trimformer.allocation.search_mac import search_units, top_units
from trimformer.allocation.search_plain import search_plain, smallest_plain
from trimformer.costs.cost_tables import ROUNDED_UP, Costs, Floats
from trimformer.errors import TrimformerError, UnreachableError
from trimformer.importance.obs import Curve
from trimformer.models import KINDS, Kind, Sublayer
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.methods import Allocation

# (sublayers, their curves, unit costs, constraint, neuron multiple) -> one mask per sublayer.
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
    """Selects one mask of zeros and ones [units] per sublayer, on the CPU, within the budget.

    Args:
        allocation: name of the allocation.
        sublayers: sublayers of the dense model.
        curves: removal curve of each sublayer.
        costs: unit costs.
        constraint: fraction of the dense cost to keep.
        rearrange_grads: mask gradients for the paper's rearrangement; None to skip it.
        neuron_multiple: multiple of the neurons kept by "dp", "ffn" and "plain", as hardware prefers round sizes.

    Raises:
        TrimformerError: the constraint cannot be reached.
    """
    masks = ALLOCATIONS[allocation](sublayers, curves, costs, constraint, neuron_multiple)
    if rearrange_grads is not None:
        masks = [rearrange_mask(mask, grad) for mask, grad in zip(masks, rearrange_grads, strict=True)]
    return masks


def allocate_dp(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Minimizes the predicted loss, by dynamic programming."""
    return _select_units(curves, costs, constraint, [unit_levels(s, neuron_multiple) for s in sublayers])


def allocate_ffn(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Keeps all heads and, in each feed-forward sublayer, some neurons, so that the predicted loss is least."""
    return _select_units(curves, costs, constraint, [ffn_levels(s, neuron_multiple) for s in sublayers])


def _select_units(
    curves: Sequence[Curve], costs: Costs, constraint: float, levels: Sequence[np.ndarray]
) -> list[Tensor]:
    """Selects units of least predicted loss among the levels of each sublayer, without query heads."""
    whole_units = [Curve(curve.order, curve.error) for curve in curves]
    return _select(whole_units, costs, constraint, levels).masks


@dataclass(frozen=True)
class UnitSelection:
    """Selected units, and selected query heads of grouped-query attention.

    Attributes:
        masks: one mask of zeros and ones [units] per sublayer.
        queries: per sublayer, true for query heads that stay, [units, queries]; None where all do.
        cost: cost of the selection.
        predicted: loss increase of each sublayer, by its curve.
    """

    masks: list[Tensor]
    queries: list[Tensor | None]
    cost: float
    predicted: list[float]


def select_queries(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> UnitSelection:
    """Selects units and query heads of least predicted loss, by dynamic programming.

    A level of grouped-query attention is a number of key-value heads and a number of query heads of each.

    Raises:
        TrimformerError: the constraint cannot be reached.
    """
    return _select(curves, costs, constraint, [unit_levels(s, neuron_multiple) for s in sublayers])


def _select(curves: Sequence[Curve], costs: Costs, constraint: float, units: Sequence[np.ndarray]) -> UnitSelection:
    """Selects, for each sublayer, one of its numbers of units, and query heads where its curve has them."""
    variants: list[list[tuple[Curve, Floats, Tensor | None]]] = []
    for curve, level, narrow in zip(curves, costs.levels, costs.narrow or [[]] * len(curves), strict=True):
        fewer = [(n.curve, narrow[int(n.kept[0].sum()) - 1], n.kept) for n in curve.fewer_queries]
        variants.append([(curve, level, None), *fewer])
    errors = [
        np.concatenate([curve.error.cpu().numpy()[kept] for curve, _, _ in each])
        for each, kept in zip(variants, units, strict=True)
    ]
    level_costs = [
        np.concatenate([cost[kept] for _, cost, _ in each]) for each, kept in zip(variants, units, strict=True)
    ]
    with _in_fractions_of_dense(costs, constraint, costs.fixed, 1.0):
        chosen = allocate(errors, level_costs, constraint * costs.dense - costs.fixed)
    masks: list[Tensor] = []
    queries: list[Tensor | None] = []
    for each, kept, i in zip(variants, units, chosen, strict=True):
        variant, place = divmod(i, len(kept))
        masks.append(each[variant][0].mask(int(kept[place])))
        queries.append(each[variant][2] if kept[place] else None)
    cost = costs.fixed + sum(float(level[i]) for level, i in zip(level_costs, chosen, strict=True))
    return UnitSelection(masks, queries, cost, [float(error[i]) for error, i in zip(errors, chosen, strict=True)])


@contextmanager
def _in_fractions_of_dense(costs: Costs, constraint: float, start: float, scale: float) -> Iterator[None]:
    """Restates that a search cannot reach its budget, as a fraction of the dense cost.

    Args:
        costs: unit costs.
        constraint: fraction of the dense cost that was asked for.
        start: cost that the search does not count.
        scale: cost of 1 in the unit of the search.
    """
    try:
        yield
    except UnreachableError as error:
        smallest = (start + error.smallest * scale) / costs.dense
        raise UnreachableError("constraint", constraint, smallest * 1.0005) from None  # rounded up: it can be reached


def allocate_uniform(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Keeps the same share of every sublayer."""
    units = _uniform_units(costs, constraint)
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


def _shares(costs: Costs, share: float) -> list[int]:
    """Returns the units kept if every sublayer keeps this share."""
    return [int((len(level) - 1) * share + 1e-9) for level in costs.levels]


def _uniform_units(costs: Costs, constraint: float) -> list[int]:
    """Returns the units kept by the largest uniform share within the budget."""
    budget = costs.budget(constraint)
    widths = {len(level) - 1 for level in costs.levels}
    for share in sorted({kept / width for width in widths if width for kept in range(width + 1)}, reverse=True):
        units = _shares(costs, share)
        if any(units) and costs.of(units) <= budget:
            return units
    raise TrimformerError(
        f"constraint {constraint:.4g} cannot be reached by the same share of every sublayer; give a larger one"
    )


def allocate_global(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Keeps the most important units of all sublayers: the paper's search, by MACs or by latency."""
    importance: list[Tensor] = []
    tables: dict[Kind, Floats] = {"attention": np.zeros(1), "ffn": np.zeros(1)}  # the longest table of each kind
    for s, curve, level in zip(sublayers, curves, costs.levels, strict=True):
        importance.append(torch.empty_like(curve.increments).scatter_(0, curve.order, curve.increments))
        tables[s.kind] = max(tables[s.kind], level, key=len)
    # The paper's search considers only what units add, so the cost of empty sublayers is subtracted.
    empty = costs.of([0] * len(sublayers))
    if costs.dense <= empty:
        raise TrimformerError("in this latency table removing all units saves no time; measure it again")
    added = costs.dense - empty
    share = (constraint * costs.dense - empty) / added
    classes = _cost_classes(sublayers, costs)
    if not costs.measured and len(classes) > len(KINDS):
        with _in_fractions_of_dense(costs, constraint, empty, 1.0):
            return _search_classes(importance, classes, share * added)
    heads, neurons = ([i for s, i in zip(sublayers, importance, strict=True) if s.kind == kind] for kind in KINDS)
    with _in_fractions_of_dense(costs, constraint, empty, added):
        if costs.measured:
            luts = [tables[kind][1:] - tables[kind][0] for kind in KINDS]
            masks = search_latency(heads, neurons, *luts, constraint=share)
        else:
            # A pruned model may have no unit of a kind; its cost is then irrelevant.
            head_cost, neuron_cost = (
                float(tables[kind][-1]) / (len(tables[kind]) - 1) if len(tables[kind]) > 1 else 1.0 for kind in KINDS
            )
            masks = search_units(heads, neurons, head_cost=head_cost, neuron_cost=neuron_cost, constraint=share)
    masks_of_kind = {"attention": iter(masks[0]), "ffn": iter(masks[1])}
    return [next(masks_of_kind[s.kind]).float() for s in sublayers]


def _cost_classes(sublayers: Sequence[Sublayer], costs: Costs) -> dict[tuple[Kind, float], list[int]]:
    """Groups the indices of sublayers by kind and unit cost; more than two groups occur in models with two towers."""
    classes: dict[tuple[Kind, float], list[int]] = {}
    for i, (s, cost) in enumerate(zip(sublayers, costs.per_unit, strict=True)):
        if s.num_units:
            classes.setdefault((s.kind, float(f"{cost:.12g}")), []).append(i)
    return classes


def _search_classes(
    importance: Sequence[Tensor], classes: Mapping[tuple[Kind, float], Sequence[int]], budget: float
) -> list[Tensor]:
    """Keeps the most important units of each cost class: the paper's search if units of a kind differ in cost."""
    errors: list[Floats] = []
    level_costs: list[Floats] = []
    for (_, cost), members in classes.items():
        scores = torch.cat([importance[i] for i in members]).double().sort().values
        errors.append(torch.cat([scores.new_zeros(1), scores.cumsum(0)]).flip(0).numpy())
        level_costs.append(np.arange(len(scores) + 1, dtype=np.float64) * (cost * ROUNDED_UP))
    masks = [torch.zeros(len(scores)) for scores in importance]
    for members, count in zip(classes.values(), allocate(errors, level_costs, budget * ROUNDED_UP), strict=True):
        for i, mask in zip(members, top_units([importance[i] for i in members], count), strict=True):
            masks[i] = mask.float()
    return masks


def allocate_threshold(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Removes the units of lowest importance anywhere, one by one, until the budget is kept (FLAP, section 3.3)."""
    increments = [curve.increments.numpy() for curve in curves]
    owners = np.concatenate([np.full(len(values), i) for i, values in enumerate(increments)])
    order = np.argsort(np.concatenate(increments), kind="stable")
    units, budget = [s.num_units for s in sublayers], costs.budget(constraint)
    for owner in owners[order]:
        if costs.of(units) <= budget:
            break
        if sum(units) == 1:
            raise TrimformerError(f"constraint {constraint:.4g} leaves no unit; give a larger one")
        units[owner] -= 1
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


def allocate_layers(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Removes whole layers of least importance until the budget is kept (ShortGPT)."""
    layers = sorted({s.layer for s in sublayers})
    loss = {n: sum(float(c.error[0]) for s, c in zip(sublayers, curves, strict=True) if s.layer == n) for n in layers}
    units, budget = [s.num_units for s in sublayers], costs.budget(constraint)
    for layer in sorted(layers, key=lambda n: loss[n])[:-1]:
        if costs.of(units) <= budget:
            break
        units = [0 if s.layer == layer else kept for s, kept in zip(sublayers, units, strict=True)]
    if costs.of(units) > budget:
        raise TrimformerError(f"constraint {constraint:.4g} leaves no whole layer; give a larger one")
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


def allocate_plain(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[Tensor]:
    """Keeps one number of neurons and of heads in all remaining layers, which a family's own config can express."""
    units = search_plain(sublayers, curves, costs, constraint, neuron_multiple)
    return [curve.mask(kept) for curve, kept in zip(curves, units, strict=True)]


ALLOCATIONS: dict[Allocation, Allocate] = {
    "uniform": allocate_uniform,
    "global": allocate_global,
    "threshold": allocate_threshold,
    "layers": allocate_layers,
    "dp": allocate_dp,
    "ffn": allocate_ffn,
    "plain": allocate_plain,
}


def smallest_constraint(
    allocation: Allocation, sublayers: Sequence[Sublayer], costs: Costs, neuron_multiple: int = NEURON_MULTIPLE
) -> float:
    """Returns the smallest constraint that keeps at least one unit, as a fraction of the dense cost.

    Raises:
        TrimformerError: in a latency table, removing all units saves no time.
    """
    if allocation == "ffn":
        least = [cost[ffn_levels(s, neuron_multiple)].min() for s, cost in zip(sublayers, costs.levels, strict=True)]
        return min(1.0, (costs.fixed + float(sum(least))) / costs.dense)
    if allocation == "plain":
        return smallest_plain(sublayers, costs, neuron_multiple)
    if allocation == "uniform":
        return costs.of(_shares(costs, 1 / max(s.num_units for s in sublayers))) / costs.dense
    if allocation == "layers":
        return _dearest_layer(sublayers, costs) / costs.dense
    if allocation == "threshold":  # any unit may be the last one
        return max(costs.of(int(other is s) for other in sublayers) for s in sublayers if s.num_units) / costs.dense
    if allocation == "global" and costs.measured:
        return _smallest_by_latency(sublayers, costs)
    step = neuron_multiple if allocation == "dp" else 1
    cheapest = sum(float(cost.min()) for cost in costs.levels)
    # In a noisy measured table an empty sublayer may cost more than a small one.
    extra = [
        float(cost[min(step if s.kind == "ffn" else 1, s.num_units) :].min() - cost.min())
        for s, cost in zip(sublayers, costs.levels, strict=True)
        if s.num_units
    ]
    return min(1.0, (costs.fixed + cheapest + min(extra)) / costs.dense)


def _smallest_by_latency(sublayers: Sequence[Sublayer], costs: Costs) -> float:
    """Returns the smallest constraint that the paper's search by latency can reach."""
    flat = [Curve(torch.arange(s.num_units), torch.zeros(s.num_units + 1)) for s in sublayers]
    try:
        allocate_global(sublayers, flat, costs, 1e-9, 1)
    except UnreachableError as error:
        return min(1.0, error.smallest)
    return 0.0


def _dearest_layer(sublayers: Sequence[Sublayer], costs: Costs) -> float:
    """Returns the cost of a model of one layer, whichever layer that is."""
    kept = [[s.num_units * (s.layer == layer) for s in sublayers] for layer in {s.layer for s in sublayers}]
    return max(map(costs.of, kept))


def unit_levels(sublayer: Sublayer, neuron_multiple: int) -> np.ndarray:
    """Returns the numbers of units that a sublayer may keep, from none to all."""
    step = neuron_multiple if sublayer.kind == "ffn" else 1
    return np.unique([*range(0, sublayer.num_units, step), sublayer.num_units])


def ffn_levels(sublayer: Sublayer, neuron_multiple: int) -> np.ndarray:
    """Returns the numbers of units that a sublayer may keep if all heads stay, and some neurons in each layer."""
    levels = unit_levels(sublayer, neuron_multiple)
    return levels[-1:] if sublayer.kind == "attention" else levels[-max(1, len(levels) - 1) :]
