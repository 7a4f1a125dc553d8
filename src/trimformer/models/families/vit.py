"""ViT and the models that share its modules: DeiT, ViT-MAE, ViT-MSN, the audio spectrogram transformer, ViViT."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `ViTLayer`."""
    heads, size = layer.attention, layer.attention.head_dim
    qkv = producers(size, heads.q_proj, heads.k_proj, heads.v_proj)
    yield attention(qkv, heads.o_proj, size, entry=layer.layernorm_before)
    yield ffn(producers(1, layer.mlp.fc1), layer.mlp.fc2, entry=layer.layernorm_after)
