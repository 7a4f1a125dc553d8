"""Multiply-accumulates (MACs) and parameters of sublayers.

Counted as the paper does (section 3.1): layers only, for one sequence of `seq_len` tokens; embeddings, pooler and task
head are left out. A layer that is called at several depths counts at each of them, its parameters once.
"""

from collections.abc import Sequence

from torch import nn

from trimformer.models import Sublayer
from trimformer.models.layer_calls import Batch, record_calls
from trimformer.models.linear import matrix
from trimformer.models.masking import frozen

# Tokens per sample: the same for all sublayers, or one figure for each.
Lengths = float | Sequence[float]


def unit_macs(sublayer: Sublayer, seq_len: float) -> float:
    """MACs of one unit of the sublayer, read off its linear layers."""
    rows = sum(matrix(p.linear).shape[1] * p.size * p.blocks for p in sublayer.producers)
    macs = seq_len * (rows + sublayer.unit_size * sublayer.hidden_size)
    if sublayer.kind == "attention":
        macs += 2 * seq_len**2 * sublayer.unit_size
    return sublayer.calls_per_pass * macs


def unit_parameters(sublayer: Sublayer) -> int:
    """Parameters of one unit of the sublayer: producer rows with their biases, and projection columns."""
    rows = sum(
        (matrix(p.linear).shape[1] + (p.linear.bias is not None)) * p.size * p.blocks for p in sublayer.producers
    )
    return rows + sublayer.unit_size * sublayer.hidden_size


def per_sublayer(lengths: Lengths, sublayers: Sequence[Sublayer]) -> list[float]:
    """One length for each sublayer."""
    return [lengths] * len(sublayers) if isinstance(lengths, int | float) else list(lengths)


def model_macs(sublayers: Sequence[Sublayer], lengths: Lengths) -> float:
    """MACs of all sublayers as they are now, for one sample."""
    return sum(
        s.num_units * unit_macs(s, length)
        for s, length in zip(sublayers, per_sublayer(lengths, sublayers), strict=True)
    )


def layer_lengths(model: nn.Module, sublayers: Sequence[Sublayer], batch: Batch, seq_len: float) -> list[float]:
    """Returns the positions that each sublayer processes per sample, [sublayers].

    Args:
        model: the dense model.
        sublayers: its sublayers.
        batch: any samples.
        seq_len: tokens of a text, on average; layers that see something else (patches, frames) are measured.
    """
    with frozen(model):
        calls = {call.layer: call for call in record_calls(model, batch)}
    tokens = batch["input_ids"].shape[-1] if "input_ids" in batch else 0
    seen = {layer: call.mask.shape[1] for layer, call in calls.items()}
    choices = {layer: call.mask.shape[0] // len(batch["index"]) for layer, call in calls.items()}
    return [seq_len * choices[s.module] if seen[s.module] == tokens else float(seen[s.module]) for s in sublayers]
