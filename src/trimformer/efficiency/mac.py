"""Multiply-accumulates (MACs) and parameters of sublayers.

Counted as the paper does (section 3.1): encoder layers only, for one sequence of `seq_len` tokens;
embeddings, pooler and task head are left out.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from trimformer.arch import Sublayer


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
    """MACs of an encoder with so many heads and neurons in its layers."""
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
    heads = [int(mask.count_nonzero()) for mask in head_mask]
    neurons = [int(mask.count_nonzero()) for mask in neuron_mask]
    return compute_mac(heads, neurons, seq_len, hidden_size, attention_head_size)


def unit_macs(sublayer: Sublayer, seq_len: float) -> float:
    """MACs of one unit of the sublayer, read off its linear layers."""
    size, hidden_size = sublayer.unit_size, sublayer.projection.out_features
    if sublayer.kind == "attention":
        return mac_per_head(seq_len, hidden_size, size)
    return seq_len * size * (sum(p.in_features for p in sublayer.producers) + hidden_size)


def unit_parameters(sublayer: Sublayer) -> int:
    """Parameters of one unit of the sublayer: producer rows with their biases, and projection columns."""
    rows = sum(p.in_features + (p.bias is not None) for p in sublayer.producers)
    return sublayer.unit_size * (rows + sublayer.projection.out_features)


def model_macs(sublayers: Iterable[Sublayer], seq_len: float) -> float:
    """MACs of all sublayers as they are now, for one sequence."""
    return sum(s.num_units * unit_macs(s, seq_len) for s in sublayers)
