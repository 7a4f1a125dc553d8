"""CLIP, SigLIP and similar models: the text tower, the vision tower, or both."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `CLIPEncoderLayer`."""
    heads, size = layer.self_attn, layer.self_attn.head_dim
    qkv = producers(size, heads.q_proj, heads.k_proj, heads.v_proj)
    yield attention(qkv, heads.out_proj, size, entry=layer.layer_norm1)
    yield ffn(producers(1, layer.mlp.fc1), layer.mlp.fc2, entry=layer.layer_norm2)
