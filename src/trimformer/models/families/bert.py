"""BERT and the models that share its modules, with post-norm or pre-norm layers."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from trimformer.models.sublayer import Sublayer, attention, ffn, producers, used_count_attributes


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a post-norm layer."""
    yield from _sublayers(layer, layer.attention.self.query, layer.intermediate.dense)


def bros(layer: Any) -> Iterator[Sublayer]:
    """Describes a `BrosLayer`, whose queries are also multiplied with an embedding of each pair of positions."""
    heads, neurons = sublayers(layer)
    yield from (replace(heads, pair_products=3), neurons)


def pre_norm(layer: Any) -> Iterator[Sublayer]:
    """Describes a pre-norm layer; the name of the norm depends on the model."""
    names = ("self_attn_layer_norm", "ln", "LayerNorm")  # XLM-RoBERTa-XL, Megatron, RoBERTa-PreLayerNorm and ESM
    first = next(getattr(layer.attention, name) for name in names if hasattr(layer.attention, name))
    places = ((part, name) for part in (layer, layer.intermediate) for name in names)
    second = next(getattr(part, name) for part, name in places if hasattr(part, name))
    yield from _sublayers(layer, first, second)


def _sublayers(layer: Any, first: nn.Module, second: nn.Module) -> Iterator[Sublayer]:
    heads, size = layer.attention.self, layer.attention.self.attention_head_size
    counts = used_count_attributes(heads, all_head_size=size, num_attention_heads=1)
    qkv = producers(size, heads.query, heads.key, heads.value)
    yield attention(qkv, layer.attention.output.dense, size, entry=first, count_attributes=counts)
    yield ffn(producers(1, layer.intermediate.dense), layer.output.dense, entry=second)
