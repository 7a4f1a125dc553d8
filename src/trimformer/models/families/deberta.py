"""DeBERTa v2 and v3: query and key projections, or separate ones, also read relative position embeddings."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `DebertaV2Layer`."""
    heads, size = layer.attention.self, layer.attention.self.attention_head_size
    shared = heads.relative_attention and heads.share_att_key
    qk = (Producer(linear, size, reads_only_hidden=not shared) for linear in (heads.query_proj, heads.key_proj))
    names = ("pos_key_proj", "pos_query_proj")
    positions = (Producer(getattr(heads, n), size, reads_only_hidden=False) for n in names if hasattr(heads, n))
    yield attention(
        (Producer(heads.value_proj, size), *qk, *positions),
        layer.attention.output.dense,
        size,
        entry=heads.value_proj,
        count_attributes={(heads, "num_attention_heads"): 1},
    )
    yield ffn(producers(1, layer.intermediate.dense), layer.output.dense, entry=layer.intermediate.dense)
