"""The paper's mask search under a latency constraint (Kwon et al., section 4.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimformer.costs.cost_tables import ROUNDED_UP, Floats
from trimformer.costs.latency_model import LatencyFn, estimate_latency, fit_latency_fn
from trimformer.errors import UnreachableError

_MAX_ROUNDS = 100


def search_latency(
    head_importance: Tensor | Sequence[Tensor],
    neuron_importance: Tensor | Sequence[Tensor],
    mha_lut: Sequence[float] | Tensor,
    ffn_lut: Sequence[float] | Tensor,
    *,
    constraint: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Finds the masks of highest total importance whose latency does not exceed the constraint.

    A sublayer's latency is modelled as flat up to a threshold, then linear. The search enumerates the numbers of
    attention and feed-forward sublayers to drop. Each remaining sublayer keeps its `threshold` best units for the flat
    latency; the sublayers whose `threshold` best units have the least importance are dropped first. The rest of the
    budget goes to the best of all other units. Unlike in the paper's public code, the importance of the `threshold`
    units counts in the objective too, units of dropped sublayers are not candidates, and the budget is the same for
    every combination. If the table gives the masks a higher latency than the fitted model does, the search is repeated
    with a smaller budget.

    Args:
        head_importance: [heads] per layer.
        neuron_importance: [neurons] per layer.
        mha_lut: entry k - 1 is the latency of an attention sublayer with k heads.
        ffn_lut: entry k - 1 is the latency of a feed-forward sublayer with k neurons.
        constraint: largest latency, as a fraction in (0, 1] of the tables' latency for all units.

    Returns:
        Head masks and neuron masks, one float tensor of zeros and ones per layer.

    Raises:
        UnreachableError: no combination meets the constraint.
    """
    heads, neurons = list(head_importance), list(neuron_importance)
    functions = fit_latency_fn(mha_lut), fit_latency_fn(ffn_lut)
    ones = [[torch.ones_like(scores) for scores in importance] for importance in (heads, neurons)]
    dense = estimate_latency(mha_lut, ffn_lut, *ones)
    allowed = constraint * dense * ROUNDED_UP
    modelled = sum(f(len(scores)) for f, rows in zip(functions, (heads, neurons), strict=True) for scores in rows)
    budget = constraint * modelled * ROUNDED_UP
    for _ in range(_MAX_ROUNDS):
        masks = _search(heads, neurons, *functions, budget)
        if masks is None:
            break
        estimate = estimate_latency(mha_lut, ffn_lut, *masks)
        if estimate <= allowed:
            return masks
        budget *= min(0.999, allowed / estimate)
    # The smallest selection is one sublayer with its `threshold` units. The budget shrinks in steps and may have
    # passed below it, so it is tried once more.
    least = min(f(1) for f, rows in zip(functions, (heads, neurons), strict=True) if any(map(len, rows)))
    masks = _search(heads, neurons, *functions, least * ROUNDED_UP)
    assert masks is not None
    estimate = estimate_latency(mha_lut, ffn_lut, *masks)
    if estimate <= allowed:
        return masks
    # Rounded up: the value in the message must be reachable.
    raise UnreachableError("constraint", constraint, 1.01 * estimate / dense)


class _Candidates:
    """The sublayers of one kind, and the units to keep when the `dropped` least important sublayers are removed."""

    def __init__(self, importance: list[Tensor], function: LatencyFn) -> None:
        self.importance = [scores.double().cpu() for scores in importance]
        self.function = function
        self.best = [scores.argsort(descending=True, stable=True) for scores in self.importance]
        base = [s[b[: function.threshold]].sum() for s, b in zip(self.importance, self.best, strict=True)]
        self.base = torch.stack([*base, torch.zeros((), dtype=torch.float64)])[:-1]
        present = [i for i, scores in enumerate(importance) if len(scores)]
        self.by_base = sorted(present, key=lambda i: float(self.base[i]))

    def extra(self, dropped: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns layer, unit and importance of all units beyond the base, most important first."""
        rest = {i: self.best[i][self.function.threshold :] for i in self.by_base[dropped:]}
        none = torch.empty(0, dtype=torch.long)
        layer = torch.cat([none, *(torch.full_like(units, i) for i, units in rest.items())])
        unit = torch.cat([none, *rest.values()])
        scores = torch.cat([none.double(), *(self.importance[i][units] for i, units in rest.items())])
        order = scores.argsort(descending=True, stable=True)
        return layer[order], unit[order], scores[order]

    def gains(self, dropped: int) -> Floats:
        """Returns the importance kept with the base and n further units, [n + 1]."""
        base = self.base[self.by_base[dropped:]].sum()
        return np.concatenate([[0.0], self.extra(dropped)[2].cumsum(0).numpy()]) + float(base)

    def base_latency(self, dropped: int) -> float:
        """Returns the latency of the remaining sublayers with their base units."""
        return (len(self.by_base) - dropped) * self.function.base

    def masks(self, dropped: int, count: int) -> list[Tensor]:
        """Returns the masks of the base units and `count` further units."""
        masks = [torch.zeros(len(scores)) for scores in self.importance]
        for i in self.by_base[dropped:]:
            masks[i][self.best[i][: self.function.threshold]] = 1.0
        layer, unit, _ = self.extra(dropped)
        for i, j in zip(layer[:count].tolist(), unit[:count].tolist(), strict=True):
            masks[i][j] = 1.0
        return masks


def _affordable(budget: Floats, slope: float, available: int) -> Floats:
    """Returns how many of the available units each budget [n] pays for."""
    if slope <= 0:
        return np.full(len(budget), available)
    return np.clip(budget // slope, 0, available).astype(int)


def _search(
    heads: list[Tensor], neurons: list[Tensor], head_fn: LatencyFn, neuron_fn: LatencyFn, budget: float
) -> tuple[list[Tensor], list[Tensor]] | None:
    attention, ffn = _Candidates(heads, head_fn), _Candidates(neurons, neuron_fn)
    ffn_gains = [ffn.gains(dropped) for dropped in range(len(ffn.by_base) + 1)]
    best, highest = None, -np.inf
    for drop_a in range(len(attention.by_base) + 1):
        head_gain = attention.gains(drop_a)
        for drop_f, neuron_gain in enumerate(ffn_gains):
            if drop_a == len(attention.by_base) and drop_f == len(ffn.by_base):
                continue  # no unit would be left
            rest = budget - attention.base_latency(drop_a) - ffn.base_latency(drop_f)
            if rest < 0:
                continue
            extra_heads = np.arange(_affordable(np.array([rest]), head_fn.slope, len(head_gain) - 1)[0] + 1)
            extra_neurons = _affordable(rest - extra_heads * head_fn.slope, neuron_fn.slope, len(neuron_gain) - 1)
            gain = head_gain[extra_heads] + neuron_gain[extra_neurons]
            # Most heads win ties, so that a constraint of 1 keeps everything.
            most = int(np.flatnonzero(gain == gain.max())[-1])
            if gain[most] > highest:
                highest, best = float(gain[most]), (drop_a, most, drop_f, int(extra_neurons[most]))
    if best is None:
        return None
    drop_a, extra_heads_kept, drop_f, extra_neurons_kept = best
    masks = attention.masks(drop_a, extra_heads_kept), ffn.masks(drop_f, extra_neurons_kept)
    return masks[0], masks[1]
