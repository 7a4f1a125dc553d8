"""Whisper's encoder."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `WhisperEncoderLayer`."""
    heads, size = layer.self_attn, layer.self_attn.head_dim
    yield attention(
        producers(size, heads.q_proj, heads.k_proj, heads.v_proj),
        heads.out_proj,
        size,
        entry=layer.self_attn_layer_norm,
        count_attributes={(heads, "num_heads"): 1},
    )
    yield ffn(producers(1, layer.fc1), layer.fc2, entry=layer.final_layer_norm)
