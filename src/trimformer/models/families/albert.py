"""ALBERT: one layer is called at every depth of its group."""

from collections.abc import Iterator
from typing import Any

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes an `AlbertLayer`.

    Raises:
        TrimformerError: a group has several layers, or groups differ in depth.
    """
    config, heads = layer.config, layer.attention
    if config.inner_group_num != 1 or config.num_hidden_layers % config.num_hidden_groups:
        raise TrimformerError(
            "this ALBERT has several layers per group or groups of different depths; use one with one layer per group "
            "and groups of equal depth"
        )
    size, calls = heads.attention_head_size, config.num_hidden_layers // config.num_hidden_groups
    qkv = producers(size, heads.query, heads.key, heads.value)
    yield attention(qkv, heads.dense, size, entry=heads.query, calls_per_pass=calls)
    yield ffn(producers(1, layer.ffn), layer.ffn_output, entry=layer.ffn, calls_per_pass=calls)
