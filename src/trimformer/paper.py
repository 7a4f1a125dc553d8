"""The names of the paper's public code, for those who come from it; what only they call is defined here.

from trimformer.paper import collect_mask_grads, search_mac, rearrange_mask, rescale_mask
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from trimformer.allocation.rearrange import rearrange_mask
from trimformer.allocation.search_latency import search_latency
from trimformer.allocation.search_mac import search_units
from trimformer.costs.latency_model import LatencyFn, estimate_latency, fit_latency_fn
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.models import find_layers, find_sublayers
from trimformer.models.layer_calls import LayerObserver, StopForward, named_arguments
from trimformer.models.masking import MaskUnits, frozen, register_mask, units_left
from trimformer.refit.rescale import rescale_mask
from trimformer.utils.linalg import closed_form_solver, lsmr_cupy_solver, lsmr_solver

__all__ = [
    "LatencyFn", "LayerInput", "MaskHeads", "MaskNeurons", "apply_neuron_mask", "closed_form_solver",
    "collect_layer_inputs", "collect_mask_grads", "compute_fisher_info", "compute_mac", "compute_mask_mac",
    "estimate_latency", "fit_latency_fn", "hijack_input", "lsmr_cupy_solver", "lsmr_solver", "mac_per_head",
    "mac_per_neuron", "rearrange_mask", "register_mask", "rescale_mask", "search_latency", "search_mac",
]  # fmt: skip


def hijack_input(module: nn.Module, captured: list[Tensor]) -> RemovableHandle:
    """Appends the module's first input to `captured` at each call until the handle is removed."""

    def capture(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        captured.append(inputs[0])

    return module.register_forward_pre_hook(capture)


class MaskNeurons(MaskUnits):
    """Context manager: masks the neurons of every feed-forward sublayer.

    Args:
        model: a supported model.
        neuron_mask: one mask per layer: [layers, neurons], or a list of [neurons].
    """

    def __init__(self, model: PreTrainedModel, neuron_mask: Tensor | Sequence[Tensor]) -> None:
        super().__init__([s for s in find_sublayers(model) if s.kind == "ffn"], neuron_mask)


class MaskHeads(MaskUnits):
    """Context manager: masks the heads of every attention sublayer; see `MaskNeurons`."""

    def __init__(self, model: PreTrainedModel, head_mask: Tensor | Sequence[Tensor]) -> None:
        super().__init__([s for s in find_sublayers(model) if s.kind == "attention"], head_mask)


def apply_neuron_mask(model: PreTrainedModel, neuron_mask: Tensor | Sequence[Tensor]) -> list[RemovableHandle]:
    """Puts `neuron_mask` on the model until the returned handles are removed; see `MaskNeurons`."""
    ffn = [s for s in find_sublayers(model) if s.kind == "ffn"]
    return [register_mask(s.projection, mask) for s, mask in zip(ffn, neuron_mask, strict=True)]


class LayerInput(NamedTuple):
    """What a layer was called with: hidden states [batch, length, hidden] and its attention mask."""

    hidden: Tensor
    attention_mask: Tensor | None


@torch.no_grad()
def collect_layer_inputs(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], layer: int = 0
) -> Iterator[LayerInput]:
    """Yields the input of one layer for each batch; the forward pass stops there.

    The model is left exactly as it was: no hook stays and no flag changes.

    Args:
        model: a supported model.
        batches: keyword arguments of the model's forward.
        layer: index of the layer from the bottom.
    """
    module = find_layers(model)[layer]
    captured: list[LayerInput] = []

    def capture(_: nn.Module, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        captured.append(LayerInput(hidden, named_arguments(module, args, kwargs).get("attention_mask")))
        raise StopForward

    for batch in batches:
        with frozen(model), LayerObserver([module], capture), suppress(StopForward):
            model(**batch)
        yield captured.pop()


def mac_per_head(seq_len: float, hidden_size: int, attention_head_size: int) -> float:
    """MACs of one head: query, key, value and output projections, scores and weighted sum."""
    return 4 * seq_len * hidden_size * attention_head_size + 2 * seq_len**2 * attention_head_size


def mac_per_neuron(seq_len: float, hidden_size: int) -> float:
    """MACs of one neuron: its row of the first and its column of the second linear layer."""
    return 2 * seq_len * hidden_size


def compute_mac(
    num_heads_per_layer: Iterable[int],
    num_neurons_per_layer: Iterable[int],
    seq_len: float,
    hidden_size: int,
    attention_head_size: int,
) -> float:
    """MACs of an encoder with these numbers of heads and neurons in its layers."""
    heads = sum(num_heads_per_layer) * mac_per_head(seq_len, hidden_size, attention_head_size)
    return heads + sum(num_neurons_per_layer) * mac_per_neuron(seq_len, hidden_size)


def compute_mask_mac(
    head_mask: Tensor | Sequence[Tensor],
    neuron_mask: Tensor | Sequence[Tensor],
    seq_len: float,
    hidden_size: int,
    attention_head_size: int,
) -> float:
    """MACs of an encoder that keeps only the units with a non-zero mask; see `compute_mac`."""
    heads = units_left(head_mask)
    neurons = units_left(neuron_mask)
    return compute_mac(heads, neurons, seq_len, hidden_size, attention_head_size)


def search_mac(
    head_importance: Tensor | Sequence[Tensor],
    neuron_importance: Tensor | Sequence[Tensor],
    *,
    seq_len: float,
    hidden_size: int,
    attention_head_size: int,
    constraint: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Finds the masks of highest total importance whose MACs do not exceed the constraint.

    For every number of heads, the heads of highest importance are kept and what is left of the budget
    is filled with the neurons of highest importance; the best of these is the optimum, as all heads
    cost the same and all neurons cost the same. Unlike the public code, combinations whose heads
    alone exceed the budget are rejected.

    Args:
        head_importance: per layer, [heads] each.
        neuron_importance: per layer, [neurons] each.
        seq_len: average sequence length that MACs are counted for.
        hidden_size: width of the residual stream.
        attention_head_size: width of a head.
        constraint: MACs to keep, as a fraction in (0, 1] of the MACs of all units given.

    Returns:
        Head masks and neuron masks, one float tensor of zeros and ones per layer.

    Raises:
        TrimformerError: not even one unit fits.
    """
    return search_units(
        list(head_importance),
        list(neuron_importance),
        head_cost=mac_per_head(seq_len, hidden_size, attention_head_size),
        neuron_cost=mac_per_neuron(seq_len, hidden_size),
        constraint=constraint,
    )
