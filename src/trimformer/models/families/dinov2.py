"""DINOv2, with and without registers, and DINOv3: plain or gated neurons, and LayerScale after each sublayer."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Sublayer, attention, ffn, producers, used_count_attributes


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `Dinov2Layer` or `DINOv3ViTLayer`."""
    heads, mlp, size = layer.attention, layer.mlp, layer.attention.head_dim
    yield attention(
        producers(size, heads.q_proj, heads.k_proj, heads.v_proj),
        heads.o_proj,
        size,
        entry=layer.norm1,
        output=layer.layer_scale1,
        gain=layer.layer_scale1.lambda1,
        count_attributes=used_count_attributes(heads, num_heads=1, num_attention_heads=1),
    )
    if hasattr(mlp, "fc1"):
        inner, projection = [mlp.fc1], mlp.fc2
    else:
        inner = [getattr(mlp, name) for name in ("gate_proj", "up_proj") if hasattr(mlp, name)]
        projection = mlp.down_proj
    yield ffn(
        producers(1, *inner),
        projection,
        entry=layer.norm2,
        output=layer.layer_scale2,
        gain=layer.layer_scale2.lambda1,
    )
