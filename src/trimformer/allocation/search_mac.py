"""The paper's mask search under a MAC constraint (Kwon et al., section 4.1, algorithm 1)."""

import torch
from torch import Tensor

from trimformer.costs.cost_tables import ROUNDED_UP
from trimformer.errors import UnreachableError


def top_units(importance: list[Tensor], count: int) -> list[Tensor]:
    """Returns masks, [units] per layer, of the `count` most important units of all layers; the first win ties."""
    flat = torch.cat(importance)
    mask = torch.zeros_like(flat)
    mask[flat.sort(descending=True, stable=True).indices[:count]] = 1.0
    return list(mask.split([len(scores) for scores in importance]))


def search_units(
    heads: list[Tensor], neurons: list[Tensor], *, head_cost: float, neuron_cost: float, constraint: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Finds the masks of highest total importance within the budget, for any cost of a head and of a neuron.

    Args:
        heads: importance of heads, [heads] per layer.
        neurons: importance of neurons, [neurons] per layer.
        head_cost: cost of a head.
        neuron_cost: cost of a neuron, in the same unit.
        constraint: fraction of the total cost to keep.

    Returns:
        Head masks and neuron masks, on the CPU.

    Raises:
        UnreachableError: the constraint leaves no unit.
    """
    heads, neurons = [h.cpu() for h in heads], [n.cpu() for n in neurons]
    num_heads, num_neurons = sum(map(len, heads)), sum(map(len, neurons))
    dense = num_heads * head_cost + num_neurons * neuron_cost
    # Rounding must not exclude the last unit where the constraint is met exactly, as at 1.0.
    budget = constraint * dense * ROUNDED_UP
    unit = min((cost for cost, count in ((head_cost, num_heads), (neuron_cost, num_neurons)) if count), default=0.0)
    if budget < unit:
        # Rounded up: the value in the message must be reachable.
        raise UnreachableError("constraint", constraint, 1.005 * unit / dense)

    def gains(importance: list[Tensor], count: int) -> Tensor:
        scores = torch.cat([*importance, torch.empty(0)]).double().sort(descending=True).values
        return torch.cat([scores.new_zeros(1), scores.cumsum(0)])[: count + 1]

    head_gain, neuron_gain = gains(heads, num_heads), gains(neurons, num_neurons)  # [kept + 1]
    kept_heads = torch.arange(min(num_heads, int(budget // head_cost)) + 1, dtype=torch.float64)
    affordable = (budget - kept_heads * head_cost).div(neuron_cost).floor().clamp(0, num_neurons).long()
    gain = head_gain[: len(kept_heads)] + neuron_gain[affordable]
    best = int(gain.eq(gain.max()).nonzero().max())  # most heads win ties, so that 1.0 keeps everything
    return top_units(heads, best), top_units(neurons, int(affordable[best]))
