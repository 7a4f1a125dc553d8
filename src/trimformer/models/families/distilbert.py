"""DistilBERT: the output projections are inside the attention and the FFN modules."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `TransformerBlock`."""
    heads, neurons = layer.attention, layer.ffn
    size = heads.attention_head_size
    yield attention(producers(size, heads.q_lin, heads.k_lin, heads.v_lin), heads.out_lin, size, entry=heads.q_lin)
    yield ffn(producers(1, neurons.lin1), neurons.lin2, entry=neurons.lin1)
