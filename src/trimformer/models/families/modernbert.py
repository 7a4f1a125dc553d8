"""ModernBERT: fused query, key and value, and fused gate and up projections."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `ModernBertEncoderLayer`."""
    heads, size = layer.attn, layer.attn.head_dim
    yield attention(producers(size, heads.Wqkv, blocks=3), heads.Wo, size, entry=layer.attn_norm)
    yield ffn(producers(1, layer.mlp.Wi, blocks=2), layer.mlp.Wo, entry=layer.mlp_norm)
