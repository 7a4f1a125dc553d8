"""Brute-force references for the searches: toy models of any shape, and enumeration of all choices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from trimformer.costs.cost_tables import Costs
from trimformer.costs.latency_model import LatencyFn
from trimformer.importance.obs import Curve


def candidate_masks(rows: Sequence[Sequence[float]], function: LatencyFn) -> Iterator[tuple[float, float, int]]:
    """Yields all masks of one kind that the paper's search may choose, as (importance, latency, sublayers left)."""
    ranked = [sorted(range(len(row)), key=lambda i, row=row: -row[i]) for row in rows]
    base = [sum(row[i] for i in best[: function.threshold]) for row, best in zip(rows, ranked, strict=True)]
    by_base = sorted(range(len(rows)), key=lambda layer: base[layer])
    for dropped in range(len(rows) + 1):
        kept = by_base[dropped:]
        extras = [(layer, unit) for layer in kept for unit in ranked[layer][function.threshold :]]
        for chosen in product([False, True], repeat=len(extras)):
            extra = [pair for pair, taken in zip(extras, chosen, strict=True) if taken]
            gain = sum(base[layer] for layer in kept) + sum(rows[layer][unit] for layer, unit in extra)
            yield gain, len(kept) * function.base + len(extra) * function.slope, len(kept)


@cache
def subsets(count: int) -> np.ndarray:
    """Returns all choices of `count` units, [2^count, count]."""
    return np.array(list(product([0.0, 1.0], repeat=count))).reshape(2**count, count)


def every_sum(values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the sums of all combinations with one value of each array."""
    return sum(np.ix_(*values), np.zeros(()))


def _layer(**config: Any) -> nn.Module:
    layer = nn.Linear(1, 1)
    layer.config = SimpleNamespace(**config)  # type: ignore[assignment]
    return layer


_LAYERS = [_layer(), _layer(head_dim=2)]  # the second's config can express fewer heads


@dataclass(frozen=True)
class Toy:
    """Sublayers of no real model, with random curves and costs.

    Attributes:
        sublayers: attention and feed-forward of each layer in turn.
        curves: removal curves of integers, so that sums are exact.
        costs: proportional to the units, which may cost more after the first layer, or from a table for each kind.
        multiple: the neuron multiple.
    """

    sublayers: list[Any]
    curves: list[Curve]
    costs: Costs
    multiple: int

    @classmethod
    def drawn(cls, random: np.random.Generator) -> "Toy":
        layers, heads, neurons = (int(random.integers(1, most + 1)) for most in (3, 3, 5))
        module = _LAYERS[int(random.integers(2))]
        sublayers, curves = [], []
        for layer in range(layers):
            for kind, units in (("attention", heads), ("ffn", neurons)):
                sublayers.append(SimpleNamespace(kind=kind, layer=layer, num_units=units, module=module))
                falls = random.integers(0, 10, units)  # loss of each removal, in order
                error = np.concatenate([[0], np.sort(falls).cumsum()])[::-1].astype(float)
                curves.append(Curve(torch.from_numpy(random.permutation(units)), torch.from_numpy(error.copy())))
        measured = bool(random.random() < 0.3)
        unit = {kind: float(random.integers(1, 20)) * 10 ** random.uniform(-3, 9) for kind in ("attention", "ffn")}
        tables = {"attention": unit["attention"] * np.arange(heads + 1), "ffn": unit["ffn"] * np.arange(neurons + 1)}
        if measured:  # with flat parts, as on hardware
            tables = {
                kind: random.random() + np.cumsum(random.random(len(t)) * (random.random(len(t)) < 0.6))
                for kind, t in tables.items()
            }
        fixed = float(random.random()) if measured else 0.0
        dearer = 1.0 if measured or random.random() < 0.7 else random.uniform(1, 9)  # the second of two towers
        return cls(
            sublayers,
            curves,
            Costs([tables[s.kind] * (dearer if s.layer else 1.0) for s in sublayers], fixed, measured),
            int(random.choice([1, 2, 3])),
        )
