"""DeBERTa v2 and v3: query and key projections, or separate ones, also read relative position embeddings."""

from collections.abc import Iterator
from typing import Any

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `DebertaV2Layer`."""
    heads, size = layer.attention.self, layer.attention.self.attention_head_size
    relative = heads.relative_attention
    shared = relative and heads.share_att_key
    rows = 2 * heads.pos_ebd_size if relative else 0
    qk = (
        Producer(linear, size, reads_only_hidden=not shared, position_rows=rows if shared else 0)
        for linear in (heads.query_proj, heads.key_proj)
    )
    positions = (
        Producer(getattr(heads, name), size, reads_only_hidden=False, reads_hidden=False, position_rows=rows)
        for name in ("pos_key_proj", "pos_query_proj")
        if hasattr(heads, name)
    )
    yield attention(
        (Producer(heads.value_proj, size), *qk, *positions),
        layer.attention.output.dense,
        size,
        entry=heads.value_proj,
        position_products=rows * sum(kind in heads.pos_att_type for kind in ("c2p", "p2c")),
        count_attributes={(heads, "num_attention_heads"): 1},
    )
    yield ffn(producers(1, layer.intermediate.dense), layer.output.dense, entry=layer.intermediate.dense)
