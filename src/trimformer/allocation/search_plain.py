"""Searches the sizes that a family's own config can express: one width, one number of heads, fewer layers."""

from collections.abc import Iterator, Sequence

import numpy as np

from trimformer.costs.cost_tables import Costs, Floats
from trimformer.errors import TrimformerError
from trimformer.importance.obs import Curve
from trimformer.models import Sublayer
from trimformer.models.plain_config import removable_layers, supports_fewer_heads


def search_plain(
    sublayers: Sequence[Sublayer], curves: Sequence[Curve], costs: Costs, constraint: float, neuron_multiple: int
) -> list[int]:
    """Finds the number of units of each sublayer with the least predicted loss within the budget.

    Layers are removed in ascending order of their predicted loss; for each number of removed layers, every width and
    number of heads is evaluated.

    Raises:
        TrimformerError: the constraint cannot be reached.
    """
    errors = [curve.error.cpu().numpy() for curve in curves]
    budget = costs.budget(constraint)
    best, least = None, np.inf
    for removed in _removed_layers(sublayers, errors):
        loss, cost, sizes = _grid(sublayers, errors, costs, removed, neuron_multiple)
        loss = np.where(cost <= budget, loss, np.inf)
        if loss.min() < least:
            least, (i, j) = loss.min(), np.unravel_index(loss.argmin(), loss.shape)
            best = _units(sublayers, removed, sizes["attention"][i], sizes["ffn"][j])
    if best is None:
        raise TrimformerError(f"constraint {constraint:.4g} cannot be reached by one width for all layers")
    return best


def smallest_plain(sublayers: Sequence[Sublayer], costs: Costs, neuron_multiple: int) -> float:
    """Returns the smallest constraint that one width for all layers can reach, as a fraction of the dense cost."""
    no_errors = [np.zeros(len(level)) for level in costs.levels]
    removals = _removed_layers(sublayers, no_errors)
    grids = (_grid(sublayers, no_errors, costs, removed, neuron_multiple) for removed in removals)
    return min(float(cost.min()) for _, cost, _ in grids) / costs.dense


def _removed_layers(sublayers: Sequence[Sublayer], errors: Sequence[Floats]) -> Iterator[set[int]]:
    """Yields sets of layers to remove, from none to all removable ones, those of least loss first."""
    losses = dict.fromkeys(removable_layers(sublayers), 0.0)
    for s, error in zip(sublayers, errors, strict=True):
        if s.layer in losses:
            losses[s.layer] += float(error[0])
    order = sorted(losses, key=lambda layer: losses[layer])
    yield from (set(order[:count]) for count in range(len(order) + 1))


def _grid(
    sublayers: Sequence[Sublayer], errors: Sequence[Floats], costs: Costs, removed: set[int], neuron_multiple: int
) -> tuple[Floats, Floats, dict[str, list[int]]]:
    """Computes predicted losses and costs, each [head counts, widths], and returns these head counts and widths too."""
    first = {s.kind: s for s in reversed(sublayers)}
    heads, neurons = first["attention"].num_units, first["ffn"].num_units
    fewest = 1 if supports_fewer_heads(first["attention"]) else heads
    sizes = {
        "attention": list(range(fewest, heads + 1)),
        "ffn": sorted({*range(min(neuron_multiple, neurons), neurons, neuron_multiple), neurons}),
    }
    totals = []
    for values in (errors, costs.levels):
        total = np.zeros((len(sizes["attention"]), len(sizes["ffn"])))
        for s, value in zip(sublayers, values, strict=True):
            selected = value[[0] if s.layer in removed else sizes[s.kind]]
            total += selected[:, None] if s.kind == "attention" else selected[None, :]
        totals.append(total)
    return totals[0], totals[1] + costs.fixed, sizes


def _units(sublayers: Sequence[Sublayer], removed: set[int], heads: int, neurons: int) -> list[int]:
    return [0 if s.layer in removed else heads if s.kind == "attention" else neurons for s in sublayers]
