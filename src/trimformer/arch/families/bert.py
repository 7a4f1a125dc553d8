"""BERT, and all who share its modules: the norm stands after the residual sum, or before the sublayer."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from trimformer.arch.sublayer import Sublayer, attention, ffn, rows


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Norm after the sum."""
    yield from _sublayers(layer, layer.attention.self.query, layer.intermediate.dense)


def pre_norm(layer: Any) -> Iterator[Sublayer]:
    """Norm before the sublayer, under the name that each family gives it."""
    names = ("self_attn_layer_norm", "ln", "LayerNorm")  # XLM-RoBERTa-XL, Megatron, RoBERTa-PreLayerNorm and ESM
    norms = [next(getattr(part, name) for name in names if hasattr(part, name)) for part in (layer.attention, layer)]
    yield from _sublayers(layer, *norms)


def _sublayers(layer: Any, first: nn.Module, second: nn.Module) -> Iterator[Sublayer]:
    heads, size = layer.attention.self, layer.attention.self.attention_head_size
    yield attention(rows(size, heads.query, heads.key, heads.value), layer.attention.output.dense, size, entry=first)
    yield ffn(rows(1, layer.intermediate.dense), layer.output.dense, entry=second)
