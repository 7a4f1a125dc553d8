"""Each search on many random cases: within the budget, and as good as the best of all choices."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch

from tests.allocation.brute import Toy, candidate_masks, every_sum, subsets
from tests.hostile.world import FUZZ
from trimformer.allocation.allocations import ffn_levels, select_masks, smallest_constraint, unit_levels
from trimformer.allocation.dynamic_programming import BUCKETS, allocate
from trimformer.allocation.search_latency import search_latency
from trimformer.allocation.search_mac import search_units
from trimformer.costs.latency_model import LatencyFn, estimate_latency, fit_latency_fn
from trimformer.errors import TrimformerError
from trimformer.models import Sublayer
from trimformer.models.plain_config import supports_fewer_heads
from trimformer.options.methods import Allocation

pytestmark = pytest.mark.slow

CASES = 2_000 * FUZZ
ROUNDING = 1e-9  # error of summation order, relative to the budget


def draws() -> Iterator[tuple[int, np.random.Generator]]:
    for case in range(CASES):
        yield case, np.random.default_rng(case)


def drawn_rows(random: np.random.Generator, most: int, fewest: int = 0) -> list[torch.Tensor]:
    """Returns importances of one to three layers of any width; they are integers, so sums are exact."""
    widths = random.integers(fewest, most + 1, random.integers(1, 4))
    return [torch.from_numpy(random.integers(0, 10, width).astype(np.float32)) for width in widths]


def test_the_mac_search_is_within_the_budget_and_the_best_of_all_subsets():
    found = 0
    for case, random in draws():
        heads, neurons = drawn_rows(random, 2), drawn_rows(random, 3)
        scores = torch.cat([*heads, *neurons]).numpy()
        if not len(scores):
            continue
        head_cost, neuron_cost = 10 ** random.uniform(-3, 9, 2)
        costs = np.repeat([head_cost, neuron_cost], [sum(map(len, heads)), sum(map(len, neurons))])
        chosen = subsets(len(scores))
        cost, gain = chosen @ costs, chosen @ scores
        # Some budgets are met exactly.
        constraint = float(random.choice([random.uniform(0, 1), random.choice(cost[1:]) / costs.sum()]))
        budget = constraint * costs.sum()
        try:
            masks = search_units(heads, neurons, head_cost=head_cost, neuron_cost=neuron_cost, constraint=constraint)
        except TrimformerError:
            assert cost[1:].min() > budget * (1 - ROUNDING), case
            continue
        kept = torch.cat([*masks[0], *masks[1]]).numpy()
        assert 0 < kept @ costs <= budget * (1 + ROUNDING), case
        assert kept @ scores >= gain[cost <= budget * (1 - ROUNDING)].max(), case
        found += 1
    assert found > CASES / 2


def test_the_latency_search_is_within_the_budget_of_any_table():
    found = 0
    for case, random in draws():
        heads, neurons = drawn_rows(random, 3), drawn_rows(random, 4)
        luts = [random.uniform(0.1, 100, max(map(len, rows), default=0)) for rows in (heads, neurons)]
        luts = [np.sort(lut) if random.random() < 0.5 else lut for lut in luts]
        dense = estimate_latency(*luts, *([torch.ones_like(row) for row in rows] for rows in (heads, neurons)))
        if not dense:
            continue
        constraint = random.uniform(0, 1)
        try:
            masks = search_latency(heads, neurons, *luts, constraint=constraint)
        except TrimformerError:
            continue
        assert 0 < estimate_latency(*luts, *masks) <= constraint * dense * (1 + ROUNDING), case  # type: ignore[call-arg]
        found += 1
    assert found > CASES / 2


def test_the_latency_search_is_the_best_of_all_where_tables_are_flat_then_linear():
    found = 0
    for case, random in draws():
        rows = drawn_rows(random, 2, fewest=1), drawn_rows(random, 3, fewest=1)
        drawn = [
            LatencyFn(int(random.integers(1, 4)), float(random.integers(1, 10)), float(random.integers(0, 6)))
            for _ in rows
        ]
        luts = [
            [function(k + 1) for k in range(max(map(len, kind)))] for function, kind in zip(drawn, rows, strict=True)
        ]
        fitted = [fit_latency_fn(lut) for lut in luts]  # the same, except for a flat table
        dense = estimate_latency(*luts, *([torch.ones_like(row) for row in kind] for kind in rows))
        constraint = random.uniform(0.02, 1)
        budget = constraint * dense
        choices = [
            np.array(list(candidate_masks([row.tolist() for row in kind], f)))
            for kind, f in zip(rows, fitted, strict=True)
        ]
        gain, cost, left = (every_sum([choice[:, i] for choice in choices]) for i in range(3))
        fits = (cost <= budget * (1 - ROUNDING)) & (left > 0)
        try:
            masks = search_latency(*rows, *luts, constraint=constraint)
        except TrimformerError:
            assert not fits.any(), case
            continue
        assert estimate_latency(*luts, *masks) <= budget * (1 + ROUNDING), case  # type: ignore[call-arg]
        kept = sum(float(mask @ row) for kind in zip(masks, rows, strict=True) for mask, row in zip(*kind, strict=True))
        assert kept >= gain[fits].max(initial=0), case
        found += 1
    assert found > CASES / 2


def test_dynamic_programming_is_within_the_budget_and_the_best_but_for_its_rounding():
    found = 0
    for case, random in draws():
        shapes = random.integers(1, 6, random.integers(1, 5))
        scale = 10 ** random.uniform(-3, 9)
        costs = [scale * np.where(random.random(n) < 0.2, 0.0, random.random(n)) for n in shapes]
        errors = [random.integers(0, 100, n).astype(float) for n in shapes]
        cheapest, dearest = (sum(float(f(cost)) for cost in costs) for f in (np.min, np.max))
        budget = cheapest + random.uniform(-0.1, 1) * (dearest - cheapest)
        buckets = int(random.choice([50, 1000, BUCKETS]))
        try:
            chosen = allocate(errors, costs, budget, buckets)
        except TrimformerError:
            assert cheapest > budget * (1 - ROUNDING) or budget <= 0, case
            continue
        assert sum(float(cost[i]) for cost, i in zip(costs, chosen, strict=True)) <= budget * (1 + ROUNDING), case
        lost = len(shapes) / buckets * (budget - cheapest)
        within = every_sum(costs) <= budget - lost - ROUNDING * budget
        best = every_sum(errors)[within].min(initial=np.inf)
        assert sum(float(error[i]) for error, i in zip(errors, chosen, strict=True)) <= best, case
        found += 1
    assert found > CASES / 2


def least_by_levels(toy: Toy, budget: float, levels_of: Callable[[Sublayer, int], np.ndarray] = unit_levels) -> float:
    """Returns the least predicted loss over all levels of dynamic programming."""
    levels = [levels_of(s, toy.multiple) for s in toy.sublayers]
    cost, error = (
        every_sum([np.asarray(values)[level] for values, level in zip(rows, levels, strict=True)])
        for rows in (toy.costs.levels, [curve.error for curve in toy.curves])
    )
    cheapest = float(cost.min())
    above = budget - toy.costs.fixed - cheapest
    return float(error[cost <= cheapest + above * (1 - len(levels) / BUCKETS) - ROUNDING * budget].min(initial=np.inf))


def least_of_one_width(toy: Toy, budget: float) -> float:
    """Returns the least predicted loss with one head count and one width, and layers of least loss removed."""
    heads, neurons = (toy.sublayers[i].num_units for i in (0, 1))
    layers = len(toy.sublayers) // 2
    price = [float(toy.curves[2 * i].error[0] + toy.curves[2 * i + 1].error[0]) for i in range(layers)]
    order = sorted(range(1, layers), key=lambda i: price[i])
    least = np.inf
    for gone, h, n in product(
        (set(order[:count]) for count in range(layers)),
        range(1 if supports_fewer_heads(toy.sublayers[0]) else heads, heads + 1),
        {*range(toy.multiple, neurons, toy.multiple), neurons},
    ):
        units = [0 if s.layer in gone else h if s.kind == "attention" else n for s in toy.sublayers]
        if toy.costs.of(units) <= budget * (1 - ROUNDING):
            least = min(least, loss(toy, units))
    return least


def least_of_one_share(toy: Toy, budget: float) -> float:
    """Returns the predicted loss if every sublayer keeps the largest affordable share."""
    widths = [s.num_units for s in toy.sublayers]
    shares = {kept / width for width in widths for kept in range(1, width + 1)}
    units = [[int(width * share + 1e-9) for width in widths] for share in shares]
    within = [each for each in units if toy.costs.of(each) <= budget * (1 - ROUNDING)]
    return min((loss(toy, each) for each in within), default=np.inf)


def least_of_all_subsets(toy: Toy, budget: float) -> float:
    """Returns the least predicted loss over all subsets of units."""
    if toy.costs.measured:
        return np.inf  # its model of a table may be coarser than the table
    falls = np.concatenate([-np.diff(curve.error.numpy()) for curve in toy.curves])
    costs = np.concatenate([np.diff(level) for level in toy.costs.levels])
    if len(falls) > 12:
        return np.inf
    classes = len({f"{cost:.9g}" for cost in costs})
    lost = classes / BUCKETS if classes > 2 else 0.0  # lost to the rounding of dynamic programming
    chosen = subsets(len(falls))
    return float(((1 - chosen) @ falls)[chosen @ costs <= budget * (1 - lost - 3 * ROUNDING)].min(initial=np.inf))


def loss(toy: Toy, units: list[int]) -> float:
    return sum(float(curve.error[k]) for curve, k in zip(toy.curves, units, strict=True))


LEAST = {
    "dp": least_by_levels, "plain": least_of_one_width, "uniform": least_of_one_share, "global": least_of_all_subsets,
    "ffn": partial(least_by_levels, levels_of=ffn_levels),
    "threshold": lambda toy, budget: np.inf, "layers": lambda toy, budget: np.inf,  # they follow an order
}  # fmt: skip


@pytest.mark.parametrize("allocation", get_args(Allocation))
def test_an_allocation_is_within_the_budget_and_the_best_of_what_it_chooses_from(allocation):
    found = 0
    for case, random in draws():
        toy = Toy.drawn(random)
        try:
            smallest = smallest_constraint(allocation, toy.sublayers, toy.costs, toy.multiple)
            constraint = min(1.0, smallest * (1 + ROUNDING) + random.uniform(0, 1) * (1 - smallest))
            masks = select_masks(
                allocation, toy.sublayers, toy.curves, toy.costs, constraint=constraint, neuron_multiple=toy.multiple
            )
        except TrimformerError:
            assert allocation == "global", case
            assert toy.costs.measured, case  # its model of a table may be coarser, or all units save no time
            continue
        units = [int(mask.sum()) for mask in masks]
        budget = constraint * toy.costs.dense
        assert toy.costs.of(units) <= budget * (1 + ROUNDING), case
        assert loss(toy, units) <= LEAST[allocation](toy, budget), case
        found += 1
    assert found > CASES / 2
